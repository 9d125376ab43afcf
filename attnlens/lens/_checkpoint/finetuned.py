"""Folders that hold an adapter of peft's (LoRA and others) instead of a model: its base model is loaded, then it."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attnlens import _upstream
from attnlens.errors import AttnLensError, first_line
from attnlens.lens._checkpoint.objects import check_adapters, unwrapped

_log = logging.getLogger("attnlens")

FILE = "adapter_config.json"


class Adapter(NamedTuple):
    """What an adapter's folder says about itself."""

    kind: str
    base: str
    revision: str | None
    """Of the base model."""


def adapter_of(name: str, **hub: Any) -> Adapter | None:
    """The adapter that lies in that folder or repository; None where there is none. Raises AttnLensError."""
    settings = _upstream.stated_adapter(name, **hub)
    if settings is None:
        return None
    kind, base = settings.get("peft_type"), settings.get("base_model_name_or_path")
    if not isinstance(kind, str) or not isinstance(base, str) or not base:
        raise AttnLensError(
            f"{name!r} holds a {FILE}, so it is an adapter of peft's (LoRA and others), but peft_type is {kind!r} and "
            f"base_model_name_or_path {base!r}; expected a kind such as 'LORA' and the base model's name or folder. "
            f"Write them into {FILE}."
        )
    if not _is_there("peft"):
        raise AttnLensError(
            f"{name!r} holds an adapter of the kind {kind} for {base!r} ({FILE}), which takes peft to load: "
            "pip install 'attnlens[peft]'."
        )
    revision = settings.get("revision")
    return Adapter(kind, base, revision if isinstance(revision, str) else None)


def with_adapter(model: Any, name: str, adapter: Adapter, allow_missing: bool, hub: Mapping[str, Any]) -> Any:
    """`model`, with the adapter's layers in its own modules. Raises AttnLensError for one that does not fit it.

    LoRA layers that the adapter names and has no weights for change nothing, and are warned of.
    """
    try:
        whole, found = _wrapped(model, name, hub, empty=True)
        if found.missing_keys and (allow_missing or _changes_nothing(whole, adapter, found.missing_keys)):
            _log.warning(
                "The %s adapter in %r lacks %d of its weights, such as %s: there, its base model is as it was.",
                *(adapter.kind, name, len(found.missing_keys), found.missing_keys[0]),
            )
            whole, found = _wrapped(whole.unload(), name, hub, empty=False)
            found.missing_keys.clear()
    except AttnLensError:
        raise
    except Exception as error:  # peft's code for another kind of adapter or model may fail in any way
        raise AttnLensError(
            f"The {adapter.kind} adapter in {name!r} could not be put on {type(model).__name__}, its base model "
            f"{adapter.base!r}: {type(error).__name__}: {first_line(error)}. Load both yourself and hand them over: "
            "attnlens.load(model=peft.PeftModel.from_pretrained(model, folder), processor=processor)."
        ) from error
    for keys, what in (
        (found.unexpected_keys, "has weights that its base model has no place for"),
        (found.missing_keys, "lacks weights"),
    ):
        if keys:
            raise AttnLensError(
                f"The {adapter.kind} adapter in {name!r} {what}: {len(keys)} of them, such as {keys[0]}. It does not "
                f"belong to {adapter.base!r}, or is not whole: get it again, or correct base_model_name_or_path in "
                f"{FILE}. Missing weights are left out with allow_missing_weights=True (--allow-missing-weights)."
            )
    return unwrapped(whole).eval()


def _wrapped(model: Any, name: str, hub: Mapping[str, Any], empty: bool) -> tuple[Any, Any]:
    """A PeftModel, and the names of what its adapter lacks or has too much.

    `empty`: layers of no memory until their weights are read, as large as a stranger's settings may make them.
    """
    import peft

    settings = peft.PeftConfig.from_pretrained(name, **hub)
    settings.inference_mode = True
    if not empty and hasattr(settings, "init_lora_weights"):
        settings.init_lora_weights = True  # to nothing, not to random numbers, where there are no weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, for peft's authors
        whole = peft.PeftModel(model, settings, low_cpu_mem_usage=empty)
        check_adapters(whole)
        device = str(model.device)
        return whole, whole.load_adapter(name, "default", torch_device=device, low_cpu_mem_usage=empty, **hub)


def _changes_nothing(whole: Any, adapter: Adapter, missing: Sequence[str]) -> bool:
    """Whether whole LoRA layers are missing, not parts of one, and not all."""
    lacking = {key.split(".lora_")[0] for key in missing}
    there = {key.split(".lora_")[0] for key in whole.state_dict() if ".lora_" in key and key not in missing}
    return adapter.kind == "LORA" and bool(there) and not lacking & there


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # somebody has hidden it
        return False
