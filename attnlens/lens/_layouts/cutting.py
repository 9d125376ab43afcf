"""How image processors cut an image into tiles, or pictures: how many, and where the image lies on them.

Numbers that depend on the image come from the processor's output, or from its own functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnlens._upstream import (
    best_resolution,
    fitting_sheet,
    optimal_tiled_canvas,
    padding_before,
    planned_windows,
    size_on_sheet,
    undistorted_size,
)
from attnlens.lens._layouts.base import Processed
from attnlens.lens._layouts.canvas import Canvas, Size


@dataclass(frozen=True)
class Cut:
    """One image in rows and columns of tiles."""

    rows: int
    cols: int
    sheet: Canvas
    """The image on the tiles laid out side by side; where there are none, on one tile."""
    whole: Canvas
    """The image before it is stretched to the thumbnail."""


def _stretched(image: Processed, rows: int, cols: int, side: Size) -> Cut:
    whole = Canvas.of(image.size)
    return Cut(rows, cols, whole.resized((cols * side[0], rows * side[1])), whole)


def by_aspect_ratio(image: Processed, tiles: int, side: Size) -> Cut:
    """The sheet whose aspect ratio suits best; a processor may be called with its cutting switched off."""
    if tiles == 1:
        return _stretched(image, 1, 1, side)
    cols, rows = optimal_tiled_canvas(image.processor, image.size[::-1], side[::-1])
    return _stretched(image, rows, cols, side)


def by_output(*keys: str) -> Callable[[Processed, int, Size], Cut]:
    """The processor puts out (rows, cols) under one key, or rows and cols under two; 0 where it does not cut."""

    def cutter(image: Processed, tiles: int, side: Size) -> Cut:
        if keys[0] not in image.features and hasattr(image.processor, "get_number_of_image_patches"):
            rows, cols = image.processor.get_number_of_image_patches(*image.size[::-1])[1:]
        else:
            rows, cols = (int(count) for key in keys for count in image.array(key).ravel())
        return _stretched(image, max(rows, 1), max(cols, 1), side)

    return cutter


def padded_after(image: Processed, tiles: int, side: Size) -> Cut:
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


def by_fit(image: Processed, tiles: int, side: Size) -> Cut:
    """Perception LM: a sheet on which the image fits, else the one with the closest aspect ratio."""
    if tiles == 1:  # the thumbnail alone
        return _stretched(image, 1, 1, side)
    cols, rows = fitting_sheet(image.processor, image.size[::-1], side[0])
    return _stretched(image, rows, cols, side)


def by_window(image: Processed, tiles: int, side: Size) -> Cut:
    """Step 3.7: windows that suit the aspect ratio; narrow strips are padded on the right or below to a square."""
    cols, rows, squared = planned_windows(image.processor, image.size[::-1])
    whole = Canvas.of(image.size)
    if squared:
        whole = whole.moved((max(image.size), max(image.size)), 0, 0)
    return Cut(rows, cols, whole.resized((max(cols, 1) * side[0], max(rows, 1) * side[1])), whole)


# Pictures of the image's own aspect ratio, for a connector that looks at their patches.


@dataclass(frozen=True)
class Pieces:
    """An image's pictures: tiles, row by row, and pictures of the whole image after them."""

    canvases: list[Canvas]
    rows: int = 0
    cols: int = 0


def quarters(image: Processed) -> Pieces:
    """Idefics2: with do_image_splitting four quarters, then the whole image."""
    whole = Canvas.of(image.size)
    if not image.processor.do_image_splitting:
        return Pieces([whole])
    (width, height), (left, top) = image.size, (image.size[0] // 2, image.size[1] // 2)
    boxes = [(0, 0, left, top), (left, 0, width, top), (0, top, left, height), (left, top, width, height)]
    return Pieces([*(whole.cut(*box) for box in boxes), whole], 2, 2)


def windows_of_best_sheet(image: Processed) -> Pieces:
    """Aria: with split_image the windows of the best of several sheets, on which the image is padded all around."""
    whole, own = Canvas.of(image.size), image.processor
    if not own.split_image:
        return Pieces([whole])
    sheet = best_resolution(image.size[::-1], own.split_resolutions)
    height, width = size_on_sheet(image.size[::-1], sheet)
    top, left = padding_before(own, (height, width), sheet)
    padded = whole.resized((width, height)).moved((sheet[1], sheet[0]), left, top)
    side = own.max_image_size
    down, across = range(0, sheet[0], side), range(0, sheet[1], side)
    windows = [padded.cut(x, y, min(x + side, sheet[1]), min(y + side, sheet[0])) for y in down for x in across]
    return Pieces(windows, len(down), len(across)) if len(windows) > 1 else Pieces(windows)
