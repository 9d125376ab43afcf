"""How FOCUS shows a model what it found: by how the model sees, and by how far apart the regions are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from attnlens import answers
from attnlens.boxes import Region
from attnlens.geometry import Box
from attnlens.lens import Reading
from attnlens.recipes._localization import AnswerStage, has_local_views


def presentation(
    reading: Reading, regions: Sequence[Region], merge_distance: float | None, everywhere: bool
) -> AnswerStage:
    """FOCUS, step VI. With local views: the image with the regions outlined, then each crop. Else, in the image's
    place, their union; a montage where centres are more than `merge_distance` pixels away from each other, or for
    type 2."""
    if has_local_views(reading):
        return answers.outlined
    far = merge_distance is not None and any(_distance(a.box, b.box) > merge_distance for a, b in _pairs(regions))
    return answers.replace_by_montage if everywhere or far else answers.union


def _pairs(regions: Sequence[Region]) -> list[tuple[Region, Region]]:
    return [(a, b) for a, b in combinations(regions, 2) if a.image == b.image]


def _distance(one: Box, other: Box) -> float:
    """Between the boxes' centres."""
    across, down = one.x1 + one.x2 - other.x1 - other.x2, one.y1 + one.y2 - other.y1 - other.y2
    return math.hypot(across, down) / 2
