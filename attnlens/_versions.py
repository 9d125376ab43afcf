"""Which versions of Python, torch, transformers and nnsight attnlens was tested with, and which are here.

    for finding in versions.findings():     # one for each of TESTED, in its order
        finding.name, finding.seen          # "transformers", "5.25.0"; seen is None where it is not installed
        finding.state                       # "tested", "newer", "refused" or "missing"
        finding.tested                      # "5.23 to 5.24"
        finding.advice                      # what to do, in one line; "" where nothing is to be done

`require` raises for what is refused or missing. `announce` calls it, and then says once in a process, in one line of
the log "attnlens", what is newer than any version that was tested. Versions are read from the packages' metadata:
nothing heavy is imported.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import platform
import re
from dataclasses import dataclass
from typing import Literal

from attnlens.errors import AttnLensError

_log = logging.getLogger("attnlens")

State = Literal["tested", "newer", "refused", "missing"]


@dataclass(frozen=True)
class Range:
    """Versions from `oldest`, the first that is let in, to any patch of the minor version `newest` were tested.

    `below`: the first that is refused again, where one is known. `why`: the reason for not going below `oldest`.
    """

    oldest: str
    newest: str
    below: str | None = None
    why: str = ""

    def __str__(self) -> str:
        return self.newest if _minor(self.oldest) == _minor(self.newest) else f"{self.oldest} to {self.newest}"

    @property
    def requirement(self) -> str:
        """The versions that are let in, as pip writes them: ">=5.23,<6"."""
        return f">={self.oldest}" + (f",<{self.below}" if self.below else "")


TESTED = {
    "Python": Range("3.11", "3.13"),
    "torch": Range("2.13", "2.14"),
    "transformers": Range("5.23", "5.24", below="6", why="older ones give silently wrong crops for some models"),
    "nnsight": Range("0.8.1", "0.8", below="0.9", why="its interface was another one before"),
}


@dataclass(frozen=True)
class Finding:
    """What was found of one package: the module's docstring says what the fields hold."""

    name: str
    seen: str | None
    state: State
    tested: str
    advice: str


def findings() -> list[Finding]:
    """What is installed here of each of `TESTED`, next to what was tested."""
    return [_finding(name, tested) for name, tested in TESTED.items()]


def require() -> None:
    """Refuse what attnlens gives wrong results with, or none. Raises AttnLensError."""
    wrong = [one for one in findings() if one.state in ("refused", "missing")]
    if wrong:
        raise AttnLensError(" ".join(f"{_seen(one)} {one.advice}" for one in wrong))


def announce() -> None:
    """`require`, and once in a process one line of the log about versions that are newer than any tested one."""
    require()
    _announce_newer()


@functools.cache
def _announce_newer() -> None:
    newer = [one for one in findings() if one.state == "newer"]
    if newer:
        _log.warning(
            "attnlens was not tested with %s. `attnlens adapters check MODEL` proves whether its maps are true here.",
            " and ".join(f"{one.name} {one.seen} (tested: {one.tested})" for one in newer),
        )


def _finding(name: str, tested: Range) -> Finding:
    seen = installed(name)
    state = _state(seen, tested)
    return Finding(name, seen, state, str(tested), _advice(name, seen, state, tested))


def installed(name: str) -> str | None:
    """The version of an installed package, or of the Python that runs; None where there is none."""
    if name == "Python":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _state(seen: str | None, tested: Range) -> State:
    if seen is None:
        return "missing"
    if _release(seen) < _release(tested.oldest) or (tested.below and _release(seen) >= _release(tested.below)):
        return "refused"
    return "newer" if _minor(seen) > _minor(tested.newest) else "tested"


def _advice(name: str, seen: str | None, state: State, tested: Range) -> str:
    if state == "tested":
        return ""
    if state == "newer":
        return "Prove your models here with `attnlens adapters check MODEL`, or install a tested version."
    too_old = seen is not None and _release(seen) < _release(tested.oldest)
    reason = f" ({tested.why})" if tested.why and too_old else ""
    if name == "Python":
        return f"attnlens needs Python{tested.requirement}{reason}: make an environment with such a Python."
    return f"attnlens needs {name}{tested.requirement}{reason}: pip install '{name}{tested.requirement}'"


def _seen(one: Finding) -> str:
    return f"{one.name} is not installed." if one.seen is None else f"{one.name} {one.seen} is installed."


def _release(version: str) -> tuple[int, ...]:
    """The numbers before any suffix, three at least: of "5.25.0.dev0" and of "5.25" (5, 25, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found.group().split(".")] if found else []
    return tuple(numbers + [0] * (3 - len(numbers)))


def _minor(version: str) -> tuple[int, ...]:
    return _release(version)[:2]
