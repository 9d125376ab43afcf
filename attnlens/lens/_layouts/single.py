"""The whole image on one canvas: a fixed square, or the image's own aspect ratio, in rows of patches."""

from __future__ import annotations

from math import ceil, isqrt
from typing import Any

import numpy as np

from attnlens.adapters._grids import PositionsGrid, SizesGrid, SquareGrid
from attnlens.adapters._strict import resolve
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts.base import Array, Layout, Processed, View, numbered, separated, spaced
from attnlens.lens._layouts.canvas import Canvas, Size, check_only_resized, format_size
from attnlens.lens._layouts.families import canvas_of
from attnlens.lens._layouts.patches import Places
from attnlens.lens._layouts.stitching import Stitched, stitched, tile_by_tile


def square(spec: SquareGrid, image: Processed) -> Layout:
    """A canvas of fixed size. With `tokens`, its patches are pooled into a square of that many tokens.

    With `crops`, of which there may be none, these are pictures of the same size, on which maps are drawn.
    """
    count = int(image.array(spec.crops).sum()) if spec.crops and spec.crops in image.features else 0
    canvas = single_canvas(image, spec.key, 1 + count)
    patch = whole_number(resolve(spec.patch, image.config), "patch")
    if spec.tokens is None:
        side = patch * whole_number(resolve(spec.merge, image.config), "merge")
    else:
        side = patch * _pooling(canvas, patch, whole_number(resolve(spec.tokens, image.config), "tokens"))
    back = spec.shift * patch
    whole = plain_view(canvas.moved(canvas.size, back, back), side)
    if not count:
        return _separated(spec, image, (whole,))
    down, across, boxes = _pan_and_scan(image.size, count)
    crops = [Canvas.of(image.size).cut(*box).resized(canvas.size).moved(canvas.size, back, back) for box in boxes]
    sheet = stitched([crop.grid(*whole.grid.shape, side) for crop in crops], down, across)
    return _with_crops(spec, image, whole.grid, sheet, side)


def _with_crops(spec: SquareGrid, image: Processed, whole: Grid, sheet: Grid, side: int) -> Layout:
    """The tokens of the whole image, then those of each crop on `sheet`, all pictures having as many."""
    down, across = sheet.rows // whole.rows, sheet.cols // whole.cols
    used = (whole.cols * side, whole.rows * side)
    views = (View(sheet, Stitched(1, down, across, used)), View(whole, Stitched(0, 1, 1, used)))
    _, overview = numbered(views)
    tiles = tile_by_tile(sheet, down, across).reshape(-1, *whole.shape)
    pictures = [spaced(one, *_around(spec, image)) for one in (overview, *tiles)]
    return Layout(views, np.concatenate(pictures), reach=spec.reach, pictures=tuple(map(len, pictures)))


def _pan_and_scan(size: Size, count: int) -> tuple[int, int, list[tuple[int, int, int, int]]]:
    """(down, across, boxes): Gemma 3's crops, side by side along the longer side; the last may be smaller."""
    width, height = size
    down, across = (1, count) if width >= height else (count, 1)
    step_x, step_y = ceil(width / across), ceil(height / down)
    corners = [(col * step_x, row * step_y) for row in range(down) for col in range(across)]
    return down, across, [(x, y, min(x + step_x, width), min(y + step_y, height)) for x, y in corners]


def sizes(spec: SizesGrid, image: Processed) -> Layout:
    """(height, width) of the resized image, which fills a canvas of its own."""
    check_only_resized(image.processor, "do_pad")  # to the largest image of a prompt: one alone is not padded
    height, width = _one(image.array(spec.key).reshape(-1, 2).astype(int).tolist(), spec.key)
    seen = canvas_size(image, "pixel_values")
    if seen != (width, height):
        raise AttnLensError(
            f"{spec.key} says that the image is {format_size((width, height))} px on its canvas (width x height), but "
            f"pixel_values hold {format_size(seen)} px. Choose another key or grid kind in the adapter."
        )
    side = whole_number(resolve(spec.patch, image.config), "patch")
    side *= whole_number(resolve(spec.merge, image.config), "merge")
    return _separated(spec, image, (plain_view(Canvas.of(image.size).resized(seen), side),))


def positions(spec: PositionsGrid, image: Processed) -> Layout:
    """(column, row) of each patch, which fill a rectangle row by row; merge x merge of them are pooled into a token."""
    check_only_resized(image.processor)
    places = image.array(spec.key).reshape(-1, 2).astype(int)
    own = places[(places >= 0).all(axis=1)]
    cols, rows = own.max(axis=0, initial=-1) + 1
    merge = whole_number(resolve(spec.merge, image.config), "merge")
    row_by_row = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 2)
    if not len(own) or not np.array_equal(own, row_by_row) or rows % merge or cols % merge:
        raise AttnLensError(
            f"{spec.key} gives {len(own)} positions in {rows} rows x {cols} cols; expected each place of a rectangle "
            f"once, row by row, in blocks of {merge} x {merge}. Choose another key, merge or grid kind in the adapter."
        )
    patch = whole_number(resolve(spec.patch, image.config), "patch")
    canvas = Canvas.of(image.size).resized((int(cols) * patch, int(rows) * patch))
    grid = canvas.grid(int(rows) // merge, int(cols) // merge, patch * merge)
    return _separated(spec, image, (View(grid, Places(spec.key, places, patch)),))


def single_canvas(image: Processed, key: str = "pixel_values", count: int = 1) -> Canvas:
    """The canvas that the processor's settings lead to; AttnLensError where `key` holds another, or not `count`."""
    canvas = canvas_of(image.processor, image.size)
    seen = canvas_size(image, key, count)
    if seen != canvas.size:
        raise AttnLensError(
            f"By its settings {type(image.processor).__name__} puts an image of {format_size(image.size)} px on a "
            f"canvas of {format_size(canvas.size)} px, but {key} hold {format_size(seen)} px. "
            "Give the sizes to the image processor itself, not to its call."
        )
    return canvas


def canvas_size(image: Processed, key: str, count: int = 1) -> tuple[int, int]:
    """(width, height) of the canvases that `key` holds, [count, channels, height, width]."""
    shape = image.array(key).shape
    if len(shape) != 4 or shape[0] != count:
        raise AttnLensError(
            f"{key} of one image has the shape {shape}; the adapter's grid kind expects [{count}, channels, height, "
            "width]. Choose another grid kind in the adapter, or switch off what makes several pictures of an image."
        )
    return int(shape[3]), int(shape[2])


def plain_view(canvas: Canvas, side: int) -> View:
    """Squares of `side` canvas pixels on the canvas that [1, channels, height, width] holds as it is."""
    cols, rows = (length // side for length in canvas.size)
    if not rows * cols:
        raise AttnLensError(
            f"A canvas of {format_size(canvas.size)} px holds no square of {side} px. Correct grid in the adapter: its "
            "patch, merge or tokens."
        )
    return View(canvas.grid(rows, cols, side), _as_it_is)


def _as_it_is(pixels: Array) -> Array:
    return np.asarray(pixels, dtype=np.float32)


def whole_number(value: Any, name: str) -> int:
    """One side for both axes: configs may hold an int, or [height, width]."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise AttnLensError(f"The grid's {name} is {value!r}; expected one whole number above 0, for squares.")
    return int(sides.pop())


def _separated(spec: SquareGrid | SizesGrid | PositionsGrid, image: Processed, views: tuple[View, ...]) -> Layout:
    before, row_end, after = _around(spec, image)
    return separated(views, before=before, row_end=row_end, after=after, reach=spec.reach)


def _around(spec: SquareGrid | SizesGrid | PositionsGrid, image: Processed) -> tuple[int, int, int]:
    """How many tokens without a place stand before a picture, at the end of each row, and after it."""
    before, row_end, after = (int(resolve(count, image.config)) for count in (spec.before, spec.row_end, spec.after))
    return before, row_end, after


def _pooling(canvas: Canvas, patch: int, tokens: int) -> int:
    """How many patches a token has on each side."""
    side, patches = isqrt(tokens), {length // patch for length in canvas.size}
    if side * side != tokens or any(count % side for count in patches) or len(patches) != 1:
        raise AttnLensError(
            f"A canvas of {format_size(canvas.size)} px in patches of {patch} px cannot be pooled evenly into {tokens} "
            "tokens in a square. Correct grid in the adapter: its patch or tokens."
        )
    return patches.pop() // side


def _one(found: list[list[int]], key: str) -> list[int]:
    if len(found) != 1:
        raise AttnLensError(
            f"{key} of one image holds {len(found)} entries; expected one. Choose another grid kind in the adapter."
        )
    return found[0]
