"""Files as a user names them: ~ expanded, only regular files read, results written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from attnlens.errors import AttnLensError, quoted

MAX_JSON = 2**27
"""Bytes: 128 MB, half a million questions; what a file of empty lists becomes in memory is some twenty times that."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path`, with the home folder for a leading `~` or `~user`.

    Raises AttnLensError where there is no such user, or where no file can have that name.

    >>> expanded("photos/cat.jpg").name
    'cat.jpg'
    """
    if "\0" in os.fspath(path):
        raise AttnLensError(f"{quoted(str(path))} holds a NUL character, which no path may. Correct the path.")
    try:
        return Path(path).expanduser()
    except RuntimeError:  # as pathlib says it
        raise AttnLensError(
            f"{quoted(str(path))} begins with the home folder of a user that this system does not know. Write the path "
            "out, or put ./ in front where the folder is really named so."
        ) from None


def writable(path: str | os.PathLike[str], what: str) -> Path:
    """`path` as a file that can be written, its folder made where it was missing.

    Raises AttnLensError, in which `what` ("A picture") is what cannot be written.
    """
    target = expanded(path)
    if os.path.isdir(target):
        raise AttnLensError(f"{what} cannot be written to {quoted(str(target))}: it is a folder. Name a file in it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise AttnLensError(
            f"The folder of {quoted(str(target))} cannot be made: {getattr(error, 'strerror', error)}."
        ) from None
    return target


def opened(path: Path) -> BinaryIO:
    """The regular file at `path`, open for reading.

    Raises OSError, also for a pipe or a device, which could keep its reader waiting, or give bytes without end.
    """
    try:
        # Without waiting: opening a named pipe would block until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a name that the file system's encoding does not have
        raise OSError(errno.EINVAL, str(error)) from None
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a regular file")
    return open(descriptor, "rb")


def read_bytes(path: Path, most: int) -> bytes:
    """What the regular file at `path` holds. Raises OSError, also where it is larger than `most` bytes."""
    with opened(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        size = f"{most // 2**20} MB" if most >= 2**20 else f"{most // 2**10} kB"
        raise OSError(errno.EFBIG, f"it is larger than {size}")
    return data


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """What the JSON file at `path` holds. Raises OSError as `read_bytes` does, and ValueError where it is no JSON."""
    try:
        return json.loads(read_bytes(path, most))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; once the block has ended well, what lies there takes the place of `path`.

    Whoever reads `path` meanwhile, or after a failure, finds what was there before. A link is followed. Raises OSError,
    also where `path` is a pipe or a device.

        with replacing(Path("report.json")) as part:
            part.write_text("{}")
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    part = target.with_name(f".{target.name[:40]}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
