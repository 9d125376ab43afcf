"""The lattice of cells through which a model saw an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from attnlens._checks import is_count
from attnlens._storage import Valued
from attnlens.errors import AttnLensError
from attnlens.geometry._box import LONGEST, Box, checked_size

Spans = npt.NDArray[np.float64]
"""float64 [n, 2]: where each of n columns (or rows) begins and ends, in original pixels."""


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
