"""Recipes by name, and recipes from a YAML file."""

from __future__ import annotations

from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnlens import answers, boxes, maps
from attnlens.adapters.explain import explain
from attnlens.adapters.safeyaml import load as load_yaml
from attnlens.errors import AttnLensError
from attnlens.recipes import focus, zoomeye
from attnlens.recipes.recipe import AnswerStage, MapStage, Recipe

HIGH_RESOLUTION_TILE = 1024
"""Pixels: the ViCrop paper's largest tile side."""

_MAPS: dict[str, MapStage] = {
    "relative-attention": maps.relative_attention,
    "gradient-attention": maps.gradient_attention,
    "input-gradient": maps.input_gradient,
}
_ANSWERS: dict[str, AnswerStage] = {"append": answers.append, "replace": answers.replace, "alone": answers.alone}

_SHORT = {
    "rel-att": ("relative-attention", "attention for the question over attention for a generic one; no gradient"),
    "grad-att": ("gradient-attention", "attention times its positive gradient; one small backward pass"),
    "pure-grad": ("input-gradient", "gradient of the answer on the pixels, on edges; a full forward and backward pass"),
}


def _vicrop(name: str, tiles: int | None = None) -> Recipe:
    return Recipe(map=_MAPS[_SHORT[name][0]], search=boxes.search, answer=answers.append, tiles=tiles)


_RECIPES: dict[str, tuple[Recipe, str]] = {
    "none": (Recipe(answer=answers.alone), "the image alone, no crop"),
    "human": (Recipe(answer=answers.append), "a box you give, as the smallest square that covers it, appended"),
    **{name: (_vicrop(name), f"ViCrop: {text}") for name, (_, text) in _SHORT.items()},
    "focus": (
        Recipe(look=focus.look, answer=answers.union),
        "FOCUS: cached values, regions, a yes or no about each; the best crop instead of the image; no gradient",
    ),
    "zoomeye": (
        Recipe(look=zoomeye.look, answer=answers.union),
        "ZoomEye: a tree of crops searched by the model's own yes and no; the crop instead of the image; no map",
    ),
    **{
        f"{name}-high": (_vicrop(name, HIGH_RESOLUTION_TILE), f"{name} on tiles of {HIGH_RESOLUTION_TILE} px")
        for name in _SHORT
    },
}


def names() -> list[str]:
    """The bundled recipes."""
    return list(_RECIPES)


def describe(name: str) -> str:
    """What a bundled recipe does, in one line."""
    return _find(name)[1]


def named(recipe: str | Path | Recipe) -> Recipe:
    """A recipe by name or YAML file; a `Recipe` is handed back. Raises `AttnLensError`, naming the valid ones."""
    if isinstance(recipe, Recipe):
        return recipe
    if str(recipe).endswith((".yaml", ".yml")):
        return _from_file(Path(recipe))
    return _find(str(recipe))[0]


def _find(name: str) -> tuple[Recipe, str]:
    if name not in _RECIPES:
        raise AttnLensError(
            f"There is no recipe {name!r}. Expected one of {', '.join(_RECIPES)}, or the path of a YAML file."
        )
    return _RECIPES[name]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _MapOptions(_Strict):
    name: Literal["relative-attention", "gradient-attention", "input-gradient"]
    layer: int | Literal["mean"] | None = None
    connector_layer: int | Literal["mean"] | None = None
    generic: str | None = None
    variant: Literal["paper", "released"] | None = None


class _SearchOptions(_Strict):
    window: int | None = Field(default=None, gt=0)
    criterion: Literal["density", "sum"] = "density"
    count: int = Field(default=1, gt=0)
    iou: float = Field(default=0.3, ge=0, le=1)


class _RecipeFile(_Strict):
    """The keys of a recipe's YAML file."""

    map: _MapOptions | None = None
    search: _SearchOptions | None = None
    answer: Literal["append", "replace", "alone"] = "append"
    tiles: int | None = Field(default=None, gt=0)


def _from_file(path: Path) -> Recipe:
    try:
        parsed = _RecipeFile.model_validate(load_yaml(path))
    except ValidationError as error:
        raise AttnLensError(f"The recipe {str(path)!r} does not fit. {explain(error, _RecipeFile)}") from None
    given: dict[str, Any] = parsed.map.model_dump(exclude={"name"}, exclude_none=True) if parsed.map else {}
    searching = parsed.search or (_SearchOptions() if parsed.map else None)
    if parsed.map and (strange := [key for key in given if key not in signature(_MAPS[parsed.map.name]).parameters]):
        raise AttnLensError(
            f"The recipe {str(path)!r} gives the map {parsed.map.name} the option {', '.join(strange)}, which it does "
            "not take. Leave it out."
        )
    return Recipe(
        map=partial(_MAPS[parsed.map.name], **given) if parsed.map else None,
        search=partial(boxes.search, **searching.model_dump(exclude_none=True)) if searching else None,
        answer=_ANSWERS[parsed.answer],
        tiles=parsed.tiles,
    )
