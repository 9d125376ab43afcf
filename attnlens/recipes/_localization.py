"""What a recipe comes back with when it has looked: where to look again, and how to show that to the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnlens import _renamed
from attnlens.answers._reprompt import RegionLike
from attnlens.boxes import Region
from attnlens.importance import ImportanceMap
from attnlens.lens import Answer, Reading

AnswerStage = Callable[[Reading, Sequence[RegionLike], str, int], Answer]
"""(reading, regions, question, max_new_tokens) -> Answer."""


@_renamed.arguments(found="regions")
@dataclass(frozen=True)
class Localization:
    """Where to look again, what led there, and how to show it: what a recipe's `locate` gives.

    Examples:
        >>> def middle(reading, question):
        ...     return Localization([Region(Box(100, 100, 300, 300), score=1.0, confident=True)])
        >>> attnlens.ask(lens, image, question, recipe=attnlens.Recipe(locate=middle)).boxes
        [Box(x1=100, y1=100, x2=300, y2=300)]
    """

    regions: list[Region]
    """The regions that matter, best first; empty where nothing stands out."""
    importance: ImportanceMap | None = None
    """The map that led there, where there is one."""
    answer: AnswerStage | None = None
    """How to show the regions, where the method decides by what it found; None leaves it to the recipe."""

    if not TYPE_CHECKING:  # words of 0.1.0
        found = _renamed.Renamed("regions")


def has_local_views(reading: Reading) -> bool:
    """Whether the model was given the first image in local views beside a global one (LLaVA-OneVision), as one that is
    too large for a single view is."""
    return len(reading.layouts[0].views) > 1
