"""What image tokens, or the language model itself, look at through cross-attention: the patches of the vision tower.

The cells of these layouts are the keys of that attention. A connector's queries have no place of their own; each of
them sees all patches of its picture. Keys after the patches (the resampler's own latents in Idefics2, the queries in
Kosmos-2) are not in the layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from attnlens._upstream import (
    size_fit_to_canvas,
    supported_aspect_ratios,
)
from attnlens.adapters._grids import CrossGrid, LatentsGrid
from attnlens.adapters._strict import resolve
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts import families
from attnlens.lens._layouts.base import Layout, Numbers, Processed, View
from attnlens.lens._layouts.canvas import Canvas, Size, format_size
from attnlens.lens._layouts.cutting import Pieces
from attnlens.lens._layouts.single import whole_number
from attnlens.lens._layouts.stitching import Stitched, pictures, stitched, tile_by_tile

Seen = NDArray[np.bool_]
"""[rows, cols] of a canvas's patches: which of them are no padding."""


def latents(spec: LatentsGrid, image: Processed) -> Layout:
    """The connector's keys, picture by picture. Maps are drawn on the picture, or on its tiles put together."""
    patch = whole_number(resolve(spec.patch, image.config), "patch")
    if spec.mask is None:
        view = _whole(image, patch)
        return Layout((view,), _with_cls(np.arange(view.count), spec.cls), queries=_queries(spec, image, view.count))
    seen, shown = _seen(image, spec.mask, patch, spec.partly)
    pieces = _pieces(image, shown)
    grids = [_grid(canvas, own, patch) for canvas, own in zip(pieces.canvases, seen, strict=True)]
    views = [
        View(grid, Stitched(number, 1, 1, (grid.cols * patch, grid.rows * patch))) for number, grid in enumerate(grids)
    ]
    if pieces.rows:  # a view of no tokens: tiles beside each other may have other rows of patches
        views.insert(0, View(stitched(grids, pieces.rows, pieces.cols)))
    start = views[0].count if pieces.rows else 0
    cells: list[Numbers] = []
    for own, grid in zip(seen, grids, strict=True):
        cells.append(_with_cls(_numbered(own, grid, start), spec.cls))
        start += grid.rows * grid.cols
    queries = _queries(spec, image, seen[0].size) * len(seen)
    return Layout(tuple(views), np.concatenate(cells), queries=queries, tiles=len(seen))


def cross(spec: CrossGrid, image: Processed) -> Layout:
    """The keys of the language model's cross-attention; one token stands for the image in the prompt."""
    patch = whole_number(resolve(spec.patch, image.config), "patch")
    if spec.ratios is None:
        view = _whole(image, patch)
        return Layout((view,), _with_cls(np.arange(view.count), spec.cls), queries=1)
    count, side = pictures_of_one(image)
    rows, cols, sheet = _arranged(image, spec.ratios, count, side)
    used = (side[0] // patch * patch, side[1] // patch * patch)
    if used != side:
        raise AttnLensError(
            f"A tile of {format_size(side)} px is no whole number of patches of {patch} px. Correct patch in the "
            f"adapter's grid."
        )
    view = View(sheet.grid(sheet.size[1] // patch, sheet.size[0] // patch, patch), Stitched(0, rows, cols, used))
    tiles = np.full((count, side[0] * side[1] // patch**2), -1)  # tiles that are not used are keys too: padding
    tiles[: rows * cols] = tile_by_tile(view.grid, rows, cols).reshape(rows * cols, -1)
    return Layout((view,), np.concatenate([_with_cls(tile, spec.cls) for tile in tiles]), queries=1)


def pictures_of_one(image: Processed) -> tuple[int, Size]:
    """How many pictures pixel_values hold, whatever axes of one image stand before them, and their (width, height)."""
    shape = image.array("pixel_values").shape
    if len(shape) == 6 and shape[:2] == (1, 1):
        return int(shape[2]), (int(shape[5]), int(shape[4]))
    return pictures(image, "pixel_values")


def _whole(image: Processed, patch: int) -> View:
    """The one picture that the processor's settings lead to, without padding."""
    canvas = families.canvas_of(image.processor, image.size)
    count, seen = pictures_of_one(image)
    if count != 1 or seen != canvas.size:
        raise AttnLensError(
            f"By its settings {type(image.processor).__name__} puts an image of {format_size(image.size)} px on a "
            f"canvas of {format_size(canvas.size)} px, but pixel_values hold {count} of {format_size(seen)} px. Give "
            "the sizes to the image processor itself, not to its call; or name the output that marks padding as the "
            "grid's mask."
        )
    cols, rows = (length // patch for length in canvas.size)
    return View(canvas.grid(rows, cols, patch), Stitched(0, 1, 1, canvas.size))


def _with_cls(cells: Numbers, cls: int) -> Numbers:
    return np.concatenate([np.full(cls, -1), cells])


def _queries(spec: LatentsGrid, image: Processed, patches: int) -> int:
    """Image tokens of one picture of so many patches."""
    value = resolve(spec.queries, image.config)
    if isinstance(value, Mapping):
        if patches not in value:
            raise AttnLensError(
                f"The model's config gives queries for {', '.join(map(str, value))} patches, but a picture of "
                f"{format_size(image.size)} px has {patches}. Give the image processor another size."
            )
        value = value[patches]
    return int(value)


# Pictures of the image's own aspect ratio, padded on the right and below.


def _seen(image: Processed, key: str, patch: int, partly: bool) -> tuple[list[Seen], list[Size]]:
    """For each picture which patches are seen, and the (width, height) in pixels of what it shows."""
    masks = image.array(key)
    masks = masks.reshape(-1, *masks.shape[-2:]) > 0
    shown = [(int(mask.any(axis=0).sum()), int(mask.any(axis=1).sum())) for mask in masks]
    rows, cols = masks.shape[1] // patch, masks.shape[2] // patch
    blocks = rearrange(
        masks[:, : rows * patch, : cols * patch],
        "pictures (rows h) (cols w) -> pictures rows cols (h w)",
        h=patch,
        w=patch,
    )
    seen = [block.any(axis=-1) if partly else block.all(axis=-1) for block in blocks]
    for mask, own, (width, height) in zip(masks, seen, shown, strict=True):
        if not own[:1, :1].any() or mask.sum() != width * height:
            raise AttnLensError(
                f"{key} is not 1 on a rectangle of at least one patch of {patch} px from the upper left corner on. "
                "Correct grid in the adapter: its mask or patch."
            )
    return seen, shown


def _grid(canvas: Canvas, seen: Seen, patch: int) -> Grid:
    return canvas.grid(int(seen[:, 0].sum()), int(seen[0].sum()), patch)


def _numbered(seen: Seen, grid: Grid, start: int) -> Numbers:
    """[patches of the canvas]: the grid's cells from `start` on, -1 in the padding."""
    cells = np.full(seen.shape, -1)
    cells[: grid.rows, : grid.cols] = start + np.arange(grid.rows * grid.cols).reshape(grid.shape)
    return cells.ravel()


def _pieces(image: Processed, shown: Sequence[Size]) -> Pieces:
    """Where each picture lies, by the image processor's own code; `shown` is the size that each was resized to."""
    pieces = families.pieces(image)
    if len(pieces.canvases) != len(shown):
        raise AttnLensError(
            f"By its settings {type(image.processor).__name__} makes {len(pieces.canvases)} picture(s) of an image of "
            f"{format_size(image.size)} px, but there are {len(shown)}. Give the settings to the image processor "
            "itself, not to its call."
        )
    canvases = [canvas.resized(size) for canvas, size in zip(pieces.canvases, shown, strict=True)]
    return replace(pieces, canvases=canvases)


def _arranged(image: Processed, key: str, count: int, side: Size) -> tuple[int, int, Canvas]:
    """Mllama: rows and columns of tiles; the image is resized without distortion, and padded on the right and below."""
    families.check(image.processor, "cross")
    number = int(image.array(key).ravel()[0])
    known = supported_aspect_ratios(image.processor, count)
    if not 0 < number <= len(known):
        raise AttnLensError(f"{key} is {number}; expected a number from 1 to {len(known)}. Correct the grid's ratios.")
    rows, cols = known[number - 1]
    sheet = (cols * side[0], rows * side[1])
    height, width = size_fit_to_canvas(image.processor, image.size[::-1], sheet[::-1], side[0])
    return rows, cols, Canvas.of(image.size).resized((width, height)).moved(sheet, 0, 0)
