"""Where things lie: boxes in the original image, and the lattice of cells through which a model saw it.

Everything here is in the frame *original image*: pixels, x to the right, y down, boxes half-open. Pixel (i, j) covers
[i, i + 1) x [j, j + 1), so its centre is at (i + 0.5, j + 0.5).

>>> grid = Grid.regular(rows=2, cols=4, image_size=(400, 100))
>>> grid.cell(1, 3)
Box(x1=300.0, y1=50.0, x2=400.0, y2=100.0)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnlens._checks import is_count, is_finite
from attnlens._renamed import warn
from attnlens._storage import Valued
from attnlens.errors import AttnLensError, quoted

__all__ = ["Box", "Grid"]

Spans = npt.NDArray[np.float64]
"""float64 [n, 2]: where each of n columns (or rows) begins and ends, in original pixels."""


LONGEST = 2**31 - 1
"""Pixels: the longest edge of an image, and how far a grid may reach."""


def checked_size(image_size: object) -> tuple[int, int]:
    """`image_size` as (width, height) in whole pixels, both at least 1; anything else is an AttnLensError."""
    numbers = _numbers(image_size, 2)
    if numbers is None or any(n != int(n) or not 1 <= n <= LONGEST for n in numbers):
        raise AttnLensError(
            f"The image size is {quoted(image_size)}; expected (width, height), whole numbers of pixels, both at least "
            "1. A PIL image has it as image.size; of an array it is (shape[1], shape[0])."
        )
    return int(numbers[0]), int(numbers[1])


class Box(NamedTuple):
    """A rectangle (x1, y1, x2, y2) in original pixels, half-open: x1 <= x < x2, y1 <= y < y2. Ints or floats.

    A named tuple, and so taken wherever four numbers are.

    Attributes:
        x1: left edge, in pixels of the original image.
        y1: top edge; y runs down.
        x2: right edge, the first x that is no longer inside.
        y2: bottom edge, the first y that is no longer inside.

    Examples:
        >>> Box(10, 20, 40, 30).square((400, 400))
        Box(x1=10, y1=10, x2=40, y2=40)
    """

    x1: float
    y1: float
    x2: float
    y2: float

    @classmethod
    def from_any(cls, value: object, image_size: tuple[int, int]) -> Box:
        """A user's (x1, y1, x2, y2) in original pixels as a box, clipped to the image.

        Args:
            value: four finite numbers in order, x1 < x2 and y1 < y2, in pixels of the original image after its EXIF
                orientation is applied; a sequence, an array or a tensor.
            image_size: (width, height) of the original image, in pixels.

        Returns:
            The part of the box inside the image; whole numbers stay ints.

        Raises:
            AttnLensError: unless it is four finite numbers in order that overlap the image; and for numbers that seem
                to be fractions of the image, all at most 1 and not all whole.

        Examples:
            >>> Box.from_any([350, 20, 500, 60], (400, 400))
            Box(x1=350, y1=20, x2=400, y2=60)
        """
        width, height = checked_size(image_size)
        numbers = _numbers(value, 4)
        if numbers is None:
            raise AttnLensError(
                f"The box is {quoted(value)}; expected four finite numbers (x1, y1, x2, y2), in pixels of the original "
                "image."
            )
        box = cls(*numbers)
        if not (box.x1 < box.x2 and box.y1 < box.y2):
            raise AttnLensError(
                f"The box {tuple(box)} is empty or out of order; expected x1 < x2 and y1 < y2. "
                "If it is (x, y, width, height), pass (x, y, x + width, y + height)."
            )
        if max(box) <= 1 and any(n != int(n) for n in box):
            raise AttnLensError(
                f"The box {tuple(box)} seems to be in fractions of the image; expected pixels. "
                f"Multiply x by the image's width ({width}) and y by its height ({height})."
            )
        clipped = box.clip((width, height))
        if clipped.area <= 0:
            raise AttnLensError(
                f"The box {tuple(box)} lies outside the image, which is {width} x {height} pixels (width x height). "
                "Boxes are in pixels of the original image, after its EXIF orientation is applied."
            )
        return clipped

    @property
    def width(self) -> float:
        """In pixels: x2 - x1."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """In pixels: y2 - y1."""
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """In square pixels; 0 when the box is empty."""
        return max(0, self.width) * max(0, self.height)

    def shared(self, other: Box) -> float:
        """What this box and another have in common.

        Args:
            other: the other box, in pixels of the same image.

        Returns:
            The area of the intersection, in square pixels; 0 where they do not meet.

        Examples:
            >>> Box(0, 0, 20, 10).shared(Box(15, 5, 30, 30))
            25
        """
        across = min(self.x2, other.x2) - max(self.x1, other.x1)
        down = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0, across) * max(0, down)

    def covers(self, target: Box) -> bool:
        """Whether at least half of a target lies in this box.

        Args:
            target: the target's box, in pixels of the same image.

        Returns:
            True where the two share at least half of the target's area.

        Examples:
            >>> Box(0, 0, 20, 10).covers(Box(15, 0, 25, 10)), Box(0, 0, 20, 10).covers(Box(16, 0, 26, 10))
            (True, False)
        """
        return self.shared(target) >= target.area / 2

    def holds(self, target: Box) -> bool:
        """The word of 0.1.0 for `covers`."""
        warn("Box.holds", "Box.covers", depth=3)
        return self.covers(target)

    def iou(self, other: Box) -> float:
        """Intersection over union with another box.

        Args:
            other: the other box, in pixels of the same image.

        Returns:
            A number from 0 to 1; 0 when both are empty.

        Examples:
            >>> Box(0, 0, 20, 10).iou(Box(10, 0, 20, 10))
            0.5
        """
        shared = self.shared(other)
        union = self.area + other.area - shared
        return shared / union if union > 0 else 0.0

    def clip(self, image_size: tuple[int, int]) -> Box:
        """The part of this box inside an image.

        Args:
            image_size: (width, height) of the image, in pixels.

        Returns:
            The part inside; empty (area 0) when there is none.

        Examples:
            >>> Box(-5, 10, 30, 40).clip((20, 20))
            Box(x1=0, y1=10, x2=20, y2=20)
        """
        width, height = image_size
        return Box(
            min(max(self.x1, 0), width), min(max(self.y1, 0), height),
            min(max(self.x2, 0), width), min(max(self.y2, 0), height),
        )  # fmt: skip

    def square(self, image_size: tuple[int, int], at_least: float = 0) -> Box:
        """The smallest square, of a given side or more, that covers the part of this box inside the image.

        It is centred on that part, then moved, not shrunk, to lie inside the image; in a direction where it is longer
        than the image it becomes the whole image. Whole-pixel boxes give whole-pixel squares. This is the human crop of
        ViCrop (arXiv 2502.17422).

        Args:
            image_size: (width, height) of the original image, in pixels.
            at_least: the least side of the square, in pixels.

        Returns:
            The square, in pixels of the original image; no square where the image is too narrow or too low for it.

        Examples:
            >>> Box(390, 100, 400, 120).square((400, 400), at_least=50)
            Box(x1=350, y1=85, x2=400, y2=135)
        """
        box = self.clip(image_size)
        side = max(box.width, box.height, at_least)
        x1, x2 = _centred(box.x1, box.x2, side, image_size[0])
        y1, y2 = _centred(box.y1, box.y2, side, image_size[1])
        return Box(x1, y1, x2, y2)

    @classmethod
    def around(cls, boxes: Sequence[Sequence[float]]) -> Box:
        """The smallest box around one or more.

        Args:
            boxes: the boxes, (x1, y1, x2, y2) each, in pixels of the same image.

        Returns:
            Their bounding box, in the same pixels.

        Raises:
            AttnLensError: for none.

        Examples:
            >>> Box.around([(10, 10, 20, 20), (50, 5, 60, 15)])
            Box(x1=10, y1=5, x2=60, y2=20)
        """
        if not boxes:
            raise AttnLensError("There is no box to draw one around; expected at least one.")
        x1, y1, x2, y2 = zip(*boxes, strict=True)
        return cls(min(x1), min(y1), max(x2), max(y2))

    def to_pixels(self, image_size: tuple[int, int]) -> Box:
        """The nearest box of whole pixels inside an image.

        Args:
            image_size: (width, height) of the image, in pixels.

        Returns:
            A box of Python ints, at least one pixel wide and high.

        Examples:
            >>> Box(10.4, 20.6, 10.6, 399.9).to_pixels((400, 400))
            Box(x1=10, y1=21, x2=11, y2=400)
        """
        x1, x2 = _whole(self.x1, self.x2, image_size[0])
        y1, y2 = _whole(self.y1, self.y2, image_size[1])
        return Box(x1, y1, x2, y2)


@dataclass(frozen=True, eq=False)
class Grid(Valued):
    """For each column and each row of a map, the pixels of the original image that it saw.

    Cells may reach outside the image (padding), leave parts of it unseen (centre crop), and have gaps or overlaps
    between them (tiles). Raises AttnLensError for edges or a size that are none.

    Examples:
        >>> grid = Grid(x=[[0, 30], [30, 50]], y=[[0, 40]], image_size=(50, 40))
        >>> grid.shape, grid.cell(0, 1)
        ((1, 2), Box(x1=30.0, y1=0.0, x2=50.0, y2=40.0))
    """

    x: Spans
    """float64 [cols, 2]: the left and right edge of each column, in original pixels."""
    y: Spans
    """float64 [rows, 2]: the top and bottom edge of each row, in original pixels."""
    image_size: tuple[int, int]
    """(width, height) of the original image, in pixels."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", _checked_spans(self.x, "x", "cols"))
        object.__setattr__(self, "y", _checked_spans(self.y, "y", "rows"))
        object.__setattr__(self, "image_size", checked_size(self.image_size))

    @classmethod
    def regular(cls, rows: int, cols: int, image_size: tuple[int, int], region: Box | None = None) -> Grid:
        """A grid of equal cells over the image, or over a part of it.

        Args:
            rows: how many rows of cells, at least 1.
            cols: how many columns of cells, at least 1.
            image_size: (width, height) of the original image, in pixels.
            region: what the cells cover, (x1, y1, x2, y2) in original pixels; it may reach outside the image. None
                stands for the whole image.

        Returns:
            The grid of `rows` x `cols` cells.

        Raises:
            AttnLensError: for counts that are no whole numbers of at least 1, an image size that is none, or a region
                that is empty.

        Examples:
            >>> Grid.regular(24, 24, (1000, 750), region=Box(125, 0, 875, 750)).cell_size
            (31.25, 31.25)
        """
        width, height = checked_size(image_size)
        if not (is_count(rows) and is_count(cols)):
            raise AttnLensError(f"A grid has {rows!r} rows and {cols!r} columns; expected whole numbers, at least 1.")
        box = Box(0, 0, width, height) if region is None else Box(*region)
        return cls(_equal_spans(box.x1, box.x2, cols), _equal_spans(box.y1, box.y2, rows), (width, height))

    @classmethod
    def stitch(
        cls, grids: Sequence[Sequence[Grid]], boxes: Sequence[Sequence[Box]], image_size: tuple[int, int]
    ) -> Grid:
        """One grid from those of an image's tiles, row-major.

        Args:
            grids: the grids of the tiles: `grids[i][j]` is that of the tile in row i, column j, in the frame of its own
                tile.
            boxes: where the tiles lie: `boxes[i][j]`, in original pixels of the image. `attnlens.boxes.tiles` cuts an
                image so.
            image_size: (width, height) of the whole image, in pixels.

        Returns:
            The grid of all tiles' cells, in the frame of the whole image.

        Raises:
            AttnLensError: where grids and boxes are not the same rectangle of tiles, where a grid is for another size
                than its box, and where the tiles of a column do not share their columns, or those of a row their rows.

        Examples:
            >>> half = Grid.regular(2, 2, (100, 80))
            >>> Grid.stitch([[half, half]], [[Box(0, 0, 100, 80), Box(100, 0, 200, 80)]], (200, 80)).shape
            (2, 4)
        """
        _check_layout(grids, boxes)
        for grid, box in zip(chain.from_iterable(grids), chain.from_iterable(boxes), strict=True):
            if grid.image_size != (box[2] - box[0], box[3] - box[1]):
                raise AttnLensError(
                    f"A tile's grid is for an image of {grid.image_size} pixels, but its box is {tuple(box)}. "
                    "Make each grid for the crop that its box cuts out."
                )
        x = [[grid.x + box[0] for grid, box in zip(*pair, strict=True)] for pair in zip(grids, boxes, strict=True)]
        y = [[grid.y + box[1] for grid, box in zip(*pair, strict=True)] for pair in zip(grids, boxes, strict=True)]
        for row_x, row_y in zip(x, y, strict=True):
            same_columns = all(np.array_equal(a, b) for a, b in zip(row_x, x[0], strict=True))
            if not same_columns or not all(np.array_equal(a, row_y[0]) for a in row_y):
                raise AttnLensError(
                    "The tiles do not line up: those above each other must have the same columns, those beside each "
                    "other the same rows. Cut the image with attnlens.boxes.tiles, which makes all tiles equal."
                )
        return cls(np.concatenate(x[0]), np.concatenate([row[0] for row in y]), image_size)

    @property
    def rows(self) -> int:
        """How many rows of cells there are."""
        return len(self.y)

    @property
    def cols(self) -> int:
        """How many columns of cells there are."""
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols), the shape of a map on this grid."""
        return self.rows, self.cols

    @property
    def covered(self) -> Box:
        """The smallest box around all cells; it may reach outside the image."""
        return self.span(0, 0, self.rows, self.cols)

    @property
    def cell_size(self) -> tuple[float, float]:
        """Mean (width, height) of a cell in pixels: what is covered, gaps included, over the number of cells."""
        box = self.covered
        return box.width / self.cols, box.height / self.rows

    def cell(self, row: int, col: int) -> Box:
        """What one cell saw.

        Args:
            row: the cell's row, counted from 0 at the top.
            col: its column, counted from 0 on the left.

        Returns:
            The cell's box, in original pixels.

        Raises:
            AttnLensError: where the grid has no such cell.

        Examples:
            >>> Grid.regular(rows=2, cols=4, image_size=(400, 100)).cell(1, 3)
            Box(x1=300.0, y1=50.0, x2=400.0, y2=100.0)
        """
        return self.span(row, col, row + 1, col + 1)

    def span(self, row0: int, col0: int, row1: int, col1: int) -> Box:
        """The smallest box around a rectangle of cells: row0 <= row < row1 and col0 <= col < col1.

        Args:
            row0: the first row, counted from 0.
            col0: the first column, counted from 0.
            row1: the row after the last.
            col1: the column after the last.

        Returns:
            The box, in original pixels.

        Raises:
            AttnLensError: where the rectangle is empty or not in the grid.

        Examples:
            >>> Grid.regular(rows=2, cols=4, image_size=(400, 100)).span(0, 1, 2, 3)
            Box(x1=100.0, y1=0.0, x2=300.0, y2=100.0)
        """
        if not (0 <= row0 < row1 <= self.rows and 0 <= col0 < col1 <= self.cols):
            raise AttnLensError(
                f"Rows {row0} to {row1} and columns {col0} to {col1} (half-open) are not in a grid of "
                f"{self.rows} x {self.cols} cells (rows x cols)."
            )
        x, y = self.x[col0:col1], self.y[row0:row1]
        return Box(float(x[:, 0].min()), float(y[:, 0].min()), float(x[:, 1].max()), float(y[:, 1].max()))


def overlaps(spans: Spans, start: float, stop: float) -> npt.NDArray[np.float64]:
    """float64 [n]: the fraction of each of n spans that lies in [start, stop)."""
    shared = np.minimum(spans[:, 1], stop) - np.maximum(spans[:, 0], start)
    return np.asarray(np.maximum(shared, 0) / (spans[:, 1] - spans[:, 0]))


def _numbers(value: Any, count: int) -> list[float] | None:
    """`value` as `count` finite Python numbers (whole ones stay ints), or None if it is not that."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, Sequence) or len(value) != count:
        return None
    if not all(isinstance(n, Real) and is_finite(n) for n in value):
        return None
    return [int(n) if isinstance(n, Integral) else float(n) for n in value]


def _centred(start: float, stop: float, side: float, limit: int) -> tuple[float, float]:
    if side >= limit:
        return 0, limit
    whole = all(isinstance(n, Integral) for n in (start, stop, side))
    first = (start + stop - side) // 2 if whole else (start + stop - side) / 2
    first = min(max(first, 0), limit - side)
    return first, first + side


def _whole(start: float, stop: float, limit: int) -> tuple[int, int]:
    first = min(max(math.floor(start + 0.5), 0), limit - 1)
    return first, min(max(math.floor(stop + 0.5), first + 1), limit)


def _equal_spans(start: float, stop: float, count: int) -> Spans:
    edges = start + np.arange(count + 1, dtype=np.float64) * (stop - start) / count
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _checked_spans(spans: Any, name: str, axis: str) -> Spans:
    try:
        # Adding zero makes a copy, and turns -0.0 into 0.0.
        array: Spans = np.asarray(spans, dtype=np.float64) + 0.0
    except (TypeError, ValueError, OverflowError):
        array = np.empty((0, 0))
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise AttnLensError(
            f"A grid's {name} is {spans!r}; expected an array [{axis}, 2] of the edges of at least one cell, in pixels."
        )
    good = (np.abs(array) <= LONGEST).all(axis=1) & (array[:, 0] < array[:, 1])
    if not good.all():
        bad = int(np.argmin(good))
        raise AttnLensError(
            f"A grid's {name}[{bad}] is {array[bad].tolist()}; expected two finite numbers of pixels, in order, of at "
            f"most {LONGEST}."
        )
    array.setflags(write=False)
    return array


def _check_layout(parts: Sequence[Sequence[object]], boxes: Sequence[Sequence[Box]]) -> None:
    counts, box_counts = [len(row) for row in parts], [len(row) for row in boxes]
    if not counts or not counts[0] or len(set(counts)) != 1 or counts != box_counts:
        raise AttnLensError(
            f"Tiles per row: {counts}, boxes per row: {box_counts}; expected the same rectangle of both, row-major, "
            "at least one tile. Cut the image with attnlens.boxes.tiles."
        )
