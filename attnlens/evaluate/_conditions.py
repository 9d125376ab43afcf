"""The conditions that answers are compared under: a condition is a recipe, or one with a single choice changed.

A condition's name says all of it: "rel-att", "rel-att layer=mean", "rel-att count=2", "focus steps=1". The baselines
crop without looking: none, human (the true box), centre and random (a box as wide as the recipes' smallest window).
"""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attnlens import boxes, pocket, recipes
from attnlens.evaluate._dataset import Example
from attnlens.geometry import Box
from attnlens.lens import Lens
from attnlens.recipes import Recipe

BASELINES = ("none", "human", "centre", "random")
BY_TASK = ("none", "human", "rel-att", "grad-att")
TWICE = {
    "rel-att count=2": "rel-att",
    "grad-att count=2": "grad-att",
    "laser count=2": "laser",
    "entropy": "entropy count=1",
}
"""A recipe with two crops, and the same recipe with one."""
SEVERAL = ("none", "human", *dict.fromkeys(name for pair in TWICE.items() for name in reversed(pair)))
"""Conditions for questions that more than one place must be looked at for."""
EXTERNAL = ("clip", "yolo", "sam")
"""Recipes that need another model."""
POCKET = ("clip",)
"""Those of them with a bundled model; it knows the pocket scenes alone, and every scene here is one."""
ATTENTION = ("rel-att", "grad-att")
"""The recipes that read one layer."""
PURE = "pure-grad"
QUICK_FOCUS = "focus steps=1 prompt=question"
"""FOCUS by as few passes as it can: the map is the question's own, and regions are asked about until one says yes."""
VARIANTS = ("rel-att count=2", "grad-att count=2", "rel-att gate=0.9", "focus steps=1", QUICK_FOCUS)
"""Recipes with another setting of what they take, which stand beside the recipes as they are."""
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


def vicrop(high: bool) -> tuple[str, ...]:
    """The ViCrop paper's recipes: on the image as it is, or on its tiles."""
    return tuple(f"{name}-high" if high else name for name in (*ATTENTION, PURE))


def others() -> tuple[str, ...]:
    """The other bundled recipes that look for the crop, with the MLLM alone, and the variants."""
    known = {*BASELINES, *vicrop(False), *vicrop(True), *EXTERNAL}
    return (*(name for name in recipes.names() if name not in known), *VARIANTS)


def ablations(best: Layers) -> tuple[str, ...]:
    """One choice changed at a time; the unchanged recipes are those of `vicrop`."""
    return (
        *(f"{name} layer=mean" for name in ATTENTION),
        *(f"{name} {best}" for name in ATTENTION),
        *(f"{name} criterion=sum" for name in ATTENTION),
        *(f"{name} variant=released" for name in ("rel-att", PURE)),
    )


def recipe_of(name: str) -> Recipe:
    """The recipe that a condition's name stands for; "centre" and "random" are "human" with another box.

    "clip" is asked with the pocket CLIP, which is loaded with its first question.
    """
    base, *choices = name.split()
    recipe = recipes.find("human" if base in ("centre", "random") else base)
    if base in POCKET:
        recipe = _changed(recipe, "scorer", pocket.cropper_path(base))
    for choice in choices:
        key, _, text = choice.partition("=")
        recipe = _changed(recipe, key, _value(text))
    return recipe


def _value(text: str) -> Any:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _changed(recipe: Recipe, key: str, value: Any) -> Recipe:
    """`recipe` with one option of its own, or of the stage that takes it, set."""
    if key == "gate":
        return dataclasses.replace(recipe, gate=value)
    for stage in ("locate", "map", "search"):
        function = getattr(recipe, stage)
        if function is not None and key in inspect.signature(function).parameters:
            changed: dict[str, Any] = {stage: partial(function, **{key: value})}
            return dataclasses.replace(recipe, **changed)
    raise ValueError(f"a condition sets {key}, which no stage of its recipe takes")


def box_of(name: str, lens: Lens, example: Example, image_size: tuple[int, int]) -> Box | None:
    """The box that a baseline is told, in pixels of the image of (width, height); None for all other conditions.

    `random`: uniform over the places inside the image, drawn from the example's id.
    """
    if name == "human":
        return example.box
    if name not in ("centre", "random"):
        return None
    side = lens.adapter.defaults.window or WINDOW
    room = [max(0, int(edge - side)) for edge in image_size]
    x, y = (edge // 2 for edge in room)
    if name == "random":
        x, y = np.random.default_rng(zlib.crc32(example.id.encode())).integers(0, np.add(room, 1)).tolist()
    return Box(x, y, x + side, y + side).clip(image_size)
