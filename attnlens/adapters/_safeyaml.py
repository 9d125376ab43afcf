"""Reads one small YAML file as plain data: no tags, no anchors or aliases, no second document, no duplicate keys."""

from __future__ import annotations

import errno
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from attnlens import _files
from attnlens.errors import AttnLensError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


def load(path: Path) -> Any:
    """Dicts, lists and scalars of the YAML file at `path`.

    Raises AttnLensError, naming the file and where possible the line, for a file that is not there, not a regular file,
    larger than 64 kB, not UTF-8, not YAML, or that uses more of YAML than plain data.
    """
    text = read_text(path)
    try:
        _refuse_more_than_data(path, text)
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise AttnLensError(f"{path}{_line(error.problem_mark)}: not valid YAML: {problem}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise AttnLensError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None


def read_text(path: Path) -> str:
    """The text of the file at `path`, a regular one of at most 64 kB in UTF-8. Raises AttnLensError."""
    try:
        data = _files.read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise AttnLensError(f"There is no file {str(path)!r}.") from None
    except OSError as error:
        advice = " No adapter or recipe needs to be." if error.errno == errno.EFBIG else ""
        raise AttnLensError(f"{str(path)!r} cannot be read: {error.strerror}.{advice}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AttnLensError(f"{str(path)!r}: not UTF-8 text (byte {error.start}).") from None


def _refuse_more_than_data(path: Path, text: str) -> None:
    """Looks at the events alone, so that nothing is built from a file that is refused."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{path}{_line(event.start_mark)}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise AttnLensError(f"{where}: anchors (&) and aliases (*) are not allowed. Write the value out.")
        if (tag := getattr(event, "tag", None)) is not None:
            raise AttnLensError(f"{where}: tags ({tag}) are not allowed. Write plain YAML data.")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if documents > 1:
            raise AttnLensError(f"{where}: a second document starts here (---). Write one file for each.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise AttnLensError(f"{where}: nested more than {MAX_DEPTH} deep.")


def _line(mark: Any) -> str:
    return f", line {mark.line + 1}" if mark is not None else ""


class _PlainLoader(yaml.SafeLoader):
    """YAML's safe loader; of two equal keys it takes neither, where PyYAML takes the last without a word.

    Numbers are those of YAML 1.2 and JSON: 1:30 is text, not ninety, and 010 is not eight.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in (_INT, _FLOAT)]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(_INT, re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_PlainLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$"
        r"|\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
