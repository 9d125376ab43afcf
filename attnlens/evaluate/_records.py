"""What a long run has found so far: a file to which one record after the other is added, and from which it resumes.

The file is JSON lines: first the run's settings, then one line for each record with its key and its data. Every line
ends with the CRC-32 of what stands before it, so that no damaged byte is read as a result. A line is written in one
call, so a run that is killed leaves at most one torn line, the last, which is cut off when the file is opened again.
While it is open, the file is locked against a second run.

Files of attnlens 0.1.0 have no checksums. They are read, and gone on with: a file whose first line has none may have
others without (`unchecked` counts them), and what is added to it has one.

>>> with Records("out/records.jsonl", {"model": "pocket/llava"}) as records:
...     if ("none", "test/small/read/7") not in records:
...         records.add(("none", "test/small/read/7"), {"answer": "4", "right": True})
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attnlens import _files
from attnlens.errors import AttnLensError

Key = tuple[str, ...]
Shape = Callable[[Key, Any], str | None]
"""What is wrong with a record of that key and data, in words; None where nothing is."""

_CHECKSUM = re.compile(rb', "crc32": "[0-9a-f]{8}"}')
_TAIL = len(b', "crc32": "00000000"}')
_LONGEST = 2**20  # bytes of the settings, which take some hundred
_UNCHECKED = ({"settings"}, {"key", "data"})
"""The fields of lines without a checksum."""


class Records:
    """Records by key (a tuple of strings), in the order in which they were added. Data is whatever JSON can hold.

    `key in records` asks whether a record is there, and `len(records)` counts them. Every record is a line of the file,
    with a checksum, written in one call: a run that is killed leaves at most one torn line, which is cut off when the
    file is opened again. While it is open, the file is locked against a second run.

    Examples:
        >>> with attnlens.evaluate.Records("out/run.jsonl", {"model": "pocket/llava"}) as records:
        ...     if ("none", "test/small/read/7") not in records:
        ...         records.add(("none", "test/small/read/7"), {"answer": "4", "right": True})
        ...     len(records)
        1
    """

    def __init__(
        self, path: str | os.PathLike[str], settings: Mapping[str, Any], shape: Shape = lambda key, data: None
    ) -> None:
        """Opens the file, or makes it, and its folder, where it is missing.

        Args:
            path: the file, JSON lines; a leading `~` is the home folder.
            settings: what the run is made with, plain JSON. It is the first line of the file, and has to be the same
                where a run is gone on with.
            shape: (key, data) -> what is wrong with such a record, in words, or None where nothing is. It looks at the
                records that the file has; by default every record is as it should be.

        Raises:
            AttnLensError: when the file cannot be written, is damaged, is in use, or belongs to a run of other
                settings; and, with the line's number, for a record that does not have the `shape` it should have.
        """
        self.path: Path = _files.expanded(path)
        """The file."""
        self.unchecked: int = 0
        """How many of the records in the file had no checksum, as attnlens 0.1.0 wrote them."""
        self._shape = shape
        self._found: dict[Key, Any] = {}
        header = _line({"settings": dict(settings)}, "The settings")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                _files.opened(self.path).close()  # a pipe or a device holds no records
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - it stays open: see close
        except OSError as error:
            raise AttnLensError(
                f"Records cannot be written to {str(self.path)!r}: {error.strerror}. Choose a folder that you may "
                "write to."
            ) from None
        try:
            self._lock()
            self._load(header)
        except BaseException:
            self.close()
            raise

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Key) -> Any | None:
        """The data of a record.

        Args:
            key: the record's key, a tuple of strings.

        Returns:
            The data as JSON gives it back: tuples are lists. None where there is no such record.

        Examples:
            >>> with attnlens.evaluate.Records("get.jsonl", {"model": "pocket/llava"}) as records:
            ...     records.add(("none", "7"), {"answer": "4", "box": (1, 2, 3, 4)})
            ...     records.get(("none", "7"))
            {'answer': '4', 'box': [1, 2, 3, 4]}
        """
        return self._found.get(key)

    def all(self) -> dict[Key, Any]:
        """Every record, by key, in the order of the file.

        Returns:
            A dict of its own. Data is as JSON gives it back: tuples are lists.

        Examples:
            >>> with attnlens.evaluate.Records("all.jsonl", {"model": "pocket/llava"}) as records:
            ...     records.add(("none", "7"), {"answer": "4"})
            ...     records.all()
            {('none', '7'): {'answer': '4'}}
        """
        return dict(self._found)

    def add(self, key: Key, data: Any) -> None:
        """Appends a record to the file, in one write.

        Args:
            key: a tuple of strings that no record has yet.
            data: plain JSON: finite numbers, no numpy scalars.

        Raises:
            AttnLensError: when the key is there or is no tuple of strings, when the data is no plain JSON, and when the
                file cannot be written, as on a full disk.

        Examples:
            >>> with attnlens.evaluate.Records("add.jsonl", {"model": "pocket/llava"}) as records:
            ...     records.add(("none", "7"), {"answer": "4", "right": True})
            ...     ("none", "7") in records
            True
        """
        if not isinstance(key, tuple) or not all(isinstance(part, str) for part in key):
            raise AttnLensError(f"The key of a record is {key!r}; expected a tuple of strings.")
        if key in self._found:
            raise AttnLensError(f"A record {key!r} is already in {str(self.path)!r}; ask `key in records` first.")
        line = _line({"key": key, "data": data}, f"The record {key!r}")
        self._append(line)
        self._found[key] = json.loads(line)["data"]

    def close(self) -> None:
        """Closes and unlocks the file.

        `with` does it by itself.

        Examples:
            >>> records = attnlens.evaluate.Records("close.jsonl", {"model": "pocket/llava"})
            >>> records.close()
        """
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            import fcntl  # not on Windows, where nothing keeps a second run away
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it, even of a killed run
        except BlockingIOError:
            raise AttnLensError(
                f"Another run is writing to {str(self.path)!r}. Wait for it, or choose another folder."
            ) from None
        except OSError:
            return  # some network file systems know no locks

    def _append(self, line: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END)
        reason = "the disk is full"
        try:
            if self._file.write(line) == len(line):
                return
        except OSError as error:
            reason = str(error.strerror)
        with contextlib.suppress(OSError):
            self._file.truncate(end)  # half a line would spoil the next one
        raise AttnLensError(f"A record cannot be written to {str(self.path)!r}: {reason}. Make room and start again.")

    def _load(self, header: bytes) -> None:
        self._file.seek(0)
        *lines, rest = self._file.read().split(b"\n")
        if not lines:
            if not header.startswith(rest):
                raise AttnLensError(_not_ours(self.path))
            self._file.truncate(0)
            self._append(header)
            return
        first, legacy = _settings(self.path, lines[0])
        self._check_settings(first, json.loads(header)["settings"])
        for number, line in enumerate(lines[1:], start=2):
            key, data = self._parsed(number, line, legacy)
            self._found[key] = data
        if _has_more_than_a_line(rest):
            raise self._damaged(len(lines) + 1, rest)
        self._file.truncate(sum(len(line) + 1 for line in lines))

    def _parsed(self, number: int, line: bytes, legacy: bool) -> tuple[Key, Any]:
        try:
            record, checked = _content(line)
            key, data = tuple(record["key"]), record["data"]
        except (ValueError, TypeError, KeyError):
            raise self._damaged(number, line) from None
        if key in self._found:
            raise AttnLensError(
                f"Line {number} of {str(self.path)!r} is a second record {key!r}. Delete it, and start again."
            )
        if not (checked or legacy) or not all(isinstance(part, str) for part in key):
            raise self._damaged(number, line)
        wrong = self._shape(key, data)
        if wrong is not None:
            raise AttnLensError(
                f"Line {number} of {str(self.path)!r}, the record {key!r}, is not as it should be: {wrong}. Delete "
                "that line, and what it held is done again."
            )
        self.unchecked += not checked
        return key, data

    def _damaged(self, number: int, line: bytes) -> AttnLensError:
        return AttnLensError(
            f"Line {number} of {str(self.path)!r} is damaged: {line[:60]!r}. Expected one record as JSON, with the "
            "checksum that it was written with. Delete that line, and what it held is done again."
        )

    def _check_settings(self, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        names = [name for name in there | wanted if _shown(there, name) != _shown(wanted, name)]
        if names:
            differences = "; ".join(
                f"{name}: {_shown(there, name)} there, {_shown(wanted, name)} now" for name in names
            )
            raise AttnLensError(
                f"{str(self.path)!r} belongs to a run of other settings ({differences}). Choose another folder, or "
                "delete that file."
            )


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of the run whose records the file at `path` holds. Raises AttnLensError where it holds none."""
    try:
        with _files.opened(path) as file:
            line = file.readline(_LONGEST)
    except OSError as error:
        raise AttnLensError(f"The records {str(path)!r} cannot be read: {error.strerror}.") from None
    if not line.endswith(b"\n"):
        raise AttnLensError(_not_ours(path))
    return _settings(path, line[:-1])[0]


def _settings(path: Path, line: bytes) -> tuple[dict[str, Any], bool]:
    """What the first line of the file says, and whether it has no checksum."""
    try:
        content, checked = _content(line)
        return dict(content["settings"]), not checked
    except (ValueError, TypeError, KeyError):
        raise AttnLensError(_not_ours(path)) from None


def _not_ours(path: Path) -> str:
    return (
        f"{str(path)!r} does not begin with the settings of a run, so it is no file of records, or a damaged one. "
        "Choose another folder, or delete that file."
    )


def _content(line: bytes) -> tuple[dict[str, Any], bool]:
    """What a line says, and whether it has a checksum. Raises ValueError, also for a wrong one."""
    checked = _CHECKSUM.fullmatch(line[-_TAIL:]) is not None
    if checked and line != _checked(line[:-_TAIL] + b"}"):
        raise ValueError("the checksum is another")
    try:
        content = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(content, dict) or (not checked and set(content) not in _UNCHECKED):
        raise ValueError("it is not what a run writes")
    return content, checked


def _has_more_than_a_line(rest: bytes) -> bool:
    """Whether `rest`, which has no line end, goes on behind a whole line. No run that is killed leaves that."""
    ends = [found.end() for found in _CHECKSUM.finditer(rest) if found.end() < len(rest)]
    return any(rest[:end] == _checked(rest[: end - _TAIL] + b"}") for end in ends)


def _checked(line: bytes) -> bytes:
    """`line`, a JSON object, with its checksum as one more field."""
    return line[:-1] + b', "crc32": "%08x"}' % zlib.crc32(line)


def _line(content: dict[str, Any], what: str) -> bytes:
    try:
        return _checked(json.dumps(content, allow_nan=False).encode()) + b"\n"
    except (TypeError, ValueError) as error:
        raise AttnLensError(f"{what} cannot be written as JSON: {error}. Expected plain, finite values.") from None


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], sort_keys=True) if name in settings else "not set"
