"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fails"]


@dataclass(frozen=True)
class Finding:
    """`ok`: nothing to do. `note`: good to know. `fails`: something does not work, and `advice` says what to do."""

    area: str
    """"versions", "extras", "devices" or "folders"."""
    name: str
    state: State
    seen: str
    advice: str = ""
