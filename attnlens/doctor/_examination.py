"""Everything that is looked at, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attnlens.doctor import _attempts, _devices, _folders, _packages
from attnlens.doctor._findings import Finding
from attnlens.errors import first_line


def examine(timeout: float = _attempts.TIMEOUT) -> Iterator[Finding]:
    """What works here and what does not, first of all the reasons for others.

    Nothing here raises, and nothing is downloaded: what may crash, or spoil what is imported next, is tried in a Python
    of its own. It takes half a minute on two cores.

    Args:
        timeout: the seconds that each such Python is given.

    Returns:
        The findings, one after the other, as they are made.

    Examples:
        >>> from attnlens.doctor import examine
        >>> broken = [one for one in examine() if one.state == "fails"]     # doctest: +SKIP
    """
    tried, torchvision = (_attempted(kind, timeout) for kind in ("others", "torchvision"))
    yield from _guarded("versions", "versions", lambda: _packages.needed(tried))
    yield from _guarded("extras", "torchvision", lambda: _packages.torchvision(torchvision))
    yield from _guarded("extras", "extras", lambda: _packages.extras(tried))
    if "others" in tried:
        error = tried["others"]["error"]
        yield Finding("devices", "Python", "fails", error, "Run attnlens with a Python that can be started again.")
    yield from _guarded("devices", "devices", lambda: _devices.devices(tried))
    yield from _guarded("folders", "hub cache", _folders.downloads)
    yield from _guarded("folders", "adapters", _folders.adapters)
    yield from _guarded("folders", "bundled models", _folders.bundled)


def _attempted(kind: str, timeout: float) -> _packages.Attempts:
    try:
        return _attempts.attempt(kind, timeout)
    except Exception as error:  # noqa: BLE001 - such as a disk without room for a file
        return {kind: {"error": f"{type(error).__name__}: {first_line(error)}"}}


def _guarded(area: str, name: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What `look` finds; an error of its own, such as of a package that it needs, is a finding."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - the environment may be broken in any way
        told = f"not looked at: {type(error).__name__}: {first_line(error)}"
        yield Finding(area, name, "fails", told, "Mend what else fails here, then run this again.")
