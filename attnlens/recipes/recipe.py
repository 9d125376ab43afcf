"""A recipe: which map, which search, which answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from itertools import chain
from typing import Any

from attnlens import answers
from attnlens.boxes import Found
from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Reading
from attnlens.maps import tiled
from attnlens.recipes.look import AnswerStage, Look

MapStage = Callable[..., ImportanceMap]
"""(reading, question, **options) -> ImportanceMap; one that takes `image` is made for each of several images."""
SearchStage = Callable[..., list[Found]]
"""(importance, **options) -> list[Found], best first; may take `window` and `count`."""
LookStage = Callable[..., Look]
"""(reading, question, **options) -> Look: a map and a search in one, or a search without a map; may take `count`."""


@dataclass(frozen=True)
class Recipe:
    """Stages of one's own choosing; any callables of these shapes do.

        Recipe(map=attnlens.maps.gradient_attention, search=attnlens.boxes.search, answer=attnlens.answers.append)

    `map`: (reading, question, **options) -> ImportanceMap, or None for a recipe without one. `search`:
    (importance, **options) -> list[Found], or None for boxes that the caller gives; one that takes `window` gets the
    adapter's. `look`: (reading, question, **options) -> Look, in the place of both, for what asks the model between the
    two. `answer`: (reading, regions, question, max_new_tokens) -> Answer. `tiles`: the map is made on tiles of at most
    this side, in pixels, where the image is larger. `gate`: how sure of its first answer the model must be for no crop
    to be made, 0 to 1: the geometric mean of its tokens' probabilities (after LookWise, arXiv 2603.00171, whose own
    measure is not stated); None crops always.
    """

    map: MapStage | None = None
    search: SearchStage | None = None
    look: LookStage | None = None
    answer: AnswerStage = answers.append
    tiles: int | None = None
    gate: float | None = None

    def __post_init__(self) -> None:
        if self.gate is not None and not 0 <= self.gate <= 1:
            raise AttnLensError(f"gate is {self.gate!r}; expected a probability from 0 to 1, or None.")
        if self.look is not None and (self.map is not None or self.search is not None):
            raise AttnLensError("The recipe has a look and a map or search of its own. Give look, or map and search.")

    @property
    def needs_box(self) -> bool:
        """Whether the caller has to say where to look."""
        return self.search is None and self.look is None and self.answer is not answers.alone

    @property
    def options(self) -> dict[str, Parameter]:
        """What `seen` takes by name, for its stages."""
        if self.look is not None:
            return _options(self.look, 2)
        return {
            **(_options(self.search, 1) if self.search is not None else {}),
            **(_options(self.map, 2) if self.map is not None else {}),
        }

    def seen(self, reading: Reading, question: str, **options: Any) -> Look:
        """Where to look for the answer to `question`; options go to the stages that take them.

        Of several images each has its map, where the map takes `image`; the regions are the best of all, and the map is
        that of the image which the best of them lies in. Searches that take `count` find that many, or fewer.
        """
        if self.look is not None:
            return self.look(reading, question, **options)
        if self.map is None:
            return Look([])
        taken = _options(self.map, 2)
        for_map = {key: value for key, value in options.items() if key in taken}
        stage = self.map if self.tiles is None else tiled(self.map, self.tiles)
        several = len(reading.images) > 1 and "image" in taken and "image" not in options
        numbers = range(len(reading.images)) if several else [options.get("image", 0)]
        made = [stage(reading, question, **for_map, **({"image": one} if several else {})) for one in numbers]
        if self.search is None:
            return Look([], made[0])
        search = partial(_with_window(self.search, reading), **{k: v for k, v in options.items() if k not in taken})
        by_image = [
            [dataclasses.replace(one, image=number) for one in search(importance)]
            for number, importance in zip(numbers, made, strict=True)
        ]
        best = sorted(chain.from_iterable(by_image), key=lambda one: -one.score)[: max(map(len, by_image))]
        return Look(best, made[list(numbers).index(best[0].image)])


def _options(stage: Callable[..., Any], given: int) -> dict[str, Parameter]:
    """The parameters of a stage behind those that it is always given."""
    return dict(list(signature(stage).parameters.items())[given:])


def _with_window(search: SearchStage, reading: Reading) -> SearchStage:
    """A search that takes a window, and has not been given one, gets the adapter's."""
    window = reading.lens.spec.defaults.window
    chosen = getattr(search, "keywords", {})
    if window is None or "window" in chosen or "window" not in _options(search, 1):
        return search
    return partial(search, window=window)
