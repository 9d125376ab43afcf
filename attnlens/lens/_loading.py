"""From a name, a folder, a hub id or objects in memory to a `Lens`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from attnlens import _files, _upstream, _versions, adapters, pocket
from attnlens._devices import dtype_of, to_device
from attnlens.adapters._library import CONFIG_KEY, facts, for_config, from_config
from attnlens.adapters._schema import AdapterSpec
from attnlens.errors import AttnLensError, sentence
from attnlens.lens._checkpoint import finetuned
from attnlens.lens._checkpoint.folder import check_config, check_files, load_weights
from attnlens.lens._checkpoint.objects import check_model, check_processor, unwrapped
from attnlens.lens._checkpoint.processors import fill_in, load_processor
from attnlens.lens._lens import Lens
from attnlens.lens._model.broken import check_runs

ADAPTER_FILE = "attnlens.yaml"  # a model folder may bring its own adapter under this name
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
"""Those of `from_pretrained` that say where files are: they go to config, processor and weights alike."""
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_OURS = ("config", "output_loading_info", "state_dict")  # what `load` itself says to from_pretrained


def load(
    name: str | Path | None = None,
    *,
    model: Any = None,
    processor: Any = None,
    adapter: str | Path | AdapterSpec | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    allow_missing_weights: bool = False,
    **options: Any,
) -> Lens:
    """Load a model to look into, by its name, from a folder or the Hugging Face hub, or one in memory.

    Give either `name`, or `model` and `processor`. Nothing is downloaded under HF_HUB_OFFLINE=1. Versions of
    transformers and others that were not tested are told once, in one line of the log; those that give wrong maps are
    refused.

    Args:
        name: a bundled model ("pocket/llava"), a folder, or a Hugging Face id, of a model or of an adapter of peft's
            (LoRA), whose base model is then loaded, too. None where `model` is given.
        model: a transformers model in memory, also inside a PeftModel, DataParallel, torch.compile or NNsight. None
            where `name` is given.
        processor: the processor of `model`; with a `name`, one to use in place of its own. None loads the one of
            `name`.
        adapter: a name, a path to a YAML file or an `AdapterSpec`. None takes the model folder's own `attnlens.yaml`,
            or what a model that was saved keeps of it in its config, else the adapter for its model type.
        device: where to put the model, such as "cpu" or "cuda"; not together with `device_map`. None leaves it where it
            is.
        dtype: "float32", "bfloat16", ..., or a torch.dtype. None takes the checkpoint's own (of the bundled models:
            float32), and leaves a model in memory as it is.
        trust_remote_code: whether code that comes with the model's files may run, as transformers has it; of no effect
            on a model in memory.
        allow_missing_weights: whether a checkpoint may lack weights of the model. Otherwise it is refused by their
            names.
        **options: all others of transformers' `from_pretrained`, with a `name` only: device_map, quantization_config,
            attn_implementation, ... Those of the hub (revision, token, cache_dir and others) go to config, processor
            and weights alike.

    Returns:
        A `Lens` on the model.

    Raises:
        AttnLensError: for a model that cannot be loaded or lacks weights, one whose family no adapter is for, arguments
            that do not go together, and versions that give wrong maps.

    Examples:
        >>> lens = attnlens.load("pocket/llava")
        >>> reading = lens.read(image)
        >>> lens = attnlens.load("Qwen/Qwen2.5-VL-7B-Instruct", device_map="auto", revision="main")  # doctest: +SKIP
    """
    _versions.announce()
    if (name is None) == (model is None):
        raise AttnLensError("Give either a name (or folder), or model= and processor=; not both, not neither.")
    _check_options(options, device, in_memory=name is None, allowed=allow_missing_weights)
    if name is None:
        model = unwrapped(model)
        check_model(model)
        check_processor(processor)
        return Lens(
            to_device(model, device, None if dtype == "auto" else dtype), processor, _spec(adapter, model.config)
        )
    try:
        return _loaded(str(name), processor, adapter, device, dtype, trust_remote_code, allow_missing_weights, options)
    except AttnLensError:
        raise
    except Exception as error:  # files that anybody made, read by code of every model's own: it may fail in any way
        raise AttnLensError(
            f"The model {str(name)!r} could not be loaded: {sentence(error)} Expected a bundled model "
            f"({', '.join(f'pocket/{n}' for n in pocket.names())}), a folder with config.json, weights and processor, "
            "or a Hugging Face id (downloaded before, or with a network)."
        ) from error


def _loaded(
    name: str,
    processor: Any,
    adapter: str | Path | AdapterSpec | None,
    device: str | None,
    dtype: str | torch.dtype | None,
    trust_remote_code: bool,
    allow_missing: bool,
    options: dict[str, Any],
) -> Lens:
    source, precision = _source(name, dtype)
    hub = {key: options[key] for key in HUB_OPTIONS if key in options}
    _check_folder(source)
    tuned = finetuned.adapter_of(source, **hub)
    base, base_hub = (source, hub) if tuned is None else _base_of(tuned, hub)
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code, **base_hub)
    check_runs(config.model_type)  # before its weights are loaded
    own = _adapter_file(source, base)
    spec = _spec(adapter or own, config)
    if processor is None:
        # A fine-tune may bring its own; else that of what it was made from.
        own_one = tuned is None or any(_upstream.has_file(source, file, **hub) for file in _PROCESSOR_FILES)
        where, there = (source, hub) if own_one else (base, base_hub)
        processor = load_processor(where, trust_remote_code=trust_remote_code, **there)
        fill_in(processor, config)
    check_processor(processor)
    if Path(base).is_dir() and not allow_missing:
        check_config(config, Path(base), trust_remote_code)
    others = {key: value for key, value in options.items() if key not in hub}
    model = load_weights(
        base,
        allow_missing=allow_missing,
        dtype=precision,
        trust_remote_code=trust_remote_code,
        **base_hub,
        **others,
    )
    if own is not None and adapter is None:
        setattr(model.config, CONFIG_KEY, facts(spec))  # which save_pretrained writes, unlike the file
    if tuned is not None:
        model = finetuned.with_adapter(model, source, tuned, allow_missing, hub)
    return Lens(to_device(model, device), processor, spec)


def _source(name: str, dtype: str | torch.dtype | None) -> tuple[str, str | torch.dtype]:
    """Where transformers finds the model of that name, and the dtype to load it in: by default the checkpoint's own."""
    bundled = name.startswith("pocket/")
    wanted = dtype_of(dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
    if bundled:
        return str(pocket.path(name.removeprefix("pocket/"))), wanted or "float32"
    return (str(_files.expanded(name)) if name.startswith("~") else name), wanted or "auto"


def _adapter_file(*folders: str) -> Path | None:
    """The first of the folders' own adapters."""
    return next((path for folder in folders if (path := Path(folder) / ADAPTER_FILE).is_file()), None)


def _base_of(tuned: finetuned.Adapter, hub: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where the base model of an adapter is, and the options of the hub for it."""
    base, _ = _source(tuned.base, None)
    _check_folder(base)
    same = {key: value for key, value in hub.items() if key not in ("revision", "subfolder")}
    return base, same if tuned.revision is None else same | {"revision": tuned.revision}


def _check_folder(source: str) -> None:
    if Path(source).is_dir():
        check_files(Path(source))


def _check_options(options: dict[str, Any], device: Any, *, in_memory: bool, allowed: bool) -> None:
    given = [*options, *(["allow_missing_weights"] if allowed else [])]
    if in_memory and given:
        raise AttnLensError(
            f"{', '.join(f'{key}=' for key in given)} came with model=, which is loaded already. Give them to the "
            "from_pretrained that loads it, or to attnlens.load with a name in place of model=."
        )
    if taken := [key for key in _OURS if key in options]:
        raise AttnLensError(
            f"{taken[0]}= cannot be handed on: attnlens.load reads that from the model's folder itself. Load the model "
            "with transformers, and hand over model= and processor=."
        )
    if device is not None and options.get("device_map") is not None:
        raise AttnLensError(
            f"Both device={device!r} and device_map={options['device_map']!r} were given. Give the one or the other."
        )


def load_config(name: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The config of the model in a folder or on the Hugging Face hub. Raises AttnLensError."""
    _check_folder(str(name))
    try:
        return AutoConfig.from_pretrained(str(name), trust_remote_code=trust_remote_code)
    except Exception as error:  # a config's own code may fail in any way
        raise AttnLensError(
            f"The config of {str(name)!r} could not be read: {sentence(error)} Expected a folder with config.json, "
            "a Hugging Face id (downloaded before, or with a network), or a model type such as llava."
        ) from error


def _spec(adapter: str | Path | AdapterSpec | None, config: Any) -> AdapterSpec:
    """The adapter that is asked for; else what the config keeps of the one its model was loaded with; else the one of
    its type."""
    if adapter is not None:
        return adapters.find(adapter)
    if (kept := getattr(config, CONFIG_KEY, None)) is not None:
        return from_config(kept)
    try:
        return for_config(config)
    except AttnLensError:
        if config.model_type not in _upstream.text_types():
            raise
        raise AttnLensError(
            f"A model of the type {config.model_type!r} reads text alone. Expected one that sees images, too, such as "
            "llava or qwen2_5_vl; or give the adapter that says how this one does: adapter=."
        ) from None
