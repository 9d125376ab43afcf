"""The connected components of an importance map: regions of the shape and size that the map itself gives them.

Where the sliding window of ViCrop asks for the best place of a given size, this asks which cells stand out and what
hangs together, so that two far targets are two boxes and a long one is long.

>>> m = ImportanceMap(np.pad(np.ones((2, 4)), 8), Grid.regular(18, 20, (1000, 900)))
>>> components(m, window=50, sigma=0)[0].box
Box(x1=400, y1=400, x2=600, y2=500)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects, gaussian_filter, label

from attnlens._checks import check_between, check_count, check_iou
from attnlens.boxes._search import Region, check_importance, check_window, is_flat, touches
from attnlens.boxes._suppression import suppress
from attnlens.boxes.tree import merge_near
from attnlens.geometry import Box
from attnlens.geometry._grid import Spans
from attnlens.importance import ImportanceMap

SIGMA = 1.5 / 24
"""Of the smoothing Gaussian, in sides of the map."""

_Values = npt.NDArray[np.float64]
_NEIGHBOURS = np.ones((3, 3))  # a cell and the eight around it


def components(
    importance: ImportanceMap,
    window: float = 336,
    *,
    count: int = 2,
    sigma: float | None = None,
    threshold: float | None = None,
    aspect: float = 3,
    iou: float = 0.3,
) -> list[Region]:
    """The `count` regions that stand out most of an importance map, best first; fewer if fewer do, never none.

    1. The map is smoothed on its grid by a Gaussian of `sigma` cells.
    2. The cells that stand out are kept: those above the elbow of the sorted values, the point of greatest distance to
       the chord from the largest to the smallest (Entropy-Gradient Grounding, arXiv 2604.08456, with 2 regions), or
       those at or above `threshold` (HiDe, arXiv 2510.00054).
    3. Of the 8-connected components of kept cells, those of the largest sums come first.
    4. The box is the tight one around the component's cells, then at least `window` pixels a side and at most `aspect`
       times as long as wide, by growing the shorter side about its centre; moved, and where need be cut, to lie inside
       the image.

    What the papers leave open, and what is done here. Smoothing mirrors the map at its edges, which keeps its sum. The
    elbow lies below the chord, where the few large values end, and is the first of the flat ones, so it is not kept: on
    a map of zeros and a few ones it is a zero. Where no value lies below the chord, the largest are kept.

    Of a map with negative cells, sums count from the minimum. Equal sums: in reading order. A box that has become the
    whole image is dropped, as it is no choice. Cells wholly outside the image (padding) are left out before anything
    else, and what lies on both sides of them then touches.

    Args:
        importance: the map to cut.
        window: the least side of a box, in pixels of the original image, above 0.
        count: how many boxes at most, at least 1.
        sigma: of the smoothing Gaussian, in cells; 0 for a map that is smooth already. None: a sixteenth of the map's
            longer side, which is the 1.5 cells of 24 of Entropy-Gradient Grounding on maps of any size. HiDe has 3.
        threshold: a fraction of the way from the map's minimum to its maximum, 0 to 1, at or above which cells are
            kept; HiDe has 0.7. None: the elbow of the values.
        aspect: how many times as long as wide a box may be, at least 1.
        iou: a box that overlaps a better one by an intersection over union above this is dropped, since growing may
            have made them one. From 0 up to, but not, 1.

    Returns:
        The regions, with boxes of ints in pixels of the original image; `score` is the sum of the component's cells on
            the smoothed map. The whole image, score 0, `confident=False`, is what comes back when the map has a NaN or
            infinite cell, is flat before or after smoothing, or has no box left.

    Raises:
        AttnLensError: for arguments of the wrong kind.

    Examples:
        >>> found = boxes.components(maps.relative_attention(reading, question), window=100)
        >>> [tuple(one.box) for one in found]
        [(120, 200, 280, 320)]
    """
    _check(importance, window, count, sigma, threshold, aspect, iou)
    grid = importance.grid
    whole = Box(0, 0, *grid.image_size)
    nothing = [Region(whole, 0.0, False)]
    rows, cols = touches(grid.y, grid.image_size[1]), touches(grid.x, grid.image_size[0])
    values = importance.values[np.ix_(rows, cols)].astype(np.float64)
    if not np.isfinite(importance.values).all() or not values.size or is_flat(values):
        return nothing
    sigma = SIGMA * max(values.shape) if sigma is None else sigma
    smooth = gaussian_filter(values, sigma, mode="reflect") if sigma else values
    if is_flat(smooth):
        return nothing
    found = [
        Region(box, score, True)
        for score, where in _regions(smooth, threshold)
        if (box := _box(grid.x[cols][where[1]], grid.y[rows][where[0]], grid.image_size, window, aspect)) != whole
    ]
    return [found[index] for index in suppress([one.box for one in found], iou)][:count] or nothing


def _regions(values: _Values, threshold: float | None) -> list[tuple[float, tuple[slice, slice]]]:
    """The sum of each component of [rows, cols], and its rows and columns; largest first."""
    kept = above_the_elbow(values) if threshold is None else _fractions(values) >= threshold
    labels, number = label(kept, structure=_NEIGHBOURS)
    relevance = values - min(float(values.min()), 0)
    sums = np.bincount(labels.ravel(), weights=relevance.ravel(), minlength=number + 1)[1:]
    places = find_objects(labels)
    return [(float(sums[index]), places[index]) for index in np.argsort(-sums, kind="stable")]


def above_the_elbow(values: _Values) -> npt.NDArray[np.bool_]:
    """Which values come before the point where the sorted ones, falling steeply from the largest, turn flat."""
    ordered = np.sort(values, axis=None)[::-1]
    chord = np.linspace(ordered[0], ordered[-1], len(ordered))
    # Distances at right angles to the chord are these times one number, so they have the same greatest.
    elbow = ordered[np.argmax(chord - ordered)]
    return values > elbow if elbow < ordered[0] else values == elbow


def _fractions(values: _Values) -> _Values:
    """From 0 at the minimum to exactly 1 at the maximum."""
    return (values - values.min()) / (values.max() - values.min())


def _box(x: Spans, y: Spans, image_size: tuple[int, int], window: float, aspect: float) -> Box:
    """The box for cells of columns `x` and rows `y`, no smaller and no longer than allowed."""
    seen = Box(float(x[:, 0].min()), float(y[:, 0].min()), float(x[:, 1].max()), float(y[:, 1].max()))
    tight = seen.clip(image_size).to_pixels(image_size)
    (box,) = merge_near([tight], image_size, max(window, max(tight.width, tight.height) / aspect))
    return box


def _check(
    importance: object,
    window: object,
    count: object,
    sigma: object,
    threshold: object,
    aspect: object,
    iou: object,
) -> None:
    check_importance(importance, "components")
    check_window(window)
    check_count("count", count, "boxes")
    if sigma is not None:
        check_between("sigma", sigma, 0, math.inf, "a number of cells, 0 for a map that is smooth already")
    if threshold is not None:
        meaning = (
            "a fraction of the way from the map's minimum to its maximum, 0 to 1, or None for the elbow of its values"
        )
        check_between("threshold", threshold, 0, 1, meaning)
    check_between("aspect", aspect, 1, math.inf, "how much longer than wide a box may be, at least 1")
    check_iou(iou)
