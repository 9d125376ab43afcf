"""What people hand over in memory: the transformers model inside its wrappers, or a word on what is not one."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase

from attnlens.errors import AttnLensError
from attnlens.lens._capture.tracer import inside_nnsight

_LOADED_BY = "as transformers.AutoModelForImageTextToText.from_pretrained loads it"


def unwrapped(model: Any) -> Any:
    """The model itself, out of peft's, nnsight's, torch.compile's and data parallelism's wrappers.

    LoRA layers stay in effect: they lie in the model's own modules. Raises AttnLensError for an adapter that is outside
    of it: virtual tokens in front of every prompt.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(model: Any) -> Any:
    if isinstance(model, DataParallel | DistributedDataParallel):
        return model.module
    if (wrapped := inside_nnsight(model)) is not None:
        return wrapped
    if type(model).__name__ == "OptimizedModule":  # whose module is slow to import
        return model._orig_mod
    wraps = isinstance(model, nn.Module)  # peft's, without importing it
    if wraps and callable(getattr(model, "get_base_model", None)):
        check_adapters(model)
        return model.get_base_model()
    return model.base_model.model if wraps and type(model).__name__ == "PeftMixedModel" else None


def check_adapters(model: Any) -> None:
    """Raises AttnLensError for a PeftModel whose adapter is not in the modules of the model inside."""
    adapters = getattr(model, "peft_config", None)
    for one in adapters.values() if isinstance(adapters, dict) else ():
        if getattr(one, "is_prompt_learning", False):
            kind = str(getattr(one, "peft_type", "prompt tuning")).rsplit(".", 1)[-1]
            raise AttnLensError(
                f"{type(model).__name__} has an adapter of the kind {kind}, which puts virtual tokens before the "
                "prompt: where those look, or are looked at, attnlens cannot tell. LoRA and others that change the "
                "model's own modules are read. Or hand over model.get_base_model(), the model without the adapter."
            )


def check_model(model: Any) -> None:
    """Raises AttnLensError unless it is a transformers model that answers, with its weights."""
    if not isinstance(model, PreTrainedModel):
        hint = "" if not isinstance(model, str) else f" A name goes first: attnlens.load({model!r})."
        raise AttnLensError(f"model= is a {type(model).__name__}; expected a transformers model, {_LOADED_BY}.{hint}")
    if not isinstance(model, GenerationMixin):
        raise AttnLensError(
            f"{type(model).__name__} has no language-model head: it answers no question. Hand over the whole model, "
            f"{_LOADED_BY}; this is what lies in it under .model."
        )
    parameters = list(model.parameters())
    if parameters and all(one.is_meta for one in parameters) and not hasattr(model, "hf_device_map"):
        raise AttnLensError(
            f"The weights of {type(model).__name__} are on the device meta, where there are none. Load them: hand the "
            f"model over {_LOADED_BY} (with nnsight: dispatch=True)."
        )


def check_processor(processor: Any) -> None:
    """Raises AttnLensError unless it makes a model's inputs of images and text."""
    if processor is None:
        raise AttnLensError("model= came without processor=. Give the processor that belongs to the model, too.")
    if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer"):
        return
    lack = "it knows no images" if isinstance(processor, PreTrainedTokenizerBase) else "it lacks one of the two"
    raise AttnLensError(
        f"processor= is a {type(processor).__name__}; expected a processor, which has an image_processor and a "
        f"tokenizer: {lack}. Hand over transformers.AutoProcessor.from_pretrained(...) of the model's folder."
    )
