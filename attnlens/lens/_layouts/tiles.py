"""Tiles of one size, stitched to one view of the image, and a thumbnail as another.

In the prompt the tokens come tile by tile, in each tile row by row; a view's cells run row by row over all its tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from attnlens.adapters._grids import AnyresGrid, TilesGrid
from attnlens.adapters._strict import resolve
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.geometry._grid import Spans
from attnlens.lens._layouts.base import Layout, Processed, View
from attnlens.lens._layouts.canvas import Canvas, Size, format_size
from attnlens.lens._layouts.cutting import Cut
from attnlens.lens._layouts.families import cut
from attnlens.lens._layouts.single import whole_number
from attnlens.lens._layouts.stitching import Stitched, pictures, tile_by_tile


def tiles(spec: TilesGrid, image: Processed) -> Layout:
    """Rows and columns of tiles, and a thumbnail of the whole image before or after them; or one of the two alone."""
    tokens = Tokens.of(spec, image)
    if spec.thumbnail_key is not None:
        return _apart(spec, image, tokens, spec.thumbnail_key)
    count, side = pictures(image, spec.key)
    found = cut(image, count, side)
    others = _others(image, count, found, at_most=1)
    first = others if spec.thumbnail == "first" else 0
    used = tokens.used(side)
    sheet = View(tokens.grid(found.sheet, found.rows, found.cols), Stitched(first, found.rows, found.cols, used))
    if not others:
        return _ordered(found, sheet, None, spec.thumbnail)
    place = Stitched(0 if first else count - 1, 1, 1, used)
    return _ordered(found, sheet, View(tokens.grid(found.whole.resized(side), 1, 1), place), spec.thumbnail)


def _apart(spec: TilesGrid, image: Processed, tokens: Tokens, thumbnail_key: str) -> Layout:
    """The thumbnail has an input of its own; there may be no tiles."""
    small = pictures(image, thumbnail_key)[1]
    count, side = pictures(image, spec.key) if spec.key in image.features else (0, small)
    found = cut(image, count, side)
    _others(image, count, found, at_most=0)
    alone = Stitched(0, 1, 1, tokens.used(small))
    thumbnail = View(tokens.grid(found.whole.resized(small), 1, 1), alone, thumbnail_key)
    if not count:
        return Layout.of(thumbnail)
    stitched = Stitched(0, found.rows, found.cols, tokens.used(side))
    sheet = View(tokens.grid(found.sheet, found.rows, found.cols), stitched, spec.key)
    return _ordered(found, sheet, thumbnail, spec.thumbnail)


def _others(image: Processed, count: int, found: Cut, at_most: int) -> int:
    """How many pictures there are beside the tiles."""
    others = count - found.rows * found.cols
    if not 0 <= others <= at_most:
        raise AttnLensError(
            f"{type(image.processor).__name__} made {count} picture(s) of an image of {format_size(image.size)} px, "
            f"but by its settings or its output there are {found.rows} rows x {found.cols} cols of tiles. Give the "
            "settings to the image processor itself, not to its call."
        )
    return others


def _ordered(found: Cut, sheet: View, thumbnail: View | None, place: str) -> Layout:
    """Tokens tile by tile, those of the thumbnail first or last."""
    parts = [tile_by_tile(sheet.grid, found.rows, found.cols)]
    if thumbnail is None:
        return Layout((sheet,), parts[0])
    parts.append(sheet.count + np.arange(thumbnail.count))
    return Layout((sheet, thumbnail), np.concatenate(parts[::-1] if place == "first" else parts))


@dataclass(frozen=True)
class Tokens:
    """How a tile is divided into tokens."""

    patch: int
    """Canvas pixels on a patch's side."""
    merge: Fraction
    """Patches on a token's side; not always a whole number."""
    shift: float = 0.0
    """Patches from the middle of the merged ones back to those that a token is centred on."""

    @classmethod
    def of(cls, spec: TilesGrid | AnyresGrid, image: Processed) -> Tokens:
        patch = whole_number(resolve(spec.patch, image.config), "patch")
        shift = spec.shift if isinstance(spec, TilesGrid) else 0.0
        return cls(patch, _patches_per_token(resolve(spec.merge, image.config)), shift)

    def used(self, side: Size) -> Size:
        """The pixels of a tile that are in its patches: a convolution leaves out what is left over at the far edges."""
        return side[0] // self.patch * self.patch, side[1] // self.patch * self.patch

    def spans(self, side: int, tiles: int) -> Spans:
        """float64 [tiles * tokens, 2]: where tokens begin and end on an axis of `tiles` tiles, in canvas pixels.

        Two tokens meet halfway between their centres, the outer ones end with the tile's patches.
        """
        patches = side // self.patch
        count = patches / self.merge
        if not patches or count.denominator != 1:
            raise AttnLensError(
                f"A tile of {side} px has {patches} patches of {self.patch} px on its side, which are not a whole "
                f"number of tokens of {self.merge} patches. Correct grid in the adapter: its patch or merge."
            )
        edges = np.arange(int(count) + 1) * float(self.merge) - self.shift
        edges[0], edges[-1] = 0, patches
        one = np.stack([edges[:-1], edges[1:]], axis=1) * self.patch
        return np.concatenate([one + tile * side for tile in range(tiles)])

    def grid(self, canvas: Canvas, rows: int, cols: int) -> Grid:
        """The tokens of `rows` x `cols` tiles that fill `canvas`, in original pixels."""
        return original(canvas, self.spans(canvas.size[0] // cols, cols), self.spans(canvas.size[1] // rows, rows))


def original(canvas: Canvas, x: Spans, y: Spans) -> Grid:
    """Columns and rows of `canvas`, in canvas pixels, as a grid in original pixels."""
    return Grid((x - canvas.offset[0]) / canvas.scale[0], (y - canvas.offset[1]) / canvas.scale[1], canvas.image_size)


def _patches_per_token(value: object) -> Fraction:
    """A whole number, or its inverse as configs write it: 0.5, '1/4'."""
    try:
        number = Fraction(str(value)).limit_denominator(64)
    except ValueError:
        number = Fraction(0)
    if number <= 0:
        raise AttnLensError(
            f"The grid's merge is {value!r}; expected the patches on a token's side, such as 2, or their inverse, such "
            "as 0.5 or 1/2."
        )
    return number if number >= 1 else 1 / number
