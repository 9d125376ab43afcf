"""Turns pydantic's errors about YAML data into sentences a person can act on: where, what was found, and expected."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_SHOWN = 4


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems of `error`, raised by `model`, with the dotted path of each key.

    "grid.merg: unknown key. Did you mean 'merge'? Allowed: key, kind, merge, patch."
    """
    problems: dict[str, list[tuple[type[BaseModel] | None, ErrorDetails]]] = {}
    for detail in error.errors(include_url=False):
        path, parent = _place(detail["loc"], model)
        problems.setdefault(path, []).append((parent, detail))
    # Where one alternative of a union got as far as naming a key inside it, the others were not meant.
    outer = [path for path in problems if any(other.startswith(f"{path}.") for other in problems)]
    sentences = [
        f"{path or 'the file'}: {_sentence(details)}" for path, details in problems.items() if path not in outer
    ]
    more = f" (and {len(sentences) - MAX_SHOWN} more)" if len(sentences) > MAX_SHOWN else ""
    return " ".join(sentences[:MAX_SHOWN]) + more


def nearest(name: str, names: Iterable[str]) -> str:
    """A question that offers the one of `names` that is nearest to `name`, or nothing where none is near."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"Did you mean {matches[0]!r}? " if matches else ""


def _sentence(details: list[tuple[type[BaseModel] | None, ErrorDetails]]) -> str:
    parent, first = details[0]
    key = str(first["loc"][-1]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        allowed = sorted(name for name in parent.model_fields if name != "name") if parent is not None else []
        return f"unknown key. {nearest(key, allowed)}Allowed: {', '.join(allowed)}."
    if first["type"] == "missing":
        return "missing, but needed."
    if first["type"] == "value_error":
        return f"found {_short(first['input'])}: {first['ctx']['error']}."
    expected = list(dict.fromkeys(_expected(detail) for _, detail in details))
    return f"found {_short(first['input'])}, expected {' or '.join(expected)}."


def _expected(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "int_type" | "int_parsing" | "int_from_float":
            return "an integer"
        case "string_type":
            return "text"
        case "bool_type" | "bool_parsing":
            return "true or false"
        case "tuple_type" | "list_type":
            return "a list"
        case "none_required":
            return "null"
        case "model_type" | "model_attributes_type" | "dict_type" if context.get("class_name") == "FromConfig":
            return "{config: dotted.path}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "a mapping of keys"
        case "literal_error":
            return str(context["expected"])
        case "union_tag_invalid":
            return f"kind: {context['expected_tags']}"
        case "union_tag_not_found":
            return "a mapping with the key 'kind'"
        case "string_pattern_mismatch":
            return f"text that matches {context['pattern']}"
        case "invalid_key":
            return "a key that is text"
        case "greater_than":
            return f"a number greater than {context['gt']}"
        case _:
            return detail["msg"].removeprefix("Input should be ").rstrip(".")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _place(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, type[BaseModel] | None]:
    """The dotted path of a key as the file has it, and the model that owns the key.

    pydantic's `loc` also names the alternatives of unions ('square', 'int', 'FromConfig'), which the file does not.
    """
    path: list[str] = []
    models: list[type[BaseModel]] = [model]
    parent: type[BaseModel] | None = model
    for position, part in enumerate(loc):
        owner = next((candidate for candidate in models if part in candidate.model_fields), None)
        alternative = next((candidate for candidate in models if _is_alternative(candidate, part)), None)
        if isinstance(part, int):
            path.append(str(part))
        elif owner is not None:
            path.append(part)
            parent, models = owner, list(models_in(owner.model_fields[part].annotation))
        elif alternative is not None and position > 0:
            parent, models = alternative, [alternative]
        elif position == len(loc) - 1 and len(models) == 1 and (position == 0 or part not in _SCALARS):
            path.append(part)
            parent = models[0]
    return ".".join(path), parent


_SCALARS = {"int", "str", "bool", "float", "none", "literal"}


def _is_alternative(candidate: type[BaseModel], part: int | str) -> bool:
    kind = candidate.model_fields.get("kind")
    return part == candidate.__name__ or (kind is not None and part in typing.get_args(kind.annotation))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models that a field of that annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models_in(argument)
