"""A recipe as a YAML file: which map, which search, which answer, each by name with its options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from attnlens import _renamed, answers, boxes, maps
from attnlens.adapters._explain import explain, nearest
from attnlens.adapters._safeyaml import load as load_yaml
from attnlens.errors import AttnLensError
from attnlens.recipes._localization import AnswerStage
from attnlens.recipes._recipe import MapStage, Recipe, SearchStage

_MAPS: dict[str, MapStage] = {
    "relative-attention": maps.relative_attention,
    "gradient-attention": maps.gradient_attention,
    "input-gradient": maps.input_gradient,
    "value-similarity": maps.value_similarity,
    "entropy-gradient": maps.entropy_gradient,
    "word-attention": maps.word_attention,
    "query-contrast": maps.query_contrast,
    "head-attention": maps.head_attention,
}
_SEARCHES: dict[str, SearchStage] = {"window": boxes.search, "components": boxes.components, "proposals": boxes.propose}
_ANSWERS: dict[str, AnswerStage] = {
    "append": answers.append,
    "append-montage": answers.append_montage,
    "replace": answers.replace,
    "replace-by-montage": answers.replace_by_montage,
    "union": answers.union,
    "outlined": answers.outlined,
    "outlined-union": answers.outlined_union,
    "alone": answers.alone,
}
_COMBINED = {"product": maps.product, "average": maps.average}


class _Options(BaseModel):
    """A stage's name, and whatever else it takes."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Map(_Options):
    name: Literal[tuple(_MAPS)]  # type: ignore[valid-type]  # the table above says which


class _Search(_Options):
    name: Literal[tuple(_SEARCHES)] = "window"  # type: ignore[valid-type]
    window: float | None = Field(default=None, gt=0)
    count: int | None = Field(default=None, gt=0)


class _RecipeFile(BaseModel):
    """The keys of a recipe's YAML file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    map: _Map | list[_Map] | None = None
    combine: Literal[tuple(_COMBINED)] = "product"  # type: ignore[valid-type]
    search: _Search | None = None
    answer: Literal[tuple(_ANSWERS)] = "append"  # type: ignore[valid-type]
    tiles: int | None = Field(default=None, gt=0)
    gate: float | None = Field(default=None, ge=0, le=1)

    @field_validator("answer", mode="before")
    @classmethod
    def _of_0_1_0(cls, given: Any) -> Any:
        return _renamed.value(
            "answer", given, {"append-canvas": "append-montage", "replace-by-canvas": "replace-by-montage"}
        )


def from_file(path: Path) -> Recipe:
    """The recipe that a YAML file describes. Raises `AttnLensError`, saying which key is wrong and what would do."""
    try:
        parsed = _RecipeFile.model_validate(load_yaml(path))
    except ValidationError as error:
        raise AttnLensError(f"The recipe {str(path)!r} does not fit. {explain(error, _RecipeFile)}") from None
    given = _maps(path, parsed)
    made = [_with_options(path, f"map {one.name}", _MAPS[one.name], one, given=2) for one in given]
    search = parsed.search or (_Search() if made else None)
    return Recipe(
        map=None if not made else made[0] if len(made) == 1 else _COMBINED[parsed.combine](*made),
        search=None
        if search is None
        else _with_options(path, f"search {search.name}", _SEARCHES[search.name], search, given=1),
        answer=_ANSWERS[parsed.answer],
        tiles=parsed.tiles,
        gate=parsed.gate,
    )


def _maps(path: Path, parsed: _RecipeFile) -> list[_Map]:
    """The maps that the file names; what needs one may not stand there without."""
    given = parsed.map if isinstance(parsed.map, list) else [parsed.map] if parsed.map else []
    idle = [key for key in ("map", "combine", "search", "tiles") if key in parsed.model_fields_set]
    if idle and not given:
        raise AttnLensError(
            f"The recipe {str(path)!r} has the key {', '.join(idle)}, but names no map. Write map: {{name: "
            "relative-attention}, or a list of such; for boxes that you give yourself leave the key out."
        )
    return given


def _with_options(path: Path, what: str, stage: Callable[..., Any], given_options: _Options, given: int) -> Any:
    """`stage` with the options that stand in the file, each of which it must take."""
    options = given_options.model_dump(exclude={"name"}, exclude_none=True)
    if "image" in options:
        raise AttnLensError(
            f"The recipe {str(path)!r} gives the {what} the option image, but a recipe looks at every image that is "
            "read: each gets its map. Leave image out, or ask about that image alone."
        )
    known = [name for name in list(signature(stage).parameters)[given:] if name != "image"]
    strange = [key for key in options if key not in known]
    if strange:
        raise AttnLensError(
            f"The recipe {str(path)!r} gives the {what} the option {', '.join(strange)}, which it does not take. "
            f"{nearest(strange[0], known)}Expected: {', '.join(known)}."
        )
    return partial(stage, **options)
