"""A recipe: which map, which search, which answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from attnlens import answers
from attnlens.boxes import Found
from attnlens.geometry import Box
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Answer, Reading
from attnlens.maps import tiled
from attnlens.recipes.look import Look

MapStage = Callable[..., ImportanceMap]
"""(reading, question, **options) -> ImportanceMap."""
SearchStage = Callable[..., list[Found]]
"""(importance) -> list[Found], best first; may take `window`."""
LookStage = Callable[..., Look]
"""(reading, question, **options) -> Look: a map and a search in one, or a search without a map."""
AnswerStage = Callable[[Reading, Sequence[Box], str, int], Answer]


@dataclass(frozen=True)
class Recipe:
    """Stages of one's own choosing; any callables of these shapes do.

        Recipe(map=attnlens.maps.gradient_attention, search=attnlens.boxes.search, answer=attnlens.answers.append)

    `map`: (reading, question, **options) -> ImportanceMap, or None for a recipe without one. `search`:
    (importance) -> list[Found], or None for boxes that the caller gives; one that takes `window` gets the adapter's.
    `look`: (reading, question, **options) -> Look, in the place of both, for what asks the model between the two.
    `answer`: (reading, boxes, question, max_new_tokens) -> Answer. `tiles`: the map is made on tiles of at most this
    side, in pixels, where the image is larger.
    """

    map: MapStage | None = None
    search: SearchStage | None = None
    look: LookStage | None = None
    answer: AnswerStage = answers.append
    tiles: int | None = None

    @property
    def needs_box(self) -> bool:
        """Whether the caller has to say where to look."""
        return self.search is None and self.look is None and self.answer is not answers.alone

    def importance(self, reading: Reading, question: str, **options: Any) -> ImportanceMap | None:
        """The map of this recipe for `question`; `options` go to the map's function."""
        if self.map is None:
            return None
        stage = self.map if self.tiles is None else tiled(self.map, self.tiles)
        return stage(reading, question, **options)
