"""A recipe: which map, which search, which answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from itertools import chain
from typing import TYPE_CHECKING, Any

from attnlens import _renamed, answers
from attnlens._checks import is_number
from attnlens.boxes import Region
from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.maps import tiled
from attnlens.recipes._localization import AnswerStage, Localization

MapStage = Callable[..., ImportanceMap]
"""(reading, question, **options) -> ImportanceMap; one that takes `image` is made for each of several images."""
SearchStage = Callable[..., list[Region]]
"""(importance, **options) -> list[Region], best first, at least one; may take `window` and `count`."""
LocateStage = Callable[..., Localization]
"""(reading, question, **options) -> Localization: a map and a search in one, or a search without a map.

It may take `count`."""

_STAGES = {
    "map": "(reading, question, **options) -> ImportanceMap",
    "search": "(importance, **options) -> list[Region]",
    "locate": "(reading, question, **options) -> Localization",
    "answer": "(reading, regions, question, max_new_tokens) -> Answer",
}
"""What each stage is a function of, and what it gives."""


@_renamed.arguments(look="locate")
@dataclass(frozen=True)
class Recipe:
    """A map, a search and an answer as one thing: stages of one's own choosing; any callables of these shapes do.

    Raises:
        AttnLensError: for stages that are no functions or do not go together, and for a gate that is no probability.

    Examples:
        >>> mine = Recipe(
        ...     map=attnlens.maps.gradient_attention, search=attnlens.boxes.search, answer=attnlens.answers.append
        ... )
        >>> attnlens.ask(lens, image, question, recipe=mine).boxes
        [Box(x1=150, y1=190, x2=250, y2=290)]
    """

    map: MapStage | None = None
    """(reading, question, **options) -> ImportanceMap; None for a recipe without one."""
    search: SearchStage | None = None
    """(importance, **options) -> list[Region], best first; None for boxes that the caller gives.

    One that takes `window` gets the adapter's."""
    locate: LocateStage | None = None
    """(reading, question, **options) -> Localization, in the place of map and search, for what asks the model between
    the two."""
    answer: AnswerStage = answers.append
    """(reading, regions, question, max_new_tokens) -> Answer, with what the regions show."""
    tiles: int | None = None
    """Pixels: where the image is larger, the map is made on tiles of at most this side; None: always on the whole."""
    gate: float | None = None
    """How sure of its first answer the model must be for no crop to be made, 0 to 1; None crops always.

    Sure is the geometric mean of the probabilities of the answer's tokens (after LookWise, arXiv 2603.00171, whose own
    measure is not stated)."""

    if not TYPE_CHECKING:  # words of 0.1.0
        look, seen = _renamed.Renamed("locate"), _renamed.Renamed("localize")

    def __post_init__(self) -> None:
        for name, shape in _STAGES.items():
            stage = getattr(self, name)
            if stage is not None or name == "answer":
                _check_function(name, stage, shape)
        if self.gate is not None and not (is_number(self.gate) and 0 <= self.gate <= 1):
            raise AttnLensError(f"gate is {self.gate!r}; expected a probability from 0 to 1, or None.")
        if self.locate is not None and (self.map is not None or self.search is not None):
            raise AttnLensError("The recipe has locate and a map or search of its own. Give locate, or map and search.")
        idle = [name for name in ("search", "tiles") if getattr(self, name) is not None]
        if self.map is None and idle:
            raise AttnLensError(
                f"The recipe has {' and '.join(idle)}, but no map, which they are for. "
                "Give map=, such as attnlens.maps.relative_attention."
            )

    @property
    def needs_box(self) -> bool:
        """Whether the caller has to say where to look."""
        return self.search is None and self.locate is None and self.answer is not answers.alone

    @property
    def options(self) -> dict[str, Parameter]:
        """What `localize` takes by name, for its stages."""
        if self.locate is not None:
            return _options(self.locate, 2)
        return {
            **(_options(self.search, 1) if self.search is not None else {}),
            **(_options(self.map, 2) if self.map is not None else {}),
        }

    def localize(self, reading: Reading, question: str, **options: Any) -> Localization:
        """Where to look for the answer to `question`; options go to the stages that take them.

        Of several images each has its map, where the map takes `image`; the regions are the best of all, and the map is
        that of the image which the best of them lies in.

        Args:
            reading: the images, as `lens.read` gives them.
            question: the question, some text.
            **options: those that the map names go to the map, the others to the search; all of them to `locate`, where
                the recipe has that. Searches that take `count` find that many regions, or fewer.

        Returns:
            The regions, best first, with boxes in pixels of the image that each is of, and the map that led there. A
            recipe that has no search has no region.

        Raises:
            AttnLensError: for a stage that gives something else than it should.

        Examples:
            >>> located = recipes.find("rel-att").localize(reading, question, count=2)
            >>> [tuple(region.box) for region in located.regions]
            [(150, 190, 250, 290), (230, 150, 330, 250)]
        """
        if self.locate is not None:
            return _checked_localization(self.locate, self.locate(reading, question, **options))
        if self.map is None:
            return Localization([])
        for_map, for_search = _dealt(options, self.map, self.search)
        stage = self.map if self.tiles is None else tiled(self.map, self.tiles)
        several = len(reading.images) > 1 and "image" in _options(self.map, 2) and "image" not in options
        numbers = range(len(reading.images)) if several else [options.get("image", 0)]
        made = [stage(reading, question, **for_map, **({"image": one} if several else {})) for one in numbers]
        if self.search is None:
            return Localization([], made[0])
        search = _with_window(self.search, reading)
        by_image = [
            [dataclasses.replace(one, image=number) for one in _checked(self.search, search(importance, **for_search))]
            for number, importance in zip(numbers, made, strict=True)
        ]
        best = sorted(chain.from_iterable(by_image), key=lambda one: (not one.confident, -one.score))
        best = best[: max(map(len, by_image))]
        return Localization(best, made[list(numbers).index(best[0].image)])


def _options(stage: Callable[..., Any], given: int) -> dict[str, Parameter]:
    """The parameters of a stage behind those that it is always given."""
    return dict(list(signature(stage).parameters.items())[given:])


def _dealt(
    options: dict[str, Any], for_map: MapStage, for_search: SearchStage | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a map and of a search: the map's are those that it names, or that only its `**` takes."""
    taken, searched = _options(for_map, 2), {} if for_search is None else _options(for_search, 1)
    takes_any = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    mine = {name for name in options if name in taken or (takes_any and name not in searched)}
    return {name: options[name] for name in mine}, {name: options[name] for name in options.keys() - mine}


def _with_window(search: SearchStage, reading: Reading) -> SearchStage:
    """A search that takes a window, and has not been given one, gets the adapter's."""
    window = reading.defaults.window
    chosen = getattr(search, "keywords", {})
    if window is None or "window" in chosen or "window" not in _options(search, 1):
        return search
    return partial(search, window=window)


def _check_function(name: str, stage: object, shape: str) -> None:
    try:
        signature(stage)  # type: ignore[arg-type]  # TypeError for what is no function
    except (TypeError, ValueError) as error:
        raise AttnLensError(f"The recipe's {name} is {stage!r}: {error}. Expected a function {shape}.") from None


def _are_found(value: object) -> bool:
    return isinstance(value, Sequence) and all(isinstance(one, Region) for one in value)


def _checked(search: SearchStage, given: Any) -> list[Region]:
    """What a search gave, which are boxes, at least one."""
    if not _are_found(given) or not given:
        raise AttnLensError(
            f"The search {name_of(search)} gave {given!r:.200}; expected a list of attnlens.boxes.Region, best first. "
            "Where nothing stands out that is one which is not confident: Region(box, 0.0, confident=False)."
        )
    return list(given)


def _checked_localization(locate: LocateStage, given: Any) -> Localization:
    """What a locate stage gave, which is a `Localization` at boxes, or at none."""
    if not isinstance(given, Localization) or not _are_found(given.regions):
        raise AttnLensError(
            f"The locate {name_of(locate)} gave {given!r:.200}; expected attnlens.recipes.Localization(regions), "
            "where regions is a list of attnlens.boxes.Region, empty where nothing stands out."
        )
    return given


def name_of(stage: object) -> str:
    """What a stage is called, for those who wrote it."""
    return getattr(getattr(stage, "func", stage), "__name__", type(stage).__name__)
