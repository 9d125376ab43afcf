"""Folders that hold an adapter of peft's (LoRA and others) instead of a model: its base model is loaded, then it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

from attnlens import upstream
from attnlens.errors import AttnLensError, first_line
from attnlens.lens.checkpoint import check_loaded
from attnlens.lens.objects import unwrapped

FILE = "adapter_config.json"


class Adapter(NamedTuple):
    """What an adapter's folder says about itself."""

    kind: str
    base: str
    revision: str | None
    """Of the base model."""


def adapter_of(name: str, **hub: Any) -> Adapter | None:
    """The adapter that lies in that folder or repository; None where there is none. Raises AttnLensError."""
    settings = upstream.stated_adapter(name, **hub)
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
    """`model`, with the adapter's layers in its own modules. Raises AttnLensError for one that does not fit it."""
    import peft

    try:
        settings = peft.PeftConfig.from_pretrained(name, **hub)
        settings.inference_mode = True
        empty = {"low_cpu_mem_usage": not allow_missing}  # layers of no memory, until their weights are read
        whole = peft.PeftModel(model, settings, **empty)
        inner = unwrapped(whole)
        found = whole.load_adapter(name, "default", torch_device=str(model.device), **empty, **hub)
    except AttnLensError:
        raise
    except Exception as error:  # peft's code for another kind of adapter or model may fail in any way
        raise AttnLensError(
            f"The {adapter.kind} adapter in {name!r} could not be put on {type(model).__name__}, its base model "
            f"{adapter.base!r}: {type(error).__name__}: {first_line(error)}. Load both yourself and hand them over: "
            "attnlens.load(model=peft.PeftModel.from_pretrained(model, folder), processor=processor)."
        ) from error
    if found.unexpected_keys:
        raise AttnLensError(
            f"The {adapter.kind} adapter in {name!r} has {len(found.unexpected_keys)} weights that {adapter.base!r} "
            f"has no place for, such as {found.unexpected_keys[0]}: it is of another model. Correct "
            f"base_model_name_or_path in {FILE}."
        )
    check_loaded(name, found.missing_keys, allow_missing)
    return inner.eval()


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # somebody has hidden it
        return False
