"""The inputs of a prompt's images, made one by one and put together as an image processor does for all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnlens.adapters._schema import PromptSpec


def as_prompt_images(images: Sequence[Any], spec: PromptSpec) -> list[Any]:
    """A prompt's images as its image processor takes them: a list, or the list of a prompt in one of all prompts."""
    return [list(images)] if spec.image_axis else list(images)


def features_of(made: Any, spec: PromptSpec) -> dict[str, Any]:
    """What an image processor hands back, as a dict; pixels with an axis of prompts where the model wants one.

    That of Idefics hands back the bare pixels.
    """
    features = {spec.pixels: made} if isinstance(made, Tensor) else dict(made)
    pixels = features.get(spec.pixels)
    if spec.image_axis == 1 and isinstance(pixels, Tensor) and pixels.dim() == 4:
        features[spec.pixels] = pixels[None]
    return features


def concat_images(features: Sequence[dict[str, Any]], spec: PromptSpec) -> dict[str, Any]:
    """The inputs of several images, one after the other; smaller ones are padded with zeros at the end."""
    features = _counted_on(features, spec)
    keys = dict.fromkeys(key for one in features for key in one)  # an image without tiles may lack their key
    return {key: _concatenated([one[key] for one in features if key in one], _axis(key, spec)) for key in keys}


def _axis(key: str, spec: PromptSpec) -> int:
    return spec.pixel_axis if key == spec.pixels and spec.pixel_axis is not None else spec.image_axis


def _counted_on(features: Sequence[dict[str, Any]], spec: PromptSpec) -> list[dict[str, Any]]:
    """The numbers of each image's patches go on where those of the image before it end."""
    if spec.patch_numbers is None:
        return list(features)
    found, before = [], 0
    for one in features:
        numbers = one[spec.patch_numbers]
        found.append({**one, spec.patch_numbers: torch.where(numbers >= 0, numbers + before, numbers)})
        before += one[spec.pixels].shape[0] * one[spec.pixels].shape[1]
    return found


def split_by_image(features: Sequence[dict[str, Any]], spec: PromptSpec) -> list[dict[str, Any]]:
    """Each image's part of what is joined: its own features, padded as they are beside the others."""
    together = concat_images(features, spec)
    if len(features) == 1:
        return [together]
    parts: list[dict[str, Any]] = [{} for _ in features]
    for key, whole in together.items():
        values = [one.get(key) for one in features]
        split: Sequence[Any] = values
        if isinstance(whole, Tensor) and whole.dim() and all(isinstance(value, Tensor) for value in values):
            along = min(_axis(key, spec), whole.dim() - 1)
            split = whole.split([one[key].shape[along] for one in features], dim=along)
        for part, value in zip(parts, split, strict=True):
            part[key] = value
    return parts


def _concatenated(values: Sequence[Any], axis: int) -> Any:
    if len(values) == 1:
        return values[0]
    if all(isinstance(value, Tensor) for value in values):
        if not values[0].dim():
            return max(values)  # such as the number of crops that a prompt's images have at most
        axis = min(axis, values[0].dim() - 1)
        sides = [max(lengths) for lengths in zip(*(value.shape for value in values), strict=True)]
        return torch.cat([_padded(value, sides, axis) for value in values], dim=axis)
    if all(isinstance(value, list) for value in values):
        if axis and all(len(value) == 1 and isinstance(value[0], list) for value in values):
            return [[one for value in values for one in value[0]]]
        return [one for value in values for one in value]
    return values[0]


def _padded(value: Tensor, sides: Sequence[int], axis: int) -> Tensor:
    """Zeros at the far end of every axis but `axis`, as image processors pad a batch."""
    missing = [side - length for side, length in zip(sides, value.shape, strict=True)]
    missing[axis] = 0
    if not any(missing):
        return value
    return pad(value, [amount for side in reversed(missing) for amount in (0, side)])


def on_device(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """`inputs` where the model is; pixels and other real numbers in its dtype. What is no tensor stays as it is."""
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for key, value in inputs.items()
    }
