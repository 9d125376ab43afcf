"""Ask about an image, look where the model looks, ask again with the crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from PIL import Image

from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.importance import ImportanceMap
from attnlens.lens.cost import Cost
from attnlens.lens.lens import Lens
from attnlens.recipes.library import named
from attnlens.recipes.recipe import Recipe, SearchStage


@dataclass(frozen=True)
class Result:
    """What `ask` found out."""

    question: str
    image: Image.Image
    answer: str
    """The answer with the crop."""
    first_answer: str
    """The answer to the image alone."""
    boxes: list[Box]
    """The crops, in pixels of the image; empty where nothing stood out or the recipe crops nothing."""
    importance: ImportanceMap | None
    cost: Cost
    """Everything: reading, first answer, map, crop and second answer."""

    def save(self, path: str | Path) -> Path:
        """A picture of the scene, the map, the crop and both answers, as PNG. Folders are made."""
        from attnlens import show

        figure = show.answer_figure(
            self.image, self.importance, self.boxes, self.question, self.first_answer, self.answer
        )
        return show.save(figure, path)


def ask(
    lens: Lens,
    image: Any,
    question: str,
    recipe: str | Path | Recipe = "rel-att",
    *,
    max_new_tokens: int = 20,
    box: Sequence[float] | None = None,
    **options: Any,
) -> Result:
    """Answer `question` about `image` (a path, a PIL image or an array), looking twice.

    `recipe`: a name (`attnlens.recipes.names()`), a YAML file or a `Recipe`. `box`: (x1, y1, x2, y2) in pixels, for
    recipes without a search such as "human": the smallest square that covers it is the crop. `options` go to the
    recipe's map (`layer=`, `variant=`, ...). Raises `AttnLensError` for what cannot be used.

        result = attnlens.ask(lens, "photo.jpg", "What is written on the red sign?", recipe="rel-att")
        result.answer, result.boxes, result.cost.prefills
    """
    chosen = named(recipe)
    _check(chosen, recipe, box, options)
    with lens.meter.measure() as stretch:
        reading = lens.read(image)
        if chosen.look is not None:
            seen = chosen.look(reading, question, **options)
            importance, crops = seen.importance, [found.box for found in seen.found if found.confident]
        else:
            importance = chosen.importance(reading, question, **options)
            crops = _crops(chosen, lens, importance, box, reading.image.size)
        first = reading.answer(question, max_new_tokens)
        again = chosen.answer(reading, crops, question, max_new_tokens) if crops else first
    return Result(question, reading.image, again.text, first.text, crops, importance, stretch.cost)


def _check(chosen: Recipe, recipe: object, box: Sequence[float] | None, options: dict[str, Any]) -> None:
    if chosen.needs_box and box is None:
        raise AttnLensError(f"The recipe {recipe!r} searches for no box itself. Give box=(x1, y1, x2, y2) in pixels.")
    if box is not None and not chosen.needs_box:
        raise AttnLensError(f"The recipe {recipe!r} takes no box, but got {tuple(box)}. Use recipe='human' for a box.")
    stage = chosen.look or chosen.map
    if options and stage is None:
        raise AttnLensError(f"The recipe {recipe!r} makes no map, so it has no use for {', '.join(options)}.")
    if stage is not None:
        known = signature(stage).parameters
        unknown = [name for name in options if name not in known]
        if unknown:
            raise AttnLensError(
                f"The recipe {recipe!r} has no option {', '.join(unknown)}. Expected: {', '.join(list(known)[2:])}."
            )


def _crops(
    chosen: Recipe, lens: Lens, importance: ImportanceMap | None, box: Sequence[float] | None, size: tuple[int, int]
) -> list[Box]:
    """The boxes to crop: found with confidence on the map, or given."""
    if box is not None:
        return [Box.from_any(box, size).square(size)]
    if chosen.search is None or importance is None:
        return []
    search = _with_window(chosen.search, lens.spec.defaults.window)
    return [found.box for found in search(importance) if found.confident]


def _with_window(search: SearchStage, window: int | None) -> SearchStage:
    """A search that takes a window, and has not been given one, gets the adapter's."""
    chosen = getattr(search, "keywords", {})
    if window is None or "window" in chosen or "window" not in signature(search).parameters:
        return search
    return partial(search, window=window)
