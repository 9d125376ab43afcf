"""Everything that is looked at, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attnlens._doctor import attempts, devices, folders, packages
from attnlens._doctor.findings import Finding
from attnlens.errors import first_line


def examine(timeout: float = attempts.TIMEOUT) -> Iterator[Finding]:
    """What works here and what does not, first of all the reasons for others.

        from attnlens._doctor import examine

        broken = [one for one in examine() if one.state == "fails"]

    Nothing here raises, and nothing is downloaded: what may crash, or spoil what is imported next, is tried in a Python
    of its own, which is given `timeout` seconds. Half a minute on two cores.
    """
    tried, torchvision = (_attempted(kind, timeout) for kind in ("others", "torchvision"))
    yield from _guarded("versions", "versions", lambda: packages.needed(tried))
    yield from _guarded("extras", "torchvision", lambda: packages.torchvision(torchvision))
    yield from _guarded("extras", "extras", lambda: packages.extras(tried))
    if "others" in tried:
        error = tried["others"]["error"]
        yield Finding("devices", "Python", "fails", error, "Run attnlens with a Python that can be started again.")
    yield from _guarded("devices", "devices", lambda: devices.devices(tried))
    yield from _guarded("folders", "hub cache", folders.downloads)
    yield from _guarded("folders", "adapters", folders.adapters)
    yield from _guarded("folders", "bundled models", folders.bundled)


def _attempted(kind: str, timeout: float) -> packages.Attempts:
    try:
        return attempts.attempt(kind, timeout)
    except Exception as error:  # noqa: BLE001 - such as a disk without room for a file
        return {kind: {"error": f"{type(error).__name__}: {first_line(error)}"}}


def _guarded(area: str, name: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What `look` finds; an error of its own, such as of a package that it needs, is a finding."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - the environment may be broken in any way
        told = f"not looked at: {type(error).__name__}: {first_line(error)}"
        yield Finding(area, name, "fails", told, "Mend what else fails here, then run this again.")
