"""Writes an adapter with other defaults, line by line: the rest of the file and its comments stay as they are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from attnlens import _files
from attnlens.adapters import _library, _safeyaml
from attnlens.adapters._rendering import with_header
from attnlens.adapters._schema import AdapterSpec
from attnlens.errors import AttnLensError, quoted

Values = Mapping[str, int | str]


def checked_target(path: str | os.PathLike[str], force: bool = False) -> Path:
    """`path`, once it is sure that an adapter may be written there: a YAML name, no file yet (or `force`), a folder.

    Raises AttnLensError, so that a wrong name is told before the work whose result is to be written.
    """
    if Path(path).suffix not in _library.SUFFIXES:
        raise AttnLensError(f"An adapter cannot be written to {quoted(str(path))}: use a name that ends in .yaml.")
    target = _files.writable(path, "An adapter")
    if os.path.exists(target) and not force:
        raise AttnLensError(f"There is a file {str(target)!r} already. Name another, or overwrite it with --force.")
    if not os.access(target.parent, os.W_OK):
        raise AttnLensError(f"An adapter cannot be written to {str(target)!r}: its folder is not writable.")
    return target


def write_defaults(
    source: str | os.PathLike[str] | AdapterSpec,
    path: str | os.PathLike[str],
    values: Values,
    reason: str,
    force: bool = False,
) -> AdapterSpec:
    """Writes the adapter `source` (as for `adapters.find`) to `path`, its `defaults` changed to `values`.

        write_defaults("llava", "mine.yaml", {"layer": 2, "layers": 4}, "the highest attention ratio on my data")

    `reason` becomes the comment on the first of them. Keys that are not in `values` stay as they are, and so does the
    rest of the file, comments included; a source that has no file is written without comments. The file is there whole
    or not at all. Returns what was written. Raises AttnLensError when `path` cannot be written, or exists and `force`
    is not set.
    """
    target = checked_target(path, force)
    spec = _library.find(source)
    text = with_header(_text_of(source))
    changed = _changed(text, values, " ".join(reason.split()))
    expected = spec.model_copy(update={"defaults": _defaults(spec, values), "name": target.stem})
    with _written(target) as part:
        part.write_text(changed, encoding="utf-8")
        if _read(part) != expected.model_copy(update={"name": part.stem}):
            raise AttnLensError(
                f"The defaults of {_name(source)} could not be changed line by line. Write them as plain lines, "
                "`defaults:` and below it `  layer: 14`, and try again."
            )
    return expected


def write_text(target: Path, text: str) -> None:
    """Writes the text of an adapter to `target`, whole or not at all. Raises AttnLensError."""
    with _written(target) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _written(target: Path) -> Iterator[Path]:
    try:
        with _files.replacing(target) as part:
            yield part
    except OSError as error:
        raise AttnLensError(f"The adapter cannot be written to {str(target)!r}: {error.strerror}.") from None


def _defaults(spec: AdapterSpec, values: Values) -> Any:
    """The defaults as they are to become, validated."""
    try:
        return type(spec.defaults).model_validate(spec.defaults.model_dump() | dict(values))
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise AttnLensError(f"These are no defaults of an adapter: {dict(values)}. {problem}.") from None


def _read(path: Path) -> AdapterSpec | None:
    try:
        return _library.read(path)
    except AttnLensError:
        return None


def _name(source: str | os.PathLike[str] | AdapterSpec) -> str:
    return f"the adapter {source.name!r}" if isinstance(source, AdapterSpec) else str(_library.path_of(source))


def _text_of(source: str | os.PathLike[str] | AdapterSpec) -> str:
    if not isinstance(source, AdapterSpec):
        return _safeyaml.read_text(_library.path_of(source))
    plain = source.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _changed(text: str, values: Values, reason: str) -> str:
    """`text` with other lines under `defaults:`."""
    lines = _lines(values, reason)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    key, node = next(((key, value) for key, value in pairs if key.value == "defaults"), (None, None))
    if key is None or node is None:
        return text.rstrip("\n") + "\ndefaults:\n" + _joined(lines, "  ")
    if node.flow_style:  # {layer: 14}: becomes one key a line
        held = yaml.safe_load(text)["defaults"]
        lines += [f"{name}: {value}" for name, value in held.items() if name not in values]
        stop = _line_end(text, node.end_mark.index)
        return text[: key.start_mark.index] + "defaults:\n" + _joined(lines, "  ") + text[stop:]
    indent = " " * node.start_mark.column
    spans = [
        (_line_start(text, name.start_mark.index), _line_end(text, value.end_mark.index))
        for name, value in node.value
        if name.value in values
    ]
    place = spans[0][0] if spans else _line_start(text, node.start_mark.index)
    for start, stop in reversed(spans):
        text = text[:start] + text[stop:]
    head = text[:place]
    return head + ("" if head.endswith("\n") else "\n") + _joined(lines, indent) + text[place:]


def _lines(values: Values, reason: str) -> list[str]:
    first, *rest = [f"{name}: {value}" for name, value in values.items()]
    return [f"{first}    # {reason}", *rest]


def _joined(lines: list[str], indent: str) -> str:
    return "".join(f"{indent}{line}\n" for line in lines)


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def _line_end(text: str, index: int) -> int:
    """Behind the line break of the line that holds what ends at `index`."""
    if index > 0 and text[index - 1] == "\n":
        return index
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1
