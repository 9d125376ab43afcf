"""Data of arrays and numbers: equal where every value is, and kept in files that hold nothing else.

A file is one of safetensors: the arrays by name, and a header of text with the rest as JSON, the version of the format
and a checksum of everything. Nothing in it is ever run, and what was damaged is noticed.

    importance.save("map.safetensors")
    ImportanceMap.load("map.safetensors") == importance          # True
"""

from __future__ import annotations

import hashlib
import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from attnlens import _files
from attnlens.errors import AttnLensError

FORMAT, VERSION, ENDING = "attnlens", 1, ".safetensors"

Arrays = dict[str, npt.NDArray[Any]]


class Valued:
    """Base of frozen dataclasses that hold arrays: two are equal where all their values are, NaN equal to NaN.

    They are made anew, by their own constructor, where they are unpickled or copied.
    """

    def __eq__(self, other: object) -> bool:
        return _comparable(self) == _comparable(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_comparable(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in _names(self))


class Stored(Valued):
    """Base of those that can be kept in a file of their own."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes everything to a file, from which `load` makes an equal one.

        Args:
            path: the file, whose name ends in .safetensors. Folders are made.

        Returns:
            Where it was written.

        Raises:
            AttnLensError: where the file cannot be written.

        Examples:
            >>> kept = attnlens.ImportanceMap(np.eye(3), attnlens.Grid.regular(3, 3, (90, 90)))
            >>> attnlens.ImportanceMap.load(kept.save("map.safetensors")) == kept
            True
        """
        target, arrays = _files.writable(_named(path), f"This {type(self).__name__}"), Arrays()
        kept = {"kind": type(self).__name__, "values": _plain(self, "", arrays)}
        said = json.dumps(kept)
        header = {"format": FORMAT, "version": str(VERSION), "data": said, "checksum": _checksum(said, arrays)}
        try:
            _write(target, arrays, header)
        except OSError as error:
            raise AttnLensError(f"{str(target)!r} cannot be written: {error.strerror or error}.") from None
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What `save` wrote.

        Args:
            path: the file.

        Returns:
            One that equals what was saved.

        Raises:
            AttnLensError: for a file that is not there, is damaged, holds something else, or comes from a newer
                attnlens.

        Examples:
            >>> trace = reading.trace(question)
            >>> type(trace).load(trace.save("trace.safetensors")) == trace
            True
        """
        target = _named(path)
        if not target.is_file():
            raise AttnLensError(f"There is no file {str(target)!r}. Write one with save.")
        header, arrays = _read(target)
        _check(target, header, arrays)
        try:
            kept = json.loads(header["data"])
            if kept["kind"] != cls.__name__:
                raise AttnLensError(f"{str(target)!r} holds a {kept['kind']}, not a {cls.__name__}.")
            made: Self = _made(cls, kept["values"], arrays)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise AttnLensError(f"{str(target)!r} does not hold what a {cls.__name__} is made of: {error}.") from None
        return made


def _names(value: Any) -> list[str]:
    return [field.name for field in fields(value)]


def _comparable(value: Any) -> Any:
    """`value` as something that can be compared and hashed; -0.0 as 0.0, and every NaN as one."""
    if isinstance(value, np.ndarray):
        known = np.where(np.isnan(value), np.nan, value + 0) if value.dtype.kind == "f" else value
        return value.dtype.str, value.shape, known.tobytes()
    if isinstance(value, Valued):
        return type(value), *(_comparable(getattr(value, name)) for name in _names(value))
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    if isinstance(value, tuple | list):
        return tuple(map(_comparable, value))
    return "NaN" if isinstance(value, float) and np.isnan(value) else value


# To a file.


def _named(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path).endswith(ENDING):
        raise AttnLensError(
            f"The file is {path!r}; expected a name that ends in {ENDING}. A picture of a map is "
            "importance.overlay(image).save('map.png')."
        )
    return _files.expanded(path)


def _plain(value: Any, name: str, arrays: Arrays) -> Any:
    """`value` as JSON has it; its arrays go to `arrays` by their names, the way that leads to them."""
    if isinstance(value, np.ndarray):
        arrays[name] = np.ascontiguousarray(value)
        return name
    if is_dataclass(value):
        return {key: _plain(getattr(value, key), f"{name}.{key}".strip("."), arrays) for key in _names(value)}
    if isinstance(value, tuple | list):
        return [_plain(one, f"{name}.{number}", arrays) for number, one in enumerate(value)]
    if isinstance(value, slice):
        return [value.start, value.stop]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    raise AttnLensError(f"{name} is a {type(value).__name__}, which is no data and cannot be kept in a file.")


def _checksum(said: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(said.encode())
    for name in sorted(arrays):
        digest.update(f"\n{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _write(target: Path, arrays: Arrays, header: dict[str, str]) -> None:
    """Beside `target`, and then in its place: it is never there in part."""
    from safetensors.numpy import save

    with _files.replacing(target) as part:
        part.write_bytes(save(arrays, header))


# From a file.


def _read(target: Path) -> tuple[dict[str, str], Arrays]:
    """The header, and the arrays where it is one of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(target, framework="np") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT or header.get("version") != str(VERSION):
                return header, {}
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise AttnLensError(f"{str(target)!r} is damaged, or no file of safetensors: {error}.") from None


def _check(target: Path, header: Mapping[str, str], arrays: Arrays) -> None:
    version = header.get("version", "")
    if header.get("format") != FORMAT or not version.isdecimal():
        raise AttnLensError(f"{str(target)!r} was not written by attnlens. Give a file that save wrote.")
    if version != str(VERSION):
        raise AttnLensError(
            f"{str(target)!r} is of version {version[:20]} of the format, and this attnlens reads version {VERSION}. "
            "Load it with the attnlens that wrote it, or update this one."
        )
    if header.get("checksum") != _checksum(header.get("data", ""), arrays):
        raise AttnLensError(f"{str(target)!r} is damaged: what it holds does not fit its checksum. Save it again.")


def _made(hint: Any, value: Any, arrays: Arrays) -> Any:
    """A value of the type `hint` from what `_plain` made of it. Raises TypeError where it is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _made(arguments[0], value, arrays)
    if origin is np.ndarray:
        array, expected = arrays[value], np.dtype(typing.get_args(arguments[1])[0])
        if array.dtype != expected:
            raise TypeError(f"{value} is of {array.dtype}, and should be of {expected}")
        return array
    if isinstance(hint, type) and is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{key: _made(hints[key], one, arrays) for key, one in _entries(value, hint)})
    if hint is slice:
        return slice(*_made(tuple[int, int], value, arrays))
    if origin is tuple:
        return tuple(_made(one, part, arrays) for one, part in zip(_each(arguments, value), value, strict=True))
    if type(value) is not hint and not (hint is float and type(value) is int):
        raise TypeError(f"{value!r:.60} is no {getattr(hint, '__name__', hint)}")
    return value


def _entries(value: Any, hint: Any) -> Sequence[tuple[str, Any]]:
    names = _names(hint)
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        raise TypeError(f"{value!r:.60} is no {hint.__name__} of {', '.join(names)}")
    return list(value.items())


def _each(arguments: tuple[Any, ...], value: Any) -> Sequence[Any]:
    """The types of a tuple's parts: of `tuple[X, ...]` as many as there are."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.60} is no list")
    return [arguments[0]] * len(value) if arguments[-1:] == (Ellipsis,) else arguments
