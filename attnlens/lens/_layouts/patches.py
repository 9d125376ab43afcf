"""From pixels that a processor has flattened into patches back to the canvas they were cut from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import rearrange

from attnlens._storage import Valued
from attnlens.errors import AttnLensError
from attnlens.lens._layouts.base import Array, Numbers

CHANNELS = 3


@dataclass(frozen=True)
class Patches:
    """How a canvas is flattened into patches, and how to undo it."""

    rows: int
    cols: int
    side: int
    """Of a patch, in canvas pixels."""
    block: int
    """block x block neighbouring patches follow each other, blocks row by row; 1: patches row by row."""
    axes: str
    """The order of a patch's values: c channels, t copies, h height, w width."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the canvas."""
        return self.cols * self.side, self.rows * self.side

    def __call__(self, pixels: Array) -> Array:
        """[patches, ...] -> [copies, channels, height, width]"""
        one = CHANNELS * self.side**2
        if len(pixels) != self.rows * self.cols or pixels[0].size % one or self.rows % self.block:
            raise AttnLensError(
                f"An image's pixels have the shape {pixels.shape}; the adapter's grid says {self.rows} x {self.cols} "
                f"patches of {CHANNELS} x copies x {self.side} x {self.side} values, in blocks of {self.block} x "
                f"{self.block}. Correct patch, merge or blocks in the adapter's grid."
            )
        axes = self.axes if "t" in self.axes else f"t{self.axes}"
        lengths = {"c": CHANNELS, "t": pixels[0].size // one, "h": self.side, "w": self.side}
        canvas = rearrange(
            pixels.reshape(len(pixels), -1),
            f"(down across rows cols) ({' '.join(axes)}) -> t c (down rows h) (across cols w)",
            across=self.cols // self.block,
            rows=self.block,
            cols=self.block,
            **lengths,
        )
        return np.asarray(canvas, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Places(Valued):
    """Gemma 4's order: each patch stands where its position says; in each patch rows, cols, channels."""

    key: str
    positions: Numbers
    """[patches, 2]: each patch's column and row; negative for padding."""
    patch: int

    def __call__(self, pixels: Array) -> Array:
        """[1, patches, patch * patch * channels] -> [1, channels, height, width]."""
        count, patch = len(self.positions), self.patch
        if pixels.shape != (1, count, patch * patch * CHANNELS):
            raise AttnLensError(
                f"An image's pixels have the shape {pixels.shape}; {self.key} and the adapter's grid say "
                f"[1, {count}, {patch} x {patch} x {CHANNELS}]. Correct the adapter's grid."
            )
        own = (self.positions >= 0).all(axis=1)
        cols, rows = self.positions[own].max(axis=0) + 1
        canvas = np.zeros((rows, cols, patch, patch, CHANNELS), dtype=np.float32)
        canvas[self.positions[own, 1], self.positions[own, 0]] = pixels[0, own].reshape(-1, patch, patch, CHANNELS)
        return rearrange(canvas, "rows cols h w c -> 1 c (rows h) (cols w)")
