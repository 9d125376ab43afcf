"""Images of their own aspect ratio, cut into patches: pixels that come flattened, row by row, and end where they end.

Some canvases are larger than the image, whose right and lower parts are then padding. How large the image is on such a
canvas, the processor itself shows: a black and a white image of the same size differ where there is image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnlens.adapters._grids import RowsGrid, ShapesGrid, ThwGrid, UnpaddedGrid
from attnlens.adapters._strict import resolve
from attnlens.errors import AttnLensError
from attnlens.lens._layouts.base import Array, Layout, Processed, View, separated
from attnlens.lens._layouts.canvas import Canvas, check_only_resized
from attnlens.lens._layouts.patches import Patches
from attnlens.lens._layouts.single import whole_number
from attnlens.lens._layouts.stitching import tile_by_tile

PIXELS = "pixel_values"


def thw(spec: ThwGrid, image: Processed) -> Layout:
    """(frames, rows, cols) of patches, all of them the image's own."""
    check_only_resized(image.processor)
    counts = [[1, *row][-3:] for row in np.atleast_2d(image.array(spec.key)).astype(int).tolist()]  # frames or none
    if len(counts) != 1 or counts[0][0] != 1:
        raise AttnLensError(
            f"{spec.key} of one image says {counts}; expected one [1, rows, cols]: only still images, of one frame, "
            "are read. Choose another key or grid kind in the adapter."
        )
    _, rows, cols = counts[0]
    patch = whole_number(resolve(spec.patch, image.config), "patch")
    merge = whole_number(resolve(spec.merge, image.config), "merge")
    if spec.merged:
        patch, merge = patch * merge, 1
    pixels = Patches(rows, cols, patch, merge if spec.blocks else 1, spec.values)
    canvas = _content(image, pixels) if spec.padded else Canvas.of(image.size).resized(pixels.size)
    before, row_end, after = (
        int(resolve(count, image.config)) for count in (spec.before, spec.row_end, spec.after)
    )  # fmt: skip
    view = View(canvas.grid(*_merged(rows, cols, merge, spec.key), patch * merge), pixels)
    return separated((view,), before=before, row_end=row_end, after=after, reach=spec.reach)


def rows(spec: RowsGrid, image: Processed) -> Layout:
    """Every row of patches ends in one that the image does not fill: this is where the next row begins (Inkling)."""
    check_only_resized(image.processor)
    side = whole_number(resolve(spec.patch, image.config), "patch")
    shown = _shown(image)
    alone = [Patches(1, 1, side, 1, spec.values)(patch[None].astype(np.float32)) for patch in shown]
    filled = np.array([patch[..., -1].any() for patch in alone])
    cols = int(np.argmin(filled)) + 1
    if len(filled) % cols or (filled.reshape(-1, cols) != (np.arange(cols) < cols - 1)).any():
        raise AttnLensError(
            f"{type(image.processor).__name__} cut an image of {image.size[0]} x {image.size[1]} px into {len(filled)} "
            f"patches, whose rows do not all end in padding after {cols} of them. Choose another grid kind in the "
            "adapter."
        )
    pixels = Patches(len(filled) // cols, cols, side, 1, spec.values)
    canvas = _content(image, pixels)
    return Layout.of(View(canvas.grid(pixels.rows, cols, side), pixels))


def unpadded(spec: UnpaddedGrid, image: Processed) -> Layout:
    """The size of the image on its canvas is given: it is cut into as many patches as hold it (Fuyu)."""
    side = whole_number(resolve(spec.patch, image.config), "patch")
    width, height = (int(image.array(key).ravel()[0]) for key in (spec.width, spec.height))
    pixels = Patches(ceil(height / side), ceil(width / side), side, 1, spec.values)
    canvas = Canvas.of(image.size).resized((width, height))
    return Layout.of(View(canvas.grid(pixels.rows, pixels.cols, side), pixels))


def shapes(spec: ShapesGrid, image: Processed) -> Layout:
    """(rows, cols) of patches for each picture of an image: the whole image, or its tiles and a thumbnail (LFM2-VL)."""
    found = [(int(rows), int(cols)) for rows, cols in image.array(spec.key).reshape(-1, 2)]
    patch = whole_number(resolve(spec.patch, image.config), "patch")
    merge = whole_number(resolve(spec.merge, image.config), "merge")
    rows, cols = _tiling(spec, image) if len(found) > 1 else (1, 1)
    tiles, rest = found[: rows * cols], found[rows * cols :]
    if len(tiles) != rows * cols or len(rest) > 1 or len(set(tiles)) != 1:
        raise AttnLensError(
            f"{spec.key} of one image holds {found}, and the processor says {rows} x {cols} tiles; expected tiles of "
            "one shape, and at most one thumbnail behind them. Choose another grid kind in the adapter."
        )
    views = [_tiled_view(image, _Tiles(0, rows, cols, Patches(*tiles[0], patch, 1, spec.values)), merge, spec.key)]
    for shape in rest:
        thumbnail = _Tiles(len(tiles), 1, 1, Patches(*shape, patch, 1, spec.values))
        views.append(_tiled_view(image, thumbnail, merge, spec.key))
    by_tile = tile_by_tile(views[0].grid, rows, cols)
    others = np.arange(views[0].count, sum(view.count for view in views))
    return Layout(tuple(views), np.concatenate([by_tile, others]))


@dataclass(frozen=True)
class _Tiles:
    """Pictures `first` and following, of rows x cols tiles in reading order, put together; padding behind is left."""

    first: int
    rows: int
    cols: int
    tile: Patches

    @property
    def size(self) -> tuple[int, int]:
        return self.cols * self.tile.size[0], self.rows * self.tile.size[1]

    def __call__(self, pixels: Array) -> Array:
        """[pictures, patches, values] -> [copies, channels, height, width]"""
        patches = self.tile.rows * self.tile.cols
        apart = [self.tile(one[:patches]) for one in pixels[self.first : self.first + self.rows * self.cols]]
        rows = [np.concatenate(apart[row * self.cols : (row + 1) * self.cols], axis=3) for row in range(self.rows)]
        return np.concatenate(rows, axis=2)


def _tiled_view(image: Processed, tiles: _Tiles, merge: int, key: str) -> View:
    """The whole image, stretched over tiles."""
    rows, cols = _merged(tiles.tile.rows, tiles.tile.cols, merge, key)
    canvas = Canvas.of(image.size).resized(tiles.size)
    return View(canvas.grid(tiles.rows * rows, tiles.cols * cols, merge * tiles.tile.side), tiles)


def _tiling(spec: ShapesGrid, image: Processed) -> tuple[int, int]:
    """How many rows and columns of tiles an image was cut into."""
    if spec.rows not in image.features or spec.cols not in image.features:
        raise AttnLensError(
            f"{type(image.processor).__name__} cut an image into tiles and does not say in how many rows and columns: "
            f"{spec.rows!r} and {spec.cols!r} are missing. Set return_row_col_info to True in the image processor."
        )
    return int(image.array(spec.rows).ravel()[0]), int(image.array(spec.cols).ravel()[0])


def _merged(rows: int, cols: int, merge: int, key: str) -> tuple[int, int]:
    """(rows, cols) of tokens."""
    if rows % merge or cols % merge:
        raise AttnLensError(
            f"{key} says {rows} x {cols} patches, which do not merge evenly in blocks of {merge} x {merge}. "
            "Correct merge in the adapter's grid."
        )
    return rows // merge, cols // merge


def _content(image: Processed, pixels: Patches) -> Canvas:
    """The image's place on a canvas of patches that it does not fill."""
    shown = pixels(_shown(image).astype(np.float32))
    down, across = (np.flatnonzero(np.any(shown, axis=axes)) for axes in ((0, 1, 3), (0, 1, 2)))
    if not len(across):
        raise AttnLensError(
            f"{type(image.processor).__name__} makes the same of a black and of a white image of {image.size[0]} x "
            f"{image.size[1]} px. Where it puts an image cannot be seen; choose another grid kind in the adapter."
        )
    left, top = int(across[0]), int(down[0])
    resized = Canvas.of(image.size).resized((int(across[-1]) + 1 - left, int(down[-1]) + 1 - top))
    return resized.moved(pixels.size, left, top)


def _shown(image: Processed) -> NDArray[np.bool_]:
    """Like the image's pixels: which of them show the image, and are no padding."""
    black, white = (
        replace(image, features=image.processor([Image.new("RGB", image.size, level)], return_tensors="pt"))
        for level in ("black", "white")
    )
    found, seen = black.array(PIXELS), image.array(PIXELS)
    if found.shape != seen.shape:
        raise AttnLensError(
            f"{type(image.processor).__name__} gave {PIXELS} of the shape {seen.shape} for this image, and now gives "
            f"{found.shape} for one of the same size. Give its settings to the image processor itself, not to its call."
        )
    return np.asarray(found != white.array(PIXELS))
