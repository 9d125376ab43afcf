"""What a recipe comes back with when it has looked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attnlens.answers.regions import Region
from attnlens.boxes import Found
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Answer, Reading

AnswerStage = Callable[[Reading, Sequence[Region], str, int], Answer]
"""(reading, regions, question, max_new_tokens) -> Answer."""


@dataclass(frozen=True)
class Look:
    """The regions that matter, the map that led there, where there is one, and how to show them.

    `answer`: where the method decides by what it found; None leaves it to the recipe.
    """

    found: list[Found]
    importance: ImportanceMap | None = None
    answer: AnswerStage | None = None
