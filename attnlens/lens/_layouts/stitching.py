"""Pictures of one image, such as tiles and crops, put together to one view: their pixels, their cells, their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts.base import Array, Numbers, Processed
from attnlens.lens._layouts.canvas import Size


def tile_by_tile(grid: Grid, rows: int, cols: int) -> Numbers:
    """[tokens]: the cells of a grid over `rows` x `cols` tiles, one tile after another, in each of them row by row."""
    numbers = np.arange(grid.rows * grid.cols).reshape(grid.shape)
    return rearrange(numbers, "(rows h) (cols w) -> (rows cols h w)", rows=rows, cols=cols)


def pictures(image: Processed, key: str) -> tuple[int, Size]:
    """How many pictures [..., channels, height, width] the processor put out under `key`, and their (width, height)."""
    shape = image.array(key).shape
    if len(shape) not in (4, 5) or (len(shape) == 5 and shape[0] != 1):
        raise AttnLensError(
            f"{key} of one image has the shape {shape}; the adapter's grid kind expects [tiles, channels, height, "
            "width], with or without an axis of one image before it. Choose another grid kind in the adapter."
        )
    return int(shape[-4]), (int(shape[-1]), int(shape[-2]))


def stitched(grids: Sequence[Grid], rows: int, cols: int) -> Grid:
    """One grid of rows x cols pictures, row by row: the columns of the first row of them, the rows of the first column.

    The pictures' grids are in the frame of the image; those of a column share their columns, those of a row their rows.
    """
    x, y = [grid.x for grid in grids[:cols]], [grid.y for grid in grids[: rows * cols : cols]]
    return Grid(np.concatenate(x), np.concatenate(y), grids[0].image_size)


@dataclass(frozen=True)
class Stitched:
    """From an image's pictures, [..., tiles, channels, height, width], the pixels of one view of them."""

    first: int
    """The number of the picture that holds the upper left tile."""
    rows: int
    cols: int
    used: Size
    """The (width, height) of what is used of a tile."""
    window: tuple[slice, slice] = (slice(None), slice(None))
    """The rows and columns of pixels that the view shows of the stitched tiles."""

    def __call__(self, pixels: Array) -> Array:
        """float32 [1, channels, height, width]"""
        width, height = self.used
        all_tiles = np.asarray(pixels, dtype=np.float32).reshape(-1, *pixels.shape[-3:])
        own = all_tiles[self.first : self.first + self.rows * self.cols, :, :height, :width]
        sheet = rearrange(own, "(rows cols) c h w -> 1 c (rows h) (cols w)", rows=self.rows, cols=self.cols)
        return sheet[:, :, *self.window]
