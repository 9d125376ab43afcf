"""What the records of `attnlens reproduce` look like, so that one that does not is named before a table trips over it.

>>> shape_of({"layers": [0, 1], "connector_layers": 0})(("ratios", "test/small/read/7"), {"bin": "small"})
'task: missing, but needed. right: missing, but needed. ratios: missing, but needed.'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnlens.adapters._explain import explain
from attnlens.evaluate._records import Key, Shape

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Edges = Annotated[list[float], Field(min_length=4, max_length=4)]
_Span = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Asked(_Part):
    """Something about one example."""

    bin: Literal["small", "medium", "large", "high"]
    task: Literal["read", "colour", "exists", "larger", "left", "describe"]


class _Costs(_Part):
    """`Cost` without its seconds; a field that came later is missing in older records."""

    prefills: _Count = 0
    forwards: _Count = 0
    backwards: _Count = 0
    image_tokens: _Count = 0
    external: _Count = 0


class _Answer(_Asked):
    answer: str
    right: bool
    boxes: list[Annotated[list[float | None], Field(min_length=4, max_length=4)]]
    holds: bool | None
    seconds: float = Field(ge=0)
    cost: _Costs


class _Refusal(_Asked):
    refused: str


class _Ratios(_Asked):
    right: bool
    ratios: list[list[float | None]]


class _Ranking(_Part):
    examples: _Count
    layer: _Count
    connector_layer: _Count | None
    ratio: float | None


class _Picture(_Part):
    image_path: str
    question: str
    expected: str
    box: _Edges | None
    first: str
    answer: str
    boxes: list[_Edges]
    values: list[list[float | None]]
    x: list[_Span]
    y: list[_Span]


class _Defaults(BaseModel):
    layer: int | str
    window: int | None


class _Settings(BaseModel):
    model_config = ConfigDict(strict=True)

    model: str
    type: str
    split: str
    parameters: _Count
    weights: str
    layers: list[int] = Field(min_length=1)
    connector_layers: _Count
    defaults: _Defaults
    versions: dict[str, str]


_PARTS: dict[tuple[str, int], type[_Part]] = {
    ("answer", 3): _Answer,
    ("ratios", 2): _Ratios,
    ("ranking", 2): _Ranking,
    ("picture", 2): _Picture,
}
"""By the first part of a record's key, and how many parts it has."""


def wrong_settings(settings: Mapping[str, Any]) -> str | None:
    """What is wrong with the settings of a run; None where nothing is."""
    return _problem(_Settings, dict(settings))


def shape_of(settings: Mapping[str, Any]) -> Shape:
    """The shape of the records of a run with those settings, for `Records`."""
    rows, cols = max(1, settings["connector_layers"]), len(settings["layers"])

    def wrong(key: Key, data: Any) -> str | None:
        part = _PARTS.get((key[0], len(key))) if key else None
        if part is None:
            kinds = ", ".join(kind for kind, _ in _PARTS)
            return f"its key is {key!r}; expected one that begins with {kinds}."
        if part is _Answer and isinstance(data, dict) and "refused" in data:
            part = _Refusal
        problem = _problem(part, data)
        if problem is None and part is _Ratios and [len(row) for row in data["ratios"]] != [cols] * rows:
            return f"ratios: expected {rows} lists of {cols} numbers, for the model's layers."
        return problem

    return wrong


def _problem(part: type[BaseModel], data: Any) -> str | None:
    try:
        part.model_validate(data)
    except ValidationError as error:
        return explain(error, part)
    return None
