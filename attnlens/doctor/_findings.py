"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fails"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Examples:
        >>> Finding("devices", "cpu", "ok", "float32, bfloat16").state
        'ok'
    """

    area: str
    """"versions", "extras", "devices" or "folders"."""
    name: str
    """What was looked at."""
    state: State
    """"ok": nothing to do. "note": good to know. "fails": something does not work, and `advice` says what to do."""
    seen: str
    """What was found."""
    advice: str = ""
    """What to do about it."""
