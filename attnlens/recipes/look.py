"""What a recipe comes back with when it has looked for itself."""

from __future__ import annotations

from dataclasses import dataclass

from attnlens.boxes import Found
from attnlens.importance import ImportanceMap


@dataclass(frozen=True)
class Look:
    """The regions that matter, one for each target, and the map that led there, where there is one."""

    found: list[Found]
    importance: ImportanceMap | None = None
