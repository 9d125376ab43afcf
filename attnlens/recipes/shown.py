"""How FOCUS and ZoomEye show a model what they found: by how the model sees, and by how far apart the regions are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from attnlens import answers
from attnlens.boxes import Found
from attnlens.geometry import Box
from attnlens.lens.reading import Reading
from attnlens.recipes.look import AnswerStage


def sees_locally(reading: Reading) -> bool:
    """Whether the model was given the first image in local views beside a global one (LLaVA-OneVision), as one that is
    too large for a single view is."""
    return len(reading.layouts[0].views) > 1


def by_focus(reading: Reading, found: Sequence[Found], apart: float | None, everywhere: bool) -> AnswerStage:
    """FOCUS, step VI. With local views: the image with the regions outlined, then each crop. Else, in the image's
    place, their union; a canvas where centres are more than `apart` pixels away from each other, or for type 2."""
    if sees_locally(reading):
        return answers.outlined
    far = apart is not None and any(_distance(a.box, b.box) > apart for a, b in _pairs(found))
    return answers.replace_by_canvas if everywhere or far else answers.union


def by_zoomeye(reading: Reading, found: Sequence[Found], widest: float = 1000) -> AnswerStage:
    """ZoomEye's final input. With local views: the image with the regions outlined, then their union. Else, in the
    image's place, the union; a canvas for exactly two regions whose union is more than `widest` pixels a side."""
    if sees_locally(reading):
        return answers.outlined_union
    whole = Box.around([one.box for one in found]) if found else None
    far = whole is not None and len(found) == 2 and max(whole.width, whole.height) > widest
    return answers.replace_by_canvas if far else answers.union


def _pairs(found: Sequence[Found]) -> list[tuple[Found, Found]]:
    return [(a, b) for a, b in combinations(found, 2) if a.image == b.image]


def _distance(one: Box, other: Box) -> float:
    """Between the boxes' centres."""
    across, down = one.x1 + one.x2 - other.x1 - other.x2, one.y1 + one.y2 - other.y1 - other.y2
    return math.hypot(across, down) / 2
