"""The whole image on one square, then a finer canvas of it that the model gets in crops which overlap (Molmo 2).

A token pools the patches of one block of a canvas; where crops overlap, the canvas's patch is that of the crop in which
it lies further from the edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from einops import rearrange

from attnlens.adapters._grids import CropsGrid
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts import families
from attnlens.lens._layouts.base import Array, Layout, Processed, View
from attnlens.lens._layouts.patches import CHANNELS
from attnlens.lens._layouts.single import whole_number


def crops(spec: CropsGrid, image: Processed) -> Layout:
    """Both canvases show the image stretched. The whole image's tokens come first; maps are drawn on the finer one."""
    families.check(image.processor, spec.kind)
    cutting = _cutting(spec, image)
    coarse, fine = (_Canvas(cutting, down, across) for down, across in ((0, 0), (cutting.down, cutting.across)))
    views = [View(_grid(image, canvas), canvas) for canvas in (fine, coarse)]
    rows_and_cols = [int(count) for view in reversed(views) for count in view.grid.shape]
    said = image.array(spec.key).ravel().astype(int).tolist()
    if said != rows_and_cols:
        raise AttnLensError(
            f"{spec.key} says {said} rows and columns of tokens for the whole image and the crops, but by its settings "
            f"{type(image.processor).__name__} makes {rows_and_cols}. Give the settings to the image processor itself, "
            "not to its call."
        )
    first = np.arange(views[1].count) + views[0].count
    return Layout(tuple(views), np.concatenate([first, np.arange(views[0].count)]))


@dataclass(frozen=True)
class _Cutting:
    """How the processor cuts a canvas into crops, in patches."""

    side: int
    """Of a crop."""
    before: int
    """Patches at the start of a crop that belong to the one before it."""
    after: int
    """Patches at its end that belong to the next one."""
    down: int
    """Crops in a column."""
    across: int
    """Crops in a row."""
    patch: int
    """Side of a patch, in canvas pixels."""
    pool: tuple[int, int]
    """(rows, cols) of patches in a token."""
    values: str

    @property
    def window(self) -> int:
        """From one crop to the next."""
        return self.side - self.before - self.after


@dataclass(frozen=True)
class _Canvas:
    """The canvas of `down` x `across` crops; 0 x 0: the whole image's own, which is the first picture of all."""

    cutting: _Cutting
    down: int
    across: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of patches."""
        if not self.down:
            return self.cutting.side, self.cutting.side
        margin = self.cutting.before + self.cutting.after
        return self.down * self.cutting.window + margin, self.across * self.cutting.window + margin

    def __call__(self, pixels: Array) -> Array:
        """[pictures, patches, values] -> [1, channels, height, width]; of the crops with a patch, its token's is taken.

        A gradient laid out so lacks what reaches a pixel through the margin of a neighbouring crop.
        """
        cutting, (rows, cols) = self.cutting, self.shape
        side, patch = cutting.side, cutting.patch
        lengths = {"c": CHANNELS, "h": patch, "w": patch}
        patches = rearrange(
            pixels.reshape(-1, side * side, pixels.shape[-1]),
            f"pictures (rows cols) ({' '.join(cutting.values)}) -> pictures rows cols c h w",
            rows=side,
            **lengths,
        )
        if not self.down:
            own = patches[0]
        else:
            crop_rows, at_rows = _source(cutting, self.down, rows)
            crop_cols, at_cols = _source(cutting, self.across, cols)
            crop = 1 + crop_rows[:, None] * self.across + crop_cols[None, :]
            own = patches[crop, at_rows[:, None], at_cols[None, :]]
        return rearrange(own, "rows cols c h w -> 1 c (rows h) (cols w)")


def _source(cutting: _Cutting, crops: int, length: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    """For each patch along a side of the canvas: the crop, and the place in it, that its token takes it from."""
    at = np.arange(length)
    crop = np.clip((at - cutting.before) // cutting.window, 0, crops - 1)
    return crop, at - crop * cutting.window


def _cutting(spec: CropsGrid, image: Processed) -> _Cutting:
    processor, count = image.processor, int(image.array("image_num_crops").ravel()[0]) - 1
    before, after = (int(margin) for margin in processor.overlap_margins)
    patch = whole_number(processor.patch_size, "patch_size in the image processor")
    rows, cols = (int(side) for side in processor.pooling_size)
    side = int(processor.size["height"]) // patch
    said = image.array(spec.key).ravel().astype(int).tolist()[2:]
    for down in (number for number in range(1, count + 1) if count % number == 0):
        found = _Cutting(side, before, after, down, count // down, patch, (rows, cols), spec.values)
        canvas = _Canvas(found, found.down, found.across)
        if [ceil(length / pool) for length, pool in zip(canvas.shape, found.pool, strict=True)] == said:
            return found
    raise AttnLensError(
        f"{count} crops of {side} x {side} patches cannot make up the {said[0]} x {said[1]} tokens that {spec.key} "
        "says. Give overlap_margins, patch_size, pooling_size and size to the image processor itself, not to its call."
    )


def _grid(image: Processed, canvas: _Canvas) -> Grid:
    """Blocks of patches from the canvas's corner on, half of what the last block lacks before it, rounded down."""
    spans = []
    for patches, pool, length in zip(canvas.shape, canvas.cutting.pool, reversed(image.size), strict=True):
        lacking = -patches % pool
        edges = np.clip(np.arange(0, patches + lacking + 1, pool) - lacking // 2, 0, patches) * (length / patches)
        spans.append(np.stack([edges[:-1], edges[1:]], axis=1))
    return Grid(spans[1], spans[0], image.size)
