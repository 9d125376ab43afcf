"""What a long run has found so far: a file to which one record after the other is added, and from which it resumes.

The file is JSON lines: first the run's settings, then one line for each record with its key and its data. A line is
written in one call, so a run that is killed leaves at most one torn line, the last, which is cut off when the file is
opened again. While it is open, the file is locked against a second run.

>>> with Records("out/records.jsonl", {"model": "pocket/llava"}) as records:
...     if ("none", "test/small/read/7") not in records:
...         records.add(("none", "test/small/read/7"), {"answer": "4", "right": True})
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attnlens.errors import AttnLensError

Key = tuple[str, ...]


class Records:
    """Records by key (a tuple of strings), in the order in which they were added. Data is whatever JSON can hold."""

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        """Opens the file, or makes it, and its folder, where it is missing.

        Raises AttnLensError when it cannot be written, is damaged, is in use, or belongs to a run of other settings.
        """
        self.path = Path(path).expanduser()
        self._found: dict[Key, Any] = {}
        header = _line({"settings": dict(settings)}, "The settings")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
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
        """The data of a record; None where there is none."""
        return self._found.get(key)

    def all(self) -> dict[Key, Any]:
        """Every record, by key, in the order of the file. Data is as JSON gives it back: tuples are lists."""
        return dict(self._found)

    def add(self, key: Key, data: Any) -> None:
        """Appends a record to the file, in one write. Raises AttnLensError when the key is there, or for a full disk.

        `data` must be plain JSON: finite numbers, no numpy scalars.
        """
        if not isinstance(key, tuple) or not all(isinstance(part, str) for part in key):
            raise AttnLensError(f"The key of a record is {key!r}; expected a tuple of strings.")
        if key in self._found:
            raise AttnLensError(f"A record {key!r} is already in {str(self.path)!r}; ask `key in records` first.")
        line = _line({"key": key, "data": data}, f"The record {key!r}")
        self._append(line)
        self._found[key] = json.loads(line)["data"]

    def close(self) -> None:
        """Closes and unlocks the file."""
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
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            if not header.startswith(content):
                raise AttnLensError(self._not_ours())
            self._file.truncate(0)
            self._append(header)
            return
        first, *lines = whole.splitlines()
        self._check_settings(first, json.loads(header)["settings"])
        for number, line in enumerate(lines, start=2):
            key, data = self._parsed(number, line)
            if key in self._found:
                raise AttnLensError(
                    f"Line {number} of {str(self.path)!r} is a second record {key!r}. Delete it, and start again."
                )
            self._found[key] = data
        self._file.truncate(len(whole))

    def _parsed(self, number: int, line: bytes) -> tuple[Key, Any]:
        try:
            record = json.loads(line)
            key, data = tuple(record["key"]), record["data"]
            if all(isinstance(part, str) for part in key):
                return key, data
        except (ValueError, TypeError, KeyError):
            pass
        raise AttnLensError(
            f"Line {number} of {str(self.path)!r} is damaged: {line[:60]!r}. Expected one record as JSON. Delete that "
            "line, and what it held is done again."
        )

    def _check_settings(self, line: bytes, wanted: dict[str, Any]) -> None:
        try:
            there = dict(json.loads(line)["settings"])
        except (ValueError, TypeError, KeyError):
            raise AttnLensError(self._not_ours()) from None
        names = [name for name in there | wanted if _shown(there, name) != _shown(wanted, name)]
        if names:
            differences = "; ".join(
                f"{name}: {_shown(there, name)} there, {_shown(wanted, name)} now" for name in names
            )
            raise AttnLensError(
                f"{str(self.path)!r} belongs to a run of other settings ({differences}). Choose another folder, or "
                "delete that file."
            )

    def _not_ours(self) -> str:
        return (
            f"{str(self.path)!r} does not begin with the settings of a run, so it is no file of records, or a damaged "
            "one. Choose another folder, or delete that file."
        )


def _line(content: dict[str, Any], what: str) -> bytes:
    try:
        return json.dumps(content, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise AttnLensError(f"{what} cannot be written as JSON: {error}. Expected plain, finite values.") from None


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], sort_keys=True) if name in settings else "not set"
