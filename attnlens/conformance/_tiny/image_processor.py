"""The image processor of a model type, set up for a tiny model: a few dozen tokens for a picture of 150 pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from attnlens._upstream import image_processor_names, processor_names
from attnlens.conformance._tiny.config import SIDE, leaves, merge_factor
from attnlens.conformance._tiny.torchvision_shim import image_processor_class
from attnlens.errors import AttnLensError

LEAST_TOKENS, MOST_TOKENS = 4, 48  # of one image, where the processor has a budget
MOST_TILES = 6


def tiny_image_processor(
    model_type: str,
    config: PreTrainedConfig,
    class_name: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """The image processor that transformers has for `model_type` (or `class_name`), fitting the tiny `config`.

    `settings` have the last word. Where transformers has one for torchvision alone, its code runs without torchvision.
    """
    name = class_name or _class_name(model_type)
    made = image_processor_class(name)
    return made(**(_derived(made().to_dict(), config.to_dict()) | dict(settings or {})))


def _class_name(model_type: str) -> str:
    """The type's own, PIL before torchvision; else that of another type with the same processor."""
    processor = processor_names().get(model_type)
    same = [other for other, name in processor_names().items() if processor is not None and name == processor]
    for candidate in (model_type, *same):
        names = image_processor_names().get(candidate) or {}
        found = names.get("pil") or names.get("torchvision")
        if found:
            return found
    raise AttnLensError(
        f"transformers names no image processor for the model type {model_type!r}. Give its class in the adapter, as "
        "tiny: {image_processor: CLIPImageProcessorPil}."
    )


def _derived(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among `defaults` that the tiny config decides."""
    eyes = config.get("vision_config") or config
    known = {**dict(leaves(config)), **dict(leaves(eyes))}
    merge = merge_factor(config)
    strides = known.get("patch_stride")  # of a tower in stages, each of which merges again
    patch = math.prod(strides) if isinstance(strides, list | tuple) else _number(known.get("patch_size")) or 16
    stated = max((_number(value) for key, value in leaves(eyes) if key == "image_size"), default=0)
    side = stated or SIDE * patch * merge
    cell = (defaults.get("spatial_factor") or patch * merge) ** 2
    chosen = {
        "patch_size": patch,
        "merge_size": merge if defaults.get("merge_size") != 1 else 1,
        "temporal_patch_size": known.get("temporal_patch_size"),
        "pooling_kernel_size": known.get("pooling_kernel_size"),
        "image_grid_pinpoints": known.get("image_grid_pinpoints"),
        "max_image_tiles": known.get("max_num_tiles"),
        "min_pixels": LEAST_TOKENS * cell,
        "max_pixels": MOST_TOKENS * cell,
        "min_num_patches": LEAST_TOKENS * merge**2,
        "max_num_patches": MOST_TOKENS * merge**2,
        "min_image_tokens": LEAST_TOKENS,
        "max_image_tokens": MOST_TOKENS,
        "high_res_size": (config.get("high_res_vision_config") or {}).get("image_size"),
        "crop_to_patches": True,
        **dict.fromkeys(("image_size", "crop_size", "max_image_size", "scale_resolution", "tile_size"), side),
        "max_patches": MOST_TILES if defaults.get("max_patches", 0) < 100 else MOST_TOKENS * merge**2,
        **dict.fromkeys(("max_slice_nums", "max_num_tiles", "max_tiles", "max_crops"), MOST_TILES),
    }
    result = {
        key: dict.fromkeys(defaults[key], value) if isinstance(defaults[key], Mapping) else value
        for key, value in chosen.items()
        if value is not None and defaults.get(key) is not None
    }
    size = defaults.get("size")
    if isinstance(size, Mapping) and size.get("longest_edge", 0) > 10_000:  # an area, whatever the keys say
        result["size"] = {"shortest_edge": LEAST_TOKENS * cell, "longest_edge": MOST_TOKENS * cell}
    elif isinstance(size, Mapping) and "min_pixels" not in defaults:
        result["size"] = _size(size, side, bool(stated), tiles=2 if "max_image_size" in defaults else 1)
    return result


def _size(default: Mapping[str, int], side: int, stated: bool, tiles: int) -> dict[str, int]:
    """Sides in pixels. A height and a width are those of the model's input, where its config states any."""
    if {"shortest_edge", "longest_edge"} <= default.keys():
        return {"shortest_edge": side // 2, "longest_edge": side}
    if "shortest_edge" in default or "longest_edge" in default:
        return dict.fromkeys(default, tiles * side)
    return dict.fromkeys(default, side) if stated and "height" in default else dict(default)


def _number(value: Any) -> int:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return first if isinstance(first, int) else 0
