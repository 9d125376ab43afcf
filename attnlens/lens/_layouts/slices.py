"""An image seen twice: as a whole, and in slices of a finer canvas, whose size follows the image.

MiniCPM-V gives the model the overview first, then the slices row by row, each flattened; DeepSeek-OCR and its relatives
the slices first, on canvases of one size, then the whole image, padded to a square.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
from einops import rearrange

from attnlens.adapters._grids import LocalGlobalGrid, SlicesGrid
from attnlens.adapters._strict import resolve
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts import families
from attnlens.lens._layouts.base import Array, Layout, Processed, View
from attnlens.lens._layouts.canvas import Canvas, Size, check_only_resized, format_size
from attnlens.lens._layouts.single import whole_number
from attnlens.lens._layouts.stitching import Stitched, pictures, tile_by_tile
from attnlens.lens._layouts.tiles import Tokens

LOCAL, GLOBAL = "pixel_values_local", "pixel_values"


def slices(spec: SlicesGrid, image: Processed) -> Layout:
    """(rows, cols) in patches of the overview and of each slice; both canvases show the image stretched."""
    check_only_resized(image.processor)
    merge = _side(resolve(spec.merge, image.config))
    sizes = [(int(rows), int(cols)) for rows, cols in image.array(spec.key)]
    down, across = (int(count) for count in image.array(spec.slices).reshape(-1, 2)[0])
    if len(sizes) != 1 + down * across or any(side % merge for size in sizes for side in size):
        raise AttnLensError(
            f"{spec.key} of one image holds {sizes}, and {spec.slices} says {down} x {across} slices; expected an "
            f"overview and as many slices, each in blocks of {merge} x {merge} patches. Correct grid in the adapter."
        )
    overview = _flat_view(image, sizes[0], merge, _Flat(0, 1, 1, *sizes[0]))
    if len(sizes) == 1:
        return Layout.of(overview)
    if len(set(sizes[1:])) != 1:
        raise AttnLensError(
            f"The slices of one image have different sizes in patches: {sizes[1:]}. Set small_image_upsize to "
            "'always' in the image processor, so that they make up one canvas."
        )
    (rows, cols), patches = sizes[1], sizes[0][0] * sizes[0][1]
    fine = _flat_view(image, (down * rows, across * cols), merge, _Flat(patches, down, across, rows, cols))
    first = np.arange(overview.count) + fine.count
    pictures = tuple(rows * cols // merge**2 for rows, cols in sizes)
    cells = np.concatenate([first, tile_by_tile(fine.grid, down, across)])
    return Layout((fine, overview), cells, pictures=pictures)


def local_global(spec: LocalGlobalGrid, image: Processed) -> Layout:
    """Slices of a canvas that shows the image stretched, unless it is small; then the whole image, padded to a square.

    With `queries`, a picture's tokens are queries without a place in it: all of them share one cell, the picture.
    """
    families.check(image.processor, spec.kind)
    tokens = Tokens(whole_number(resolve(spec.patch, image.config), "patch"), Fraction(spec.merge), spec.shift)
    views, cells, start = [], [], 0
    for key in (LOCAL, GLOBAL) if LOCAL in image.features else (GLOBAL,):
        count, side = pictures(image, key)
        canvas, down, across = _local(image, count, side) if key == LOCAL else (_global(image, side), 1, 1)
        grid = tokens.grid(canvas, down, across)
        own = np.arange(start, start + grid.rows * grid.cols).reshape(grid.shape)
        if spec.queries:
            each = len(own) // down * len(own[0]) // across
            grid = canvas.grid(down, across, side[0])
            own = np.repeat(np.arange(start, start + down * across), each)[None]
        views.append(View(grid, Stitched(0, down, across, tokens.used(side)), key))
        cells.append(np.pad(own, ((0, 0), (0, spec.row_end)), constant_values=-1).ravel())
        start += views[-1].count
    return Layout(tuple(views), np.concatenate([*cells, np.full(spec.after, -1)]))


@dataclass(frozen=True)
class _Flat:
    """MiniCPM's pixels, [1, channels, patch, patches * patch]: patch after patch, those of a slice row by row."""

    start: int
    """Patches before the first slice."""
    down: int
    across: int
    """Slices in a column, and in a row."""
    rows: int
    cols: int
    """Of patches in a slice."""

    def __call__(self, pixels: Array) -> Array:
        """-> [1, channels, height, width]"""
        patches = rearrange(pixels, "1 c h (patches w) -> c h patches w", w=pixels.shape[2])
        own = patches[:, :, self.start : self.start + self.down * self.across * self.rows * self.cols]
        return rearrange(
            own,
            "c h (down across rows cols) w -> 1 c (down rows h) (across cols w)",
            down=self.down,
            across=self.across,
            rows=self.rows,
        )


def _flat_view(image: Processed, size: tuple[int, int], merge: int, pixels: _Flat) -> View:
    return View(Grid.regular(size[0] // merge, size[1] // merge, image.size), pixels)


def _side(merge: Any) -> int:
    """2 or "4x": how many patches are merged into a token, along one side or, as MiniCPM writes it, altogether."""
    if isinstance(merge, str) and merge.endswith("x") and merge[:-1].isdecimal():
        return isqrt(int(merge[:-1]))
    return whole_number(merge, "merge")


def _local(image: Processed, count: int, side: Size) -> tuple[Canvas, int, int]:
    """The canvas of the slices, and how many there are in a column and in a row."""
    down, across = _best(image, side)
    if down * across != count:
        raise AttnLensError(
            f"By its settings {type(image.processor).__name__} cuts an image of {format_size(image.size)} px into "
            f"{down} x {across} slices, but {LOCAL} holds {count}. Give min_patches and max_patches to the image "
            "processor itself, not to its call."
        )
    return Canvas.of(image.size).resized((across * side[0], down * side[1])), down, across


def _best(image: Processed, side: Size) -> tuple[int, int]:
    """(down, across): of the arrangements the processor may choose, the one nearest in shape to the image."""
    width, height = image.size
    best, best_error = (1, 1), float("inf")
    for area in range(image.processor.min_patches, image.processor.max_patches + 1):
        for across in (number for number in range(1, area + 1) if area % number == 0):
            down = area // across
            error = abs(width / height - across / down)
            roomy = width * height > 0.5 * side[0] * side[1] * area
            if error < best_error or (error == best_error and roomy):
                best, best_error = (down, across), error
    return best


def _global(image: Processed, side: Size) -> Canvas:
    """The longest edge fills the square, and the image is in its middle; on a small one, Unlimited-OCR stretches it."""
    start = Canvas.of(image.size)
    if not image.processor.crop_to_patches and max(side) <= getattr(image.processor, "maximum_pad_value", 0):
        return start.resized(side)
    scale = max(side) / max(image.size)
    fitted = start.resized((round(image.size[0] * scale), round(image.size[1] * scale)))
    return fitted.moved(side, (side[0] - fitted.size[0]) // 2, (side[1] - fitted.size[1]) // 2)
