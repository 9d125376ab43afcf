"""Ask about an image, look where the model looks, ask again with the crop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from attnlens import _renamed
from attnlens._checks import check_count
from attnlens.boxes import Region
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.importance import ImportanceMap
from attnlens.lens import Answer, Cost, Lens, Reading
from attnlens.lens._inputs.prompt import checked_question
from attnlens.lens._model.generator import check_new_tokens
from attnlens.recipes._library import find
from attnlens.recipes._localization import AnswerStage, Localization
from attnlens.recipes._recipe import Recipe, name_of


@dataclass(frozen=True)
class Result:
    """What `ask` found out.

    Examples:
        >>> result = attnlens.ask(lens, image, question)
        >>> result.first_answer, result.answer
        ('2', '6')
    """

    question: str
    """The question, as it was asked."""
    images: tuple[Image.Image, ...]
    """The images asked about, in order."""
    answer: str
    """The answer with the crop; `first_answer` where there is none."""
    first_answer: str
    """The answer to the images alone."""
    regions: list[Region]
    """The crops, best first, and which image each is of; empty where nothing stood out, the recipe crops nothing, or
    the model was sure enough without."""
    importance: ImportanceMap | None
    """The map of `image`, where the recipe makes one."""
    cost: Cost
    """Everything: reading, first answer, map, crop and second answer."""
    skipped_crop: bool = False
    """Whether the first answer was as sure as the gate asks, so that the model looked only once."""

    if not TYPE_CHECKING:  # words of 0.1.0
        found, sure = _renamed.Renamed("regions"), _renamed.Renamed("skipped_crop")

    @property
    def boxes(self) -> list[Box]:
        """The crops, in pixels of the image that each is of."""
        return [one.box for one in self.regions]

    @property
    def image(self) -> Image.Image:
        """The image that the best crop is of; without a crop the first."""
        return self.images[self.regions[0].image if self.regions else 0]

    def save(self, path: str | Path) -> Path:
        """A picture of `image`, the map, the crops and both answers, written to a file.

        The map is left out where the recipe makes none, and the crops where there are none.

        Args:
            path: the file to write, in the format that its ending says (`.png`, `.jpg`). Folders are made; a file that
                is there is replaced.

        Returns:
            The path that was written, with the home folder for a leading `~`.

        Raises:
            AttnLensError: for an ending that is no format for pictures, and where the file cannot be written.

        Examples:
            >>> attnlens.ask(lens, image, question).save("pictures/out.png").name
            'out.png'
        """
        from attnlens import show

        where = self.regions[0].image if self.regions else 0
        boxes = [one.box for one in self.regions if one.image == where]
        figure = show.answer_figure(self.image, self.importance, boxes, self.question, self.first_answer, self.answer)
        return show.save(figure, path)


def ask(
    lens: Lens,
    image: Any,
    question: str,
    recipe: str | Path | Recipe = "rel-att",
    *,
    max_new_tokens: int = 20,
    box: Sequence[float] | None = None,
    count: int | None = None,
    gate: float | None = None,
    **options: Any,
) -> Result:
    """Answer `question` about `image`, looking twice: at all of it, and at what the recipe chooses of it.

    The first answer is to the images alone, the second is with the crops, as the recipe shows them: appended to the
    images, or in their place. Where nothing stands out there is no crop, and the first answer is the answer.

    Args:
        lens: the model, as `attnlens.load` gives it.
        image: a path, a PIL image or an array [height, width] or [height, width, channels]; or a list of them, which
            the model reads in that order.
        question: the question, some text.
        recipe: a name (`attnlens.recipes.names()`), the path of a YAML file or a `Recipe`.
        max_new_tokens: how many tokens each of the answers has at most.
        box: (x1, y1, x2, y2) in pixels of the first image, for recipes without a search such as "human": the smallest
            square that covers it is the crop. None for all other recipes.
        count: how many regions to look at again; a warning says so where fewer stand out. None: as many as the recipe
            has by itself.
        gate: a model this sure of its first answer, 0 to 1, is not asked again (see `Recipe`). None: as the recipe
            says.
        **options: for the recipe's stages (`layer=`, `window=`, ...): what its map and its search take, or its
            `locate`.

    Returns:
        Both answers, the boxes of the crops in pixels of the image that each is of, the map, and what it cost.

    Raises:
        AttnLensError: for what cannot be used: names, question, numbers and box before the model looks, values of
            `options` when a stage takes them.

    Examples:
        >>> result = attnlens.ask(lens, image, question, recipe="rel-att")
        >>> result.answer, result.boxes, result.cost.prefills
        ('6', [Box(x1=150, y1=190, x2=250, y2=290)], 2)
    """
    chosen, options = find(recipe), options if count is None else {**options, "count": count}
    chosen = chosen if gate is None else replace(chosen, gate=gate)
    _check(question, max_new_tokens, options)
    _check_fit(chosen, recipe, box, options)
    with lens.meter.measure() as stretch:
        reading = lens.read(image)
        given = None if box is None else _given(reading, box)
        first, skip = None, False
        if chosen.gate is not None:
            first = reading.answer(question, max_new_tokens)
            skip = _confidence(first) >= chosen.gate
        located = Localization([]) if skip else given or chosen.localize(reading, question, **options)
        first = first or reading.answer(question, max_new_tokens)  # decodes on from where the last look left it
        crops = [region for region in located.regions if region.confident]
        again = _again(located.answer or chosen.answer, reading, crops, question, max_new_tokens) if crops else first
    if count is not None and not skip and len(crops) < count:
        warnings.warn(f"{count} regions were asked for, and {len(crops)} stood out.", stacklevel=2)
    return Result(question, reading.images, again.text, first.text, crops, located.importance, stretch.cost, skip)


def _confidence(answer: Answer) -> float:
    """The geometric mean of the probabilities of an answer's tokens."""
    return math.exp(answer.log_prob / len(answer.tokens))


def _given(reading: Reading, box: Sequence[float]) -> Localization:
    """The square around a box that the caller gives."""
    size = reading.image.size
    return Localization([Region(Box.from_any(box, size).square(size), 0.0, True)])


def _again(stage: AnswerStage, reading: Reading, crops: Sequence[Region], question: str, max_new_tokens: int) -> Answer:
    """The answer with the crops."""
    answer = stage(reading, crops, question, max_new_tokens)
    if not isinstance(answer, Answer):
        raise AttnLensError(
            f"The answer {name_of(stage)} gave {answer!r:.200}; expected an Answer, "
            "as reading.answer(question) gives it."
        )
    return answer


def _check(question: object, max_new_tokens: object, options: dict[str, Any]) -> None:
    """Refuses what no recipe has a use for."""
    checked_question(question)
    check_new_tokens(max_new_tokens)
    check_count("count", options.get("count", 1), "regions")


def _check_fit(chosen: Recipe, recipe: object, box: Sequence[float] | None, options: dict[str, Any]) -> None:
    if chosen.needs_box and box is None:
        raise AttnLensError(f"The recipe {recipe!r} searches for no box itself. Give box=(x1, y1, x2, y2) in pixels.")
    if box is not None and not chosen.needs_box:
        raise AttnLensError(f"The recipe {recipe!r} takes no box, but got {box!r}. Use recipe='human' for a box.")
    known = {name: one for name, one in chosen.options.items() if name != "image"}  # every image gets its map
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    unknown = [name for name in options if name not in known]
    if unknown and not known:
        raise AttnLensError(f"The recipe {recipe!r} looks for nothing, so it has no use for {', '.join(unknown)}.")
    if unknown:
        raise AttnLensError(f"The recipe {recipe!r} has no option {', '.join(unknown)}. Expected: {', '.join(known)}.")
