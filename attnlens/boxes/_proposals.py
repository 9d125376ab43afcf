"""The region proposals of FOCUS (arXiv 2506.21710, step IV): from a relevance map to boxes worth asking about.

Unlike the sliding window of ViCrop they grow from single cells, and there are many of them, because a question to the
model (does this crop show the target?) chooses among them.

>>> m = ImportanceMap(np.eye(20)[::-1] ** 2 * np.arange(20), Grid.regular(20, 20, (1000, 1000)))
>>> propose(m)[0].box
Box(x1=900, y1=0, x2=1000, y2=100)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from attnlens._checks import check_between, check_count, check_iou, is_count
from attnlens.boxes._search import Region, check_importance, is_flat, touches
from attnlens.boxes._suppression import suppress
from attnlens.errors import AttnLensError
from attnlens.geometry import Box, Grid
from attnlens.importance import ImportanceMap

_Relevance = npt.NDArray[np.float64]
_Cell = tuple[int, int]


def propose(
    importance: ImportanceMap,
    *,
    anchors: int = 30,
    smallest: int = 3,
    largest: int = 5,
    distance: float = 2,
    threshold: float = 0.5,
    iou: float = 0.3,
) -> list[Region]:
    """The regions of a relevance map, best first, as boxes of ints in original pixels; never none.

    1. The most relevant cells are the anchors (the first in reading order of equals). One that is closer than
       `distance` cells to a better anchor is dropped.
    2. The region of an anchor is the square of `smallest` cells around it. It grows by a cell on each side while it has
       at most `largest` cells on a side and the mean relevance inside is at least `threshold` times its anchor's.
    3. Regions are ranked by their anchor's relevance, and one that overlaps a better one too much is dropped.

    These are the proposals of FOCUS (arXiv 2506.21710, step IV). What the paper leaves open, and what is done here. The
    scale of the expansion threshold: the anchor's relevance; of a map with negative cells, relevance is counted from
    its minimum. The step that would bring the mean below the threshold is not taken. A dropped anchor drops no other.
    An even side has its odd cell to the right and below.

    At the map's edge a region is cut, and the mean is over the cells that are left; a step that would make it the whole
    map is not taken. Cells at the map's minimum stand out from nothing and are no anchors; cells wholly outside the
    image (padding) count as that minimum.

    Args:
        importance: the relevance map, such as `attnlens.maps.value_similarity` makes.
        anchors: how many cells are anchors at most, at least 1; all of them where there are fewer.
        smallest: the side of the smallest region, in cells, at least 1 (paper: 3).
        largest: the side of the largest region, in cells, at least `smallest` (paper: 5).
        distance: the least distance between two anchors, in cells (Euclidean, between centres), at least 0.
        threshold: the fraction of the anchor's relevance that the mean inside a grown region has at least, 0 to 1
            (paper: 0.5).
        iou: a region that overlaps a better one by an intersection over union above this is dropped. From 0 up to, but
            not, 1.

    Returns:
        The regions; `score` is the anchor's value on the map. The whole image, score 0, `confident=False`, is what
            comes back when the map has a NaN or infinite cell, is flat, or is no larger than the smallest region both
            ways.

    Raises:
        AttnLensError: for arguments of the wrong kind.

    Examples:
        >>> found = boxes.propose(maps.relative_attention(reading, question))
        >>> len(found), found[0].box
        (7, Box(x1=160, y1=200, x2=280, y2=320))
    """
    _check(importance, anchors, smallest, largest, distance, threshold, iou)
    grid = importance.grid
    whole = [Region(Box(0, 0, *grid.image_size), 0.0, False)]
    if not np.isfinite(importance.values).all() or (grid.rows <= smallest and grid.cols <= smallest):
        return whole
    values = _inside_the_image(importance)
    if is_flat(values):
        return whole
    relevance = values - min(float(values.min()), 0)
    found = []
    for cell in _anchors(relevance, anchors, distance):
        rows, cols = _region(relevance, cell, smallest, largest, threshold)
        found.append(Region(_box(grid, rows, cols), float(values[cell]), True))
    return [found[index] for index in suppress([one.box for one in found], iou)] or whole


def _inside_the_image(importance: ImportanceMap) -> _Relevance:
    """float64 [rows, cols]: the values, with the minimum where a cell sees nothing of the image."""
    values = importance.values.astype(np.float64)
    width, height = importance.grid.image_size
    values[~touches(importance.grid.y, height), :] = values.min()
    values[:, ~touches(importance.grid.x, width)] = values.min()
    return values


def _anchors(relevance: _Relevance, count: int, distance: float) -> list[_Cell]:
    """The `count` most relevant cells, best first, less those closer than `distance` cells to a better one."""
    order = np.argsort(-relevance, axis=None, kind="stable")[:count]
    chosen: list[_Cell] = []
    for row, col in zip(*(axis.tolist() for axis in np.unravel_index(order, relevance.shape)), strict=True):
        if relevance[row, col] > relevance.min() and all(
            math.hypot(row - other_row, col - other_col) >= distance for other_row, other_col in chosen
        ):
            chosen.append((row, col))
    return chosen


def _region(relevance: _Relevance, anchor: _Cell, smallest: int, largest: int, threshold: float) -> tuple[slice, slice]:
    """The rows and columns of the largest region around `anchor` that stays relevant."""
    region = _square(anchor, smallest, relevance.shape)
    for side in range(smallest + 2, largest + 1, 2):
        grown = _square(anchor, side, relevance.shape)
        cells = relevance[grown]
        if cells.mean() < threshold * relevance[anchor] or cells.size == relevance.size:
            break
        region = grown
    return region


def _square(centre: _Cell, side: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the square of `side` cells around `centre`, as far as it lies on a map of `shape`."""
    before = (side - 1) // 2
    rows, cols = (
        slice(max(0, middle - before), min(length, middle - before + side))
        for middle, length in zip(centre, shape, strict=True)
    )
    return rows, cols


def _box(grid: Grid, rows: slice, cols: slice) -> Box:
    seen = grid.span(rows.start, cols.start, rows.stop, cols.stop)
    return seen.clip(grid.image_size).to_pixels(grid.image_size)


def _check(
    importance: object, anchors: object, smallest: int, largest: int, distance: object, threshold: object, iou: object
) -> None:
    check_importance(importance, "propose")
    check_count("anchors", anchors, "cells")
    if not (is_count(smallest) and is_count(largest)):
        raise AttnLensError(
            f"smallest is {smallest!r} and largest {largest!r}; expected whole numbers of cells, at least 1, the sides "
            "of the smallest and the largest region (paper: 3 and 5)."
        )
    if smallest > largest:
        raise AttnLensError(
            f"The smallest region has {smallest} cells on a side, the largest {largest}. Expected smallest <= largest."
        )
    check_between("distance", distance, 0, math.inf, "a number of cells between anchors, at least 0")
    check_between("threshold", threshold, 0, 1, "a fraction of the anchor's relevance, 0 to 1 (paper: 0.5)")
    check_iou(iou)
