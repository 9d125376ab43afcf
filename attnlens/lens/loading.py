"""From a name, a folder, a hub id or objects in memory to a `Lens`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText

from attnlens import adapters, files, pocket, versions
from attnlens.adapters.schema import AdapterSpec
from attnlens.errors import AttnLensError, first_line
from attnlens.lens.broken import check_runs
from attnlens.lens.lens import Lens
from attnlens.lens.processors import load_processor

ADAPTER_FILE = "attnlens.yaml"  # a model folder may bring its own adapter under this name


def load(
    name: str | Path | None = None,
    *,
    model: Any = None,
    processor: Any = None,
    adapter: str | Path | AdapterSpec | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Lens:
    """Load a model to look into.

    Either `name`: a bundled model ("pocket/llava"), a folder, or a Hugging Face id; or `model` and `processor`, both
    in memory. `adapter`: a name, a path to a YAML file or an `AdapterSpec`; by default the model folder's own
    `attnlens.yaml`, else the one for its model type. `dtype`: "float32", "bfloat16", ...; by default the checkpoint's
    own (the bundled models: float32). Nothing is downloaded under HF_HUB_OFFLINE=1. Versions of transformers and others
    that were not tested are told once, in one line of the log; those that give wrong maps are refused. Raises
    `AttnLensError`.

        lens = attnlens.load("pocket/llava")
        reading = lens.read("photo.jpg")
    """
    versions.announce()
    if (name is None) == (model is None):
        raise AttnLensError("Give either a name (or folder), or model= and processor=; not both, not neither.")
    if name is None:
        if processor is None:
            raise AttnLensError("model= came without processor=. Give the processor that belongs to the model, too.")
        return Lens(placed(model, device, dtype), processor, _spec(adapter, model.config))
    source, by_default = str(files.expanded(name)) if str(name).startswith("~") else str(name), "auto"
    if source.startswith("pocket/"):
        source, by_default = str(pocket.path(source.removeprefix("pocket/"))), "float32"
    precision = _dtype(dtype) if isinstance(dtype, str) and dtype != "auto" else dtype or by_default
    own = Path(source) / ADAPTER_FILE
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        check_runs(config.model_type)  # before its weights are loaded
        spec = _spec(adapter or (own if own.is_file() else None), config)
        processor = processor or load_processor(source, trust_remote_code=trust_remote_code)
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype=precision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise AttnLensError(
            f"The model {str(name)!r} could not be loaded: {_sentence(error)} Expected a bundled model "
            f"({', '.join(f'pocket/{n}' for n in pocket.names())}), a folder with config.json, weights and processor, "
            "or a Hugging Face id (downloaded before, or with a network)."
        ) from error
    return Lens(placed(model.eval(), device), processor, spec)


def load_config(name: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The config of the model in a folder or on the Hugging Face hub. Raises AttnLensError."""
    try:
        return AutoConfig.from_pretrained(str(name), trust_remote_code=trust_remote_code)
    except Exception as error:  # a config's own code may fail in any way
        raise AttnLensError(
            f"The config of {str(name)!r} could not be read: {_sentence(error)} Expected a folder with config.json, "
            "a Hugging Face id (downloaded before, or with a network), or a model type such as llava."
        ) from error


def _spec(adapter: str | Path | AdapterSpec | None, config: Any) -> AdapterSpec:
    return adapters.for_model_type(config.model_type) if adapter is None else adapters.find(adapter)


def placed(model: Any, device: Any, dtype: str | torch.dtype | None = None) -> Any:
    """The model on that device and in that dtype, where they are given. Raises AttnLensError."""
    if isinstance(dtype, str):
        dtype = _dtype(dtype)
    if device is None and dtype is None:
        return model
    try:
        return model.to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:  # torch's own words for a device that is unknown or not there
        raise AttnLensError(
            f"{type(model).__name__} cannot be put on the device {str(device)!r}: {_sentence(error)} Use cpu, or cuda "
            "with a GPU."
        ) from error


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise AttnLensError(f"The dtype is {name!r}; expected float32, bfloat16 or float16.")
    return found


def _sentence(error: Exception) -> str:
    line = first_line(error)
    return line if line.endswith(".") else f"{line}."
