"""A model and its processor, given as objects or by name."""

from __future__ import annotations

import os
from typing import Any

from attnlens.errors import AttnLensError, first_line


def model_and_processor(
    model: Any, processor: Any, model_class: str, processor_class: str, device: Any = None
) -> tuple[Any, Any]:
    """The two, loaded by the transformers classes of these names where `model` is a folder or a Hugging Face id.

    The model is put into eval mode and on `device`; None: it stays where it is, which is the CPU for one just loaded.
    """
    import transformers

    from attnlens._devices import to_device

    if not isinstance(model, str | os.PathLike):
        if processor is None:
            raise AttnLensError(
                f"{type(model).__name__} came without processor=. Give the processor that belongs to it, too, or the "
                "name or folder that holds both."
            )
        return to_device(model.eval(), device), processor
    name = os.fspath(model)
    try:
        loaded = getattr(transformers, model_class).from_pretrained(name)
        if processor is None:
            processor = getattr(transformers, processor_class).from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise AttnLensError(
            f"{name!r} could not be loaded ({model_class}: {first_line(error)}). Expected a folder with config.json, "
            "weights and processor, a Hugging Face id (downloaded before, or with a network), or model= and processor= "
            "in memory."
        ) from error
    return to_device(loaded.eval(), device), processor


def picture_inputs(processor: Any, model: Any, image: Any) -> dict[str, Any]:
    """The tensors that `processor` makes of an image (or a list), with the pixels as the model takes them."""
    try:
        features = processor(images=image, return_tensors="pt")
    except ValueError as error:
        raise AttnLensError(
            f"{type(processor).__name__} cannot prepare this image: {error} Very long and narrow images are the usual "
            "reason; cut or pad it first."
        ) from error
    return {**features, "pixel_values": features["pixel_values"].to(model.device, model.dtype)}
