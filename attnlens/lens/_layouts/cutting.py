"""How an image processor cuts an image into tiles: how many rows and columns, and where the image lies on them.

What is known of an image processor is known of its code, so this is a table of model types: those whose code cuts the
image. Numbers that depend on the image come from the processor's output, or from its own functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnlens._upstream import (
    PREPROCESS,
    fitting_sheet,
    image_code,
    optimal_tiled_canvas,
    planned_windows,
    undistorted_size,
)
from attnlens.errors import AttnLensError
from attnlens.lens._layouts.base import Processed
from attnlens.lens._layouts.canvas import Canvas, Size, steps

_HARMLESS_STEPS = {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "do_image_splitting", "do_pad"}
_METHODS = ("preprocess", PREPROCESS, "resize", "pad", "crop_image_to_patches", "split_images", "get_image_patches")


@dataclass(frozen=True)
class Cut:
    """One image in rows and columns of tiles."""

    rows: int
    cols: int
    sheet: Canvas
    """The image on the tiles laid out side by side; where there are none, on one tile."""
    whole: Canvas
    """The image before it is stretched to the thumbnail."""


def cut(image: Processed, tiles: int, side: Size) -> Cut:
    """How the processor cut `image` into `tiles` pictures of `side` = (width, height), its thumbnail among them or not.

    Raises AttnLensError for an image processor whose code is not known here.
    """
    found = _CUTTERS[family(image.processor, set(_CUTTERS))](image, tiles, side)
    unknown = steps(image.processor) - _HARMLESS_STEPS
    if unknown:
        raise AttnLensError(
            f"{type(image.processor).__name__} has steps that move pixels: {', '.join(sorted(unknown))}. With tiles it "
            "is not known where to. Switch them off in the image processor."
        )
    return found


def family(processor: Any, known: set[str]) -> str:
    """The model type, one of `known`, whose code cuts and places the processor's images."""
    homes = {name: image_code(processor, name) for name in _METHODS if hasattr(processor, name)}
    found = homes.get(PREPROCESS, "")
    strange = {name for name, home in homes.items() if home not in {found, "backends", "utils"}}
    if found not in known or strange:
        own = f"methods of its own: {', '.join(sorted(strange or {PREPROCESS}))}"
        raise AttnLensError(
            f"{type(processor).__name__} has {own}. How it cuts an image into tiles is known for the image processors "
            f"of {', '.join(sorted(known))}. Choose one of these, or another grid kind in the adapter."
        )
    return found


def _stretched(image: Processed, rows: int, cols: int, side: Size) -> Cut:
    whole = Canvas.of(image.size)
    return Cut(rows, cols, whole.resized((cols * side[0], rows * side[1])), whole)


def _by_aspect_ratio(image: Processed, tiles: int, side: Size) -> Cut:
    """The sheet whose aspect ratio suits best; a processor may be called with its cutting switched off."""
    if tiles == 1:
        return _stretched(image, 1, 1, side)
    cols, rows = optimal_tiled_canvas(image.processor, image.size[::-1], side[::-1])
    return _stretched(image, rows, cols, side)


def _by_output(*keys: str) -> Callable[[Processed, int, Size], Cut]:
    """The processor puts out (rows, cols) under one key, or rows and cols under two; 0 where it does not cut."""

    def cutter(image: Processed, tiles: int, side: Size) -> Cut:
        if keys[0] not in image.features and hasattr(image.processor, "get_number_of_image_patches"):
            rows, cols = image.processor.get_number_of_image_patches(*image.size[::-1])[1:]
        else:
            rows, cols = (int(count) for key in keys for count in image.array(key).ravel())
        return _stretched(image, max(rows, 1), max(cols, 1), side)

    return cutter


def _padded_after(image: Processed, tiles: int, side: Size) -> Cut:
    """Llama 4: resized without distortion, and padded on the right and below to fill the tiles."""
    rows, cols = (int(count) for count in image.array("aspect_ratios").ravel())
    width, height = image.size
    sheet = (cols * side[0], rows * side[1])
    limits = sheet
    if not image.processor.resize_to_max_canvas:  # then an image is enlarged up to one tile at most
        limits = (min(max(width, side[1]), sheet[0]), min(max(height, side[1]), sheet[1]))
    fitted = undistorted_size(image.processor, (height, width), limits[::-1])
    whole = Canvas.of(image.size)
    shown = whole.resized((max(fitted[1], 1), max(fitted[0], 1)))
    return Cut(rows, cols, shown.moved(sheet, 0, 0), whole)


def _by_fit(image: Processed, tiles: int, side: Size) -> Cut:
    """Perception LM: a sheet on which the image fits, else the one with the closest aspect ratio."""
    if tiles == 1:  # the thumbnail alone
        return _stretched(image, 1, 1, side)
    cols, rows = fitting_sheet(image.processor, image.size[::-1], side[0])
    return _stretched(image, rows, cols, side)


def _by_window(image: Processed, tiles: int, side: Size) -> Cut:
    """Step 3.7: windows that suit the aspect ratio; narrow strips are padded on the right or below to a square."""
    cols, rows, squared = planned_windows(image.processor, image.size[::-1])
    whole = Canvas.of(image.size)
    if squared:
        whole = whole.moved((max(image.size), max(image.size)), 0, 0)
    return Cut(rows, cols, whole.resized((max(cols, 1) * side[0], max(rows, 1) * side[1])), whole)


_CUTTERS: dict[str, Callable[[Processed, int, Size], Cut]] = {
    "got_ocr2": _by_aspect_ratio,
    "cohere2_vision": _by_aspect_ratio,
    "ovis2": _by_output("grids"),
    "idefics3": _by_output("rows", "cols"),
    "smolvlm": _by_output("rows", "cols"),
    "granite_docling": _by_output("rows", "cols"),
    "llama4": _padded_after,
    "perception_lm": _by_fit,
    "step3p7": _by_window,
}
