"""How much each part of an image matters: values on a grid that knows its own pixels.

>>> m = ImportanceMap([[0, 1], [0, 3]], Grid.regular(2, 2, (200, 100)))
>>> m.to_pixels().shape, m.inside((100, 0, 200, 100)), m.attention_ratio((100, 50, 200, 100))
((100, 200), 4.0, 3.0)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnlens._images import ImageSource, open_image
from attnlens._storage import Stored
from attnlens.errors import AttnLensError
from attnlens.geometry import Box, Grid
from attnlens.geometry._grid import Spans, overlaps
from attnlens.montage import outline

__all__ = ["ImportanceMap"]

Floats = npt.NDArray[np.float32]

_ANCHORS = [(20, 11, 52), (132, 32, 107), (229, 92, 48), (246, 215, 70), (252, 255, 164)]
HEAT: npt.NDArray[np.uint8] = np.stack(
    [np.interp(np.arange(256), np.linspace(0, 255, len(_ANCHORS)), channel) for channel in zip(*_ANCHORS, strict=True)],
    axis=1,
).astype(np.uint8)
"""uint8 [256, 3]: RGB colours from dark violet (unimportant) over orange to pale yellow (important)."""

_FAINTEST = 0.35  # opacity of the least important cell, relative to the most important one


@dataclass(frozen=True, eq=False)
class ImportanceMap(Stored):
    """Values on a grid that says which original pixels each of them is about.

    Whatever numpy can read as a matrix is taken, copied and made read-only. NaN and infinity are kept, so that what
    reads the map can report them. `a * b` multiplies cell by cell with a map on the same grid, or by a number. Raises
    AttnLensError when the values are no matrix of numbers, or the grid does not fit.

    Examples:
        >>> grid = Grid.regular(2, 2, (200, 100))
        >>> m = ImportanceMap([[0, 1], [0, 3]], grid)
        >>> (m * 2).values.tolist()
        [[0.0, 2.0], [0.0, 6.0]]
    """

    values: Floats
    """float32 [rows, cols], read-only: how much each cell matters."""
    grid: Grid
    """Where the cells lie in the original image."""

    __array_ufunc__ = None  # so that numpy_scalar * map reaches __rmul__

    def __post_init__(self) -> None:
        if not isinstance(self.grid, Grid):
            raise AttnLensError(
                f"The grid is {type(self.grid).__name__!r}; expected a Grid. "
                "For cells over the whole image: Grid.regular(rows, cols, (width, height))."
            )
        values = _matrix(self.values)
        if values.shape != self.grid.shape:
            raise AttnLensError(
                f"A grid that does not fit: the map has {_cells(values.shape)} cells (rows x cols), its grid has "
                f"{_cells(self.grid.shape)}. Reshape the values, or make the grid with the map's rows and cols."
            )
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    @classmethod
    def stitch(
        cls, maps: Sequence[Sequence[ImportanceMap]], boxes: Sequence[Sequence[Box]], image_size: tuple[int, int]
    ) -> ImportanceMap:
        """One map from those of an image's tiles, row-major.

        Values are not rescaled (as in ViCrop, arXiv 2502.17422); stitch `normalised` maps where tiles differ in scale.

        Args:
            maps: the maps of the tiles: `maps[i][j]` is that of the tile in row i, column j, in the frame of its own
                tile.
            boxes: where the tiles lie: `boxes[i][j]`, in pixels of the whole image, is the box of `maps[i][j]`.
            image_size: (width, height) of the whole image, in pixels.

        Returns:
            The map of all tiles' cells, on the grid of `Grid.stitch`.

        Raises:
            AttnLensError: as `Grid.stitch`.

        Examples:
            >>> tile = ImportanceMap([[1, 2]], Grid.regular(1, 2, (100, 80)))
            >>> whole = ImportanceMap.stitch([[tile, tile]], [[Box(0, 0, 100, 80), Box(100, 0, 200, 80)]], (200, 80))
            >>> whole.values.tolist()
            [[1.0, 2.0, 1.0, 2.0]]
        """
        grid = Grid.stitch([[m.grid for m in row] for row in maps], boxes, image_size)
        return cls(np.block([[m.values for m in row] for row in maps]), grid)

    @staticmethod
    def mean(maps: Sequence[ImportanceMap]) -> ImportanceMap:
        """The cell-wise mean of one or more maps on the same grid.

        Args:
            maps: the maps, all of the same reading of the same image.

        Returns:
            The mean, on their grid.

        Raises:
            AttnLensError: for no map, and for maps on different grids.

        Examples:
            >>> grid = Grid.regular(1, 2, (20, 10))
            >>> ImportanceMap.mean([ImportanceMap([[0, 1]], grid), ImportanceMap([[1, 2]], grid)]).values.tolist()
            [[0.5, 1.5]]
        """
        if not maps:
            raise AttnLensError("There is no map to average; expected at least one.")
        for other in maps[1:]:
            _check_same_grid(maps[0].grid, other.grid)
        return ImportanceMap(np.mean([m.values for m in maps], axis=0, dtype=np.float64), maps[0].grid)

    @staticmethod
    def product(maps: Sequence[ImportanceMap]) -> ImportanceMap:
        """What one or more maps on the same grid agree on: their cell-wise product, which sums to 1.

        So no map counts for more by its scale. The product is taken in the logarithm (float64), lest many maps, or
        small values, come to nothing. A cell that is zero in one map is zero; where that leaves none, the map of zeros
        comes back, which says as little as any flat one.

        Args:
            maps: the maps, all of the same reading of the same image.

        Returns:
            The product, on their grid, with cells that sum to 1; or the map of zeros.

        Raises:
            AttnLensError: for no map, for maps on different grids, and for cells that are negative, infinite or NaN.

        Examples:
            >>> grid = Grid.regular(1, 3, (30, 10))
            >>> first, second = ImportanceMap([[0, 1, 1]], grid), ImportanceMap([[1, 1, 3]], grid)
            >>> ImportanceMap.product([first, second]).values.tolist()
            [[0.0, 0.25, 0.75]]
        """
        if not maps:
            raise AttnLensError("There is no map to multiply; expected at least one.")
        logarithm = np.zeros(maps[0].grid.shape)
        for one in maps:
            _check_same_grid(maps[0].grid, one.grid)
            with np.errstate(divide="ignore"):
                logarithm += np.log(_weights(one))
        highest = logarithm.max()
        product = np.exp(logarithm - highest) if highest > -math.inf else np.zeros_like(logarithm)
        return ImportanceMap(product.astype(np.float32), maps[0].grid).normalised()

    def __mul__(self, other: ImportanceMap | float) -> ImportanceMap:
        """Cell by cell with a map on the same grid, or by a number."""
        if isinstance(other, ImportanceMap):
            _check_same_grid(self.grid, other.grid)
            return ImportanceMap(self.values * other.values, self.grid)
        if np.ndim(other) == 0 and np.isreal(other):
            return ImportanceMap(self.values * np.float32(other), self.grid)
        return NotImplemented

    __rmul__ = __mul__

    def normalised(self) -> ImportanceMap:
        """The map scaled so that its cells sum to 1; a map of zeros, which has no scale, stays as it is.

        Returns:
            The scaled map, on the same grid.

        Raises:
            AttnLensError: when the sum is negative, infinite or NaN, or zero with cells that are not.

        Examples:
            >>> ImportanceMap([[1, 3]], Grid.regular(1, 2, (20, 10))).normalised().values.tolist()
            [[0.25, 0.75]]
        """
        total = float(self.values.sum(dtype=np.float64))
        if not self.values.any():
            return self
        if not (math.isfinite(total) and total > 0):
            raise AttnLensError(
                f"The map's cells sum to {total:g}; expected a positive number to divide by. "
                "Look for NaN, inf or negative cells in its values."
            )
        return ImportanceMap(self.values / total, self.grid)

    def entropy(self) -> float:
        """How spread out the map is: the Shannon entropy of its cells, as parts of their sum, in nats.

        A further look that no longer lowers it has nothing left to find (the spatial entropy of Entropy-Gradient
        Grounding, arXiv 2604.08456; the unit is a choice of ours).

        Returns:
            0 when all lies in one cell, log(rows * cols) when it is flat; NaN for a map of zeros, which lies nowhere.

        Raises:
            AttnLensError: for cells that are negative, infinite or NaN.

        Examples:
            >>> flat = ImportanceMap([[1, 1], [1, 1]], Grid.regular(2, 2, (20, 20)))
            >>> round(flat.entropy(), 3), round(math.log(4), 3)
            (1.386, 1.386)
        """
        weights = _weights(self)
        shares = weights[weights > 0] / max(weights.sum(), 1e-300)
        return float(-(shares * np.log(shares)).sum()) if shares.size else math.nan

    def inside(self, box: Sequence[float]) -> float:
        """The sum of the cells inside a box, each counted by the fraction of its area inside it.

        Args:
            box: (x1, y1, x2, y2) in pixels of the original image; clipped to it.

        Returns:
            The sum, in float64; not finite when the map has cells that are not.

        Raises:
            AttnLensError: for a box that is none, or lies outside the image, as `Box.from_any`.

        Examples:
            >>> m = ImportanceMap([[0, 1], [0, 3]], Grid.regular(2, 2, (200, 100)))
            >>> m.inside((100, 0, 200, 100)), m.inside((150, 50, 200, 100))
            (4.0, 1.5)
        """
        clipped = Box.from_any(box, self.grid.image_size)
        rows = overlaps(self.grid.y, clipped.y1, clipped.y2)
        cols = overlaps(self.grid.x, clipped.x1, clipped.x2)
        return float(_sums(self.values, rows, cols))

    def attention_ratio(self, box: Sequence[float]) -> float:
        """The sum inside a box over the mean of the same sum at every position of an equal-size box.

        Above 1: the model looks there more than chance would have it (ViCrop, arXiv 2502.17422, figure 3). Positions
        start at one edge of what the grid covers of the image and end at the other, evenly spaced, at most one cell
        apart; cells that a box cuts count by the fraction of their area. Sums are float64.

        Args:
            box: (x1, y1, x2, y2) in pixels of the original image; clipped to it.

        Returns:
            The ratio. NaN when every position sums to zero, so that there is nothing to compare with, or when the map
                has cells that are not finite.

        Raises:
            AttnLensError: for a box that is none, or lies outside the image, as `Box.from_any`.

        Examples:
            >>> m = ImportanceMap([[0, 1], [0, 3]], Grid.regular(2, 2, (200, 100)))
            >>> m.attention_ratio((100, 50, 200, 100))
            3.0
        """
        return float(box_ratios(self.values, self.grid, box))

    def to_pixels(self, smooth: bool = False) -> Floats:
        """The map over the original image, 0 where the model saw nothing.

        Args:
            smooth: whether to interpolate bilinearly between cell centres, inside what was seen. Otherwise a pixel has
                the value of the cell that holds its centre; of several, the one whose centre is nearest.

        Returns:
            float32 [height, width], in pixels of the original image.

        Examples:
            >>> m = ImportanceMap([[0, 1]], Grid.regular(1, 2, (4, 1)))
            >>> m.to_pixels().tolist(), m.to_pixels(smooth=True).tolist()
            ([[0.0, 0.0, 1.0, 1.0]], [[0.0, 0.25, 0.75, 1.0]])
        """
        width, height = self.grid.image_size
        cols, rows = _owners(self.grid.x, width), _owners(self.grid.y, height)
        if smooth:
            pixels = _interpolated(_interpolated(self.values, self.grid.y, height).T, self.grid.x, width).T
        else:
            pixels = self.values[np.ix_(rows, cols)]
        pixels[rows < 0, :] = 0
        pixels[:, cols < 0] = 0
        return np.ascontiguousarray(pixels)

    def overlay(self, image: ImageSource, alpha: float = 0.6, box: Sequence[float] | None = None) -> Image.Image:
        """RGB picture of the map over the image that it is about.

        The map's minimum to maximum become the colours of `HEAT`, from dark violet over orange to pale yellow, more
        opaque the more important, up to `alpha`. What the model did not see is greyed, and so are cells that are NaN or
        infinite.

        Args:
            image: the original image, of the size of the map's grid: a path, a PIL image or an array.
            alpha: opacity of the most important cells, from 0 (image only) to 1 (heat only).
            box: (x1, y1, x2, y2) in pixels of the original image, which is outlined; None outlines nothing.

        Returns:
            A PIL image of the original's size.

        Raises:
            AttnLensError: for an `alpha` outside 0 to 1, an image of another size, and a box that is none.

        Examples:
            >>> m = maps.relative_attention(reading, question)
            >>> m.overlay(image, box=scene.box).size
            (400, 400)
        """
        if not 0 <= alpha <= 1:
            raise AttnLensError(f"alpha is {alpha!r}; expected a number from 0 (image only) to 1 (heat only).")
        picture = open_image(image)
        if picture.size != self.grid.image_size:
            raise AttnLensError(
                f"The image has {_cells(picture.size)} pixels (width x height), the map is about one of "
                f"{_cells(self.grid.image_size)}. Pass the image that the map was made from."
            )
        finite = np.isfinite(self.values)
        levels = ImportanceMap(_levels(self.values, finite), self.grid).to_pixels(smooth=True)
        index = np.rint(levels * 255).astype(np.uint8)
        opacity = np.rint(np.linspace(_FAINTEST, 1, 256) * alpha * 255).astype(np.uint8)
        hot = Image.composite(Image.fromarray(HEAT[index]), picture, Image.fromarray(opacity[index]))
        seen = Image.fromarray((ImportanceMap(finite, self.grid).to_pixels() > 0).astype(np.uint8) * np.uint8(255))
        grey = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, (128, 128, 128)), 0.5)
        overlaid = Image.composite(hot, grey, seen)
        return overlaid if box is None else outline(overlaid, [box], "lime", rim="black")


def _weights(importance: ImportanceMap) -> npt.NDArray[np.float64]:
    """float64 [rows, cols]: the values, none of which may be less than nothing."""
    values = importance.values.astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise AttnLensError(
            f"The map's cells run from {values.min():g} to {values.max():g}; expected finite ones of 0 or more. Count "
            "negative ones as zero, or from the minimum: ImportanceMap(m.values - m.values.min(), m.grid)."
        )
    return values


def box_ratios(values: Floats, grid: Grid, box: Sequence[float]) -> npt.NDArray[np.float64]:
    """`ImportanceMap.attention_ratio` of many maps on one grid at once: [..., rows, cols] -> float64 [...]."""
    clipped = Box.from_any(box, grid.image_size)
    seen, (cell_width, cell_height) = grid.covered.clip(grid.image_size), grid.cell_size
    # A box's sum is rows @ values @ cols, linear in both: the mean over positions needs only their mean weights.
    inside = _sums(values, overlaps(grid.y, clipped.y1, clipped.y2), overlaps(grid.x, clipped.x1, clipped.x2))
    rows = _mean_overlaps(grid.y, clipped.height, cell_height, seen.y1, seen.y2)
    cols = _mean_overlaps(grid.x, clipped.width, cell_width, seen.x1, seen.x2)
    mean = _sums(values, rows, cols)
    with np.errstate(invalid="ignore"):
        return np.divide(inside, mean, out=np.full_like(mean, math.nan), where=mean != 0)


def _sums(values: Floats, rows: npt.NDArray[np.float64], cols: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [...]: the cells of [..., rows, cols], each weighted by its row and its column."""
    with np.errstate(invalid="ignore"):  # infinity times a weight of zero is the NaN that tells of it
        return np.asarray(rows @ values.astype(np.float64) @ cols)


def _matrix(values: Any) -> Floats:
    try:
        if np.iscomplexobj(values):
            raise TypeError("complex numbers")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which readers report
            matrix = np.array(values, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AttnLensError(
            f"The map's values ({type(values).__name__}) are no matrix of numbers: {error}. Expected [rows, cols], "
            "convertible to float32; a torch tensor: tensor.detach().float().cpu().numpy()."
        ) from None
    if matrix.ndim != 2:
        raise AttnLensError(
            f"The map's values have shape {matrix.shape}; expected [rows, cols]. "
            "A flat row of image tokens: values.reshape(grid.shape)."
        )
    return matrix


def _cells(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_same_grid(first: Grid, second: Grid) -> None:
    if first != second:
        raise AttnLensError(
            f"The maps lie on different grids: {_cells(first.shape)} cells over {tuple(first.covered)} of an image "
            f"of {first.image_size} pixels, and {_cells(second.shape)} over {tuple(second.covered)} of "
            f"{second.image_size}. Make both from the same reading of the same image."
        )


def _mean_overlaps(spans: Spans, side: float, cell: float, start: float, stop: float) -> npt.NDArray[np.float64]:
    room = max(0.0, stop - start - side)
    firsts = np.linspace(start, start + room, math.ceil(room / cell - 1e-9) + 1)
    return np.mean([overlaps(spans, first, first + side) for first in firsts], axis=0)


def _owners(spans: Spans, length: int) -> npt.NDArray[np.intp]:
    """int [length]: which span each pixel's centre lies in, -1 for none."""
    owners = np.full(length, -1)
    nearest = np.full(length, np.inf)
    centres = np.arange(length) + 0.5
    for index, (start, stop) in enumerate(spans):
        first, last = (min(max(math.ceil(edge - 0.5), 0), length) for edge in (start, stop))
        distance = np.abs(centres[first:last] - (start + stop) / 2)
        closer = distance < nearest[first:last]
        nearest[first:last][closer] = distance[closer]
        owners[first:last][closer] = index
    return owners


def _interpolated(values: Floats, spans: Spans, length: int) -> Floats:
    """[length, ...] from [n, ...]: linear between the centres of n spans, constant beyond the outermost."""
    centres = spans.mean(axis=1)
    order = np.argsort(centres, kind="stable")
    places = np.interp(np.arange(length) + 0.5, centres[order], np.arange(len(order)))
    lower = np.floor(places).astype(np.intp)
    upper = np.minimum(lower + 1, len(order) - 1)
    weight = (places - lower).astype(np.float32)[:, None]
    return values[order[lower]] * (1 - weight) + values[order[upper]] * weight


def _levels(values: Floats, finite: npt.NDArray[np.bool_]) -> Floats:
    """The finite values scaled to 0..1; 0 for the others, and everywhere when all are alike."""
    numbers = np.where(finite, values, values[finite].min() if finite.any() else 0).astype(np.float64)
    low, high = numbers.min(), numbers.max()
    return ((numbers - low) / max(high - low, 1e-300)).astype(np.float32)
