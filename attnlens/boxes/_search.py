"""The sliding-window search of ViCrop: from an importance map to the boxes worth a closer look.

Arithmetic is float64 on a summed-area table, so a window's sum costs four look-ups wherever and however large it is.

>>> m = ImportanceMap(np.eye(20)[::-1] ** 2 * np.arange(20), Grid.regular(20, 20, (1000, 1000)))
>>> search(m, window=200)[0].box
Box(x1=800, y1=0, x2=1000, y2=200)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attnlens._checks import check, check_count, check_iou, is_number
from attnlens.errors import AttnLensError
from attnlens.geometry import Box, Grid
from attnlens.geometry._grid import Spans
from attnlens.importance import ImportanceMap

CRITERIA = ("density", "sum")
RATIOS = (1, 1.2, 1.4, 1.6, 1.8, 2)

_FLAT = 1e-6  # a map whose values differ by less, relative to the largest, holds nothing but float32 rounding

_Table = npt.NDArray[np.float64]
_Pixels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """A box of an image, and by how much it stands out.

    Examples:
        >>> found = boxes.search(maps.relative_attention(reading, question), window=100)[0]
        >>> found.box, found.confident
        (Box(x1=150, y1=190, x2=250, y2=290), True)
    """

    box: Box
    """Ints, in pixels of the original image."""
    score: float
    """By how much its window stands out, in units of the map; what else makes regions says what their score is."""
    confident: bool
    """False when nothing in the map could choose a box; the box is then the whole image, and the score 0."""
    image: int = 0
    """Which of a reading's images the box lies in, counted from 0."""


class _Window(NamedTuple):
    """A window of `cols` x `rows` cells, which stands for a box of `side` pixels."""

    cols: int
    rows: int
    side: float


class _Pick(NamedTuple):
    """A placement of a window: its first column and row, and how much it stands out."""

    window: _Window
    col: int
    row: int
    score: float

    def cells(self) -> tuple[slice, slice]:
        return slice(self.col, self.col + self.window.cols), slice(self.row, self.row + self.window.rows)

    def box(self, grid: Grid) -> Box:
        cols, rows = self.cells()
        ((x1, x2),) = _pixel_edges(grid.x[cols], self.window.cols, self.window.side, grid.image_size[0]).tolist()
        ((y1, y2),) = _pixel_edges(grid.y[rows], self.window.rows, self.window.side, grid.image_size[1]).tolist()
        return Box(x1, y1, x2, y2)


def search(
    importance: ImportanceMap,
    window: float = 336,
    *,
    ratios: Sequence[float] = RATIOS,
    criterion: str = "density",
    count: int = 1,
    iou: float = 0.3,
) -> list[Region]:
    """The `count` most important boxes of an importance map, best first; fewer if fewer stand out, never none.

    Of each window, the placement with the largest sum is kept (the leftmost, then the topmost, of equals), and of these
    the one that stands out most (the first of equals): its sum less the mean of its existing four neighbours', one cell
    away (ViCrop, arXiv 2502.17422). A window that covers the map both ways is passed over. Cells wholly outside the
    image (padding) count as the map's minimum.

    The box has sides of 2 * (ratio * window // 2) pixels around the pixel at the window's centre, is moved to lie
    inside the image, cut where it is longer, and extended where rounding (or a gap between cells) would leave out the
    centre of the window's outermost cells.

    Further boxes, which the paper does not have: what a found window covers is lowered to the map's minimum, and the
    same search runs again on the placements that no neighbour exceeds and whose boxes overlap every found one by an
    intersection over union of at most `iou`, until there is none. So the first boxes do not depend on `count`; and the
    score of a further box, which is of the lowered map, may be above that of the one before it.

    Args:
        importance: the map to search.
        window: the side of a window of ratio 1, in pixels of the original image, above 0.
        ratios: one or more positive numbers. Windows have sides `ratios` x `window`, rounded down to whole cells, at
            least one. By default 1, 1.2, 1.4, 1.6, 1.8 and 2.
        criterion: "density" divides how much a window stands out by its number of cells, as the released code of ViCrop
            does, and leans to the smallest window; "sum" does not, as in the paper.
        count: how many boxes at most, at least 1.
        iou: the largest intersection over union of two boxes that are both found, from 0 (no overlap) up to, but not,
            1.

    Returns:
        The regions, with boxes of ints in pixels of the original image; `score` is by how much the window stands out,
            in units of the map. The whole image, score 0, `confident=False`, is what comes back when the map has a NaN
            or infinite cell, is flat, or its windows all tie; and when every window is at least as large as the map, so
            that there is nothing to choose.

    Raises:
        AttnLensError: for arguments of the wrong kind.

    Examples:
        >>> found = boxes.search(maps.relative_attention(reading, question), window=100)
        >>> found[0].box
        Box(x1=150, y1=190, x2=250, y2=290)
        >>> found[0].box.covers(Box(*scene.box))
        True
    """
    _check(importance, window, ratios, criterion, count, iou)
    grid = importance.grid
    whole = Region(Box(0, 0, *grid.image_size), 0.0, False)
    if not np.isfinite(importance.values).all():
        return [whole]
    values = np.array(importance.values.T, dtype=np.float64, order="C")  # [cols, rows]: x outer, as ties are broken
    lowest = values.min()
    values[~touches(grid.x, grid.image_size[0]), :] = lowest
    values[:, ~touches(grid.y, grid.image_size[1])] = lowest
    windows = _windows(grid, float(window), ratios)
    found: list[Region] = []
    while len(found) < count and not is_flat(values):
        pick = _pick(values, grid, windows, [f.box for f in found], iou, by_area=criterion == "density")
        if pick is None:
            break
        found.append(Region(pick.box(grid), pick.score, True))
        values[pick.cells()] = lowest
    return found or [whole]


def is_flat(values: npt.NDArray[np.float64]) -> bool:
    """Whether the values differ by no more than float32 rounding."""
    return bool(values.max() - values.min() <= _FLAT * np.abs(values).max())


def touches(spans: Spans, length: int) -> npt.NDArray[np.bool_]:
    """[n]: which of n spans reach into 0 to `length`."""
    return (spans[:, 0] < length) & (spans[:, 1] > 0)


def _windows(grid: Grid, side: float, ratios: Sequence[float]) -> list[_Window]:
    """Every window that leaves room for a choice, in the order of `ratios`."""
    cell_width, cell_height = grid.cell_size
    longest = 2.0 * max(grid.image_size) + 2  # a box of that side is cut to the image, wherever it stands
    windows = []
    for ratio in ratios:
        length = float(side * ratio)
        cols, rows = _cells(length, cell_width, grid.cols), _cells(length, cell_height, grid.rows)
        if (rows, cols) != grid.shape:
            windows.append(_Window(cols, rows, min(length, longest)))
    return windows


def _cells(length: float, cell: float, most: int) -> int:
    """How many whole cells lie in `length` pixels, at least one and at most `most`."""
    return max(1, int(min(length / cell, most))) if cell else most


def _pixel_edges(spans: Spans, cells: int, side: float, limit: int) -> _Pixels:
    """int64 [places, 2]: edges in pixels, inside 0..limit, of the box for `cells` spans from each place on."""
    first, last = spans[: len(spans) - cells + 1], spans[cells - 1 :]
    centre = np.floor((first[:, 0] + last[:, 1]) / 2)
    ends = np.floor([(first[:, 0] + first[:, 1]) / 2, (last[:, 0] + last[:, 1]) / 2])
    # Spans may run backwards, or overlap: the first of them need not be the leftmost.
    start = np.minimum(centre - side // 2, ends.min(axis=0))
    stop = np.maximum(centre + side // 2, ends.max(axis=0) + 1)
    length = np.minimum(stop - start, limit)
    start = np.clip(start, 0, limit - length)
    return np.stack([start, start + length], axis=1).astype(np.int64)


def _pick(
    values: _Table, grid: Grid, windows: list[_Window], taken: list[Box], iou: float, by_area: bool
) -> _Pick | None:
    """The placement that stands out most of those that overlap no `taken` box by more than `iou`, or None."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    np.cumsum(np.cumsum(values, axis=0), axis=1, out=table[1:, 1:])
    best: _Pick | None = None
    informative = False
    for window in windows:
        high, low = table[window.cols :], table[: -window.cols]
        sums = high[:, window.rows :] - high[:, : -window.rows] - low[:, window.rows :] + low[:, : -window.rows]
        open_sums = _without(sums, grid, window, taken, iou) if taken else sums
        place = int(np.argmax(open_sums))
        col, row = divmod(place, sums.shape[1])
        if open_sums[col, row] == -np.inf:
            continue
        score = _prominence(sums, col, row) / (window.cols * window.rows if by_area else 1)
        if best is None or score > best.score:
            best = _Pick(window, col, row, score)
            informative = bool(sums.min() < sums[col, row])
    return best if best is not None and informative else None


def _prominence(sums: _Table, col: int, row: int) -> float:
    """The sum at one placement less the mean of its four neighbours', as many as there are."""
    places = [(col - 1, row), (col + 1, row), (col, row - 1), (col, row + 1)]
    near = [float(sums[x, y]) for x, y in places if 0 <= x < sums.shape[0] and 0 <= y < sums.shape[1]]
    return float(sums[col, row]) - sum(near) / len(near)


def _without(sums: _Table, grid: Grid, window: _Window, taken: list[Box], iou: float) -> _Table:
    """`sums`, with -inf where a neighbour's is larger or the placement's box overlaps a `taken` one too much."""
    x1, x2 = _pixel_edges(grid.x, window.cols, window.side, grid.image_size[0]).T
    y1, y2 = _pixel_edges(grid.y, window.rows, window.side, grid.image_size[1]).T
    areas = np.outer(x2 - x1, y2 - y1)
    open_sums = np.where(_is_peak(sums), sums, -np.inf)
    for box in taken:
        across = np.maximum(np.minimum(x2, box.x2) - np.maximum(x1, box.x1), 0)
        shared = np.outer(across, np.maximum(np.minimum(y2, box.y2) - np.maximum(y1, box.y1), 0))
        open_sums = np.where(shared > iou * (areas + box.area - shared), -np.inf, open_sums)
    return open_sums


def _is_peak(sums: _Table) -> npt.NDArray[np.bool_]:
    """Where none of the four neighbours is larger."""
    peak = np.ones(sums.shape, dtype=bool)
    peak[1:] &= sums[1:] >= sums[:-1]
    peak[:-1] &= sums[:-1] >= sums[1:]
    peak[:, 1:] &= sums[:, 1:] >= sums[:, :-1]
    peak[:, :-1] &= sums[:, :-1] >= sums[:, 1:]
    return peak


def check_importance(importance: object, taker: str) -> None:
    """Raises AttnLensError unless `importance` is a map."""
    if not isinstance(importance, ImportanceMap):
        raise AttnLensError(
            f"{taker} was given {type(importance).__name__!r}; expected an ImportanceMap. "
            "Wrap a matrix: ImportanceMap(values, Grid.regular(rows, cols, (width, height)))."
        )


def check_window(window: object) -> None:
    """Raises AttnLensError unless `window` is a length in pixels."""
    check(_is_positive(window), "window", window, "the side of the smallest box in pixels, above 0")


def _check(
    importance: object, window: object, ratios: Sequence[float], criterion: object, count: object, iou: object
) -> None:
    check_importance(importance, "search")
    check_window(window)
    known = isinstance(ratios, Sequence | np.ndarray) and len(ratios) and all(map(_is_positive, ratios))
    check(bool(known), "ratios", ratios, f"one or more positive numbers, as in {RATIOS}")
    if criterion not in CRITERIA:
        names = " or ".join(map(repr, CRITERIA))
        raise AttnLensError(f"There is no criterion {criterion!r}; expected {names}.")
    check_count("count", count, "boxes")
    check_iou(iou)


def _is_positive(value: object) -> bool:
    return is_number(value) and value > 0
