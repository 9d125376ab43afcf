"""The conditions that answers are compared under: a condition is a recipe, or one with a single choice changed.

A condition's name says all of it: "rel-att", "rel-att layer=mean", "pure-grad variant=released". The baselines crop
without looking: none, human (the true box), centre and random (a box as wide as the recipes' smallest window).
"""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attnlens import boxes, recipes
from attnlens.evaluate.dataset import Example
from attnlens.geometry import Box
from attnlens.lens.lens import Lens
from attnlens.recipes import Recipe

BASELINES = ("none", "human", "centre", "random")
BY_TASK = ("none", "human", "rel-att", "grad-att")
EXTERNAL = ("clip", "yolo", "sam")
"""Recipes that need another model, which is not bundled: they are compared where one is given."""
ATTENTION = ("rel-att", "grad-att")
"""The recipes that read one layer."""
PURE = "pure-grad"
WINDOW: float = inspect.signature(boxes.search).parameters["window"].default
"""Pixels: the search's window where the adapter names none."""


@dataclass(frozen=True)
class Layers:
    """A layer of the language model and, behind a connector with attention, one of the connector's."""

    layer: int
    connector_layer: int | None = None

    def __str__(self) -> str:
        """As in the name of a condition."""
        more = "" if self.connector_layer is None else f" connector_layer={self.connector_layer}"
        return f"layer={self.layer}{more}"


def recipe_names(high: bool) -> tuple[str, ...]:
    """The bundled recipes that look for the crop themselves: on the image as it is, or on its tiles."""
    names = [name for name in recipes.names() if _searches(name)]
    return tuple(name for name in names if name.endswith("-high") == high)


def ablations(best: Layers) -> tuple[str, ...]:
    """One choice changed at a time; the unchanged recipes are among `recipe_names`."""
    return (
        *(f"{name} layer=mean" for name in ATTENTION),
        *(f"{name} {best}" for name in ATTENTION),
        *(f"{name} criterion=sum" for name in ATTENTION),
        *(f"{name} variant=released" for name in ("rel-att", PURE)),
    )


def recipe_of(name: str) -> Recipe:
    """The recipe that a condition's name stands for; "centre" and "random" are "human" with another box."""
    base, *choices = name.split()
    recipe = recipes.named("human" if base in ("centre", "random") else base)
    for choice in choices:
        key, _, text = choice.partition("=")
        value: Any = int(text) if text.isdigit() else text
        if key == "criterion":
            recipe = dataclasses.replace(recipe, search=partial(_given(recipe.search), criterion=value))
        else:
            recipe = dataclasses.replace(recipe, map=partial(_given(recipe.map), **{key: value}))
    return recipe


def box_of(name: str, lens: Lens, example: Example, image_size: tuple[int, int]) -> Box | None:
    """The box that a baseline is told, in pixels of the image of (width, height); None for all other conditions.

    `random`: uniform over the places inside the image, drawn from the example's id.
    """
    if name == "human":
        return example.box
    if name not in ("centre", "random"):
        return None
    side = lens.spec.defaults.window or WINDOW
    room = [max(0, int(edge - side)) for edge in image_size]
    x, y = (edge // 2 for edge in room)
    if name == "random":
        x, y = np.random.default_rng(zlib.crc32(example.id.encode())).integers(0, np.add(room, 1)).tolist()
    return Box(x, y, x + side, y + side).clip(image_size)


def _searches(name: str) -> bool:
    recipe = recipes.named(name)
    return name not in EXTERNAL and (recipe.map is not None or recipe.look is not None)


def _given(stage: Any) -> Any:
    if stage is None:
        raise ValueError("a condition changes a stage that its recipe does not have")
    return stage
