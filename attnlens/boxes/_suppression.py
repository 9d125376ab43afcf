"""Of boxes that show the same thing, the best: non-maximum suppression, and equal boxes as one.

>>> suppress([Box(0, 0, 10, 10), Box(1, 0, 11, 10), Box(50, 0, 60, 10)], iou=0.3)
[0, 2]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from attnlens.boxes._search import Region
from attnlens.geometry import Box


def suppress(boxes: Sequence[Box], iou: float) -> list[int]:
    """Which of `boxes`, given best first, are kept: those that no kept better one overlaps by more than `iou`.

    The overlap is intersection over union, in the boxes' own unit.
    """
    edges = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    x1, y1, x2, y2 = edges.T
    areas = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    left = np.ones(len(edges), dtype=bool)
    kept = []
    for index in range(len(edges)):
        if not left[index]:
            continue
        kept.append(index)
        across = np.maximum(np.minimum(x2, x2[index]) - np.maximum(x1, x1[index]), 0)
        shared = across * np.maximum(np.minimum(y2, y2[index]) - np.maximum(y1, y1[index]), 0)
        left &= shared <= iou * (areas + areas[index] - shared)
    return kept


def best_first(found: Iterable[Region]) -> list[Region]:
    """`found` by score, what nothing chose last; of equal boxes in an image the best alone."""
    kept: dict[tuple[int, Box], Region] = {}
    for one in sorted(found, key=lambda one: (not one.confident, -one.score)):
        kept.setdefault((one.image, one.box), one)
    return list(kept.values())
