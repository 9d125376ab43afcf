"""From an importance map to boxes worth a closer look; boxes are half-open, in original pixels."""

from attnlens.boxes.search import Found, search
from attnlens.boxes.tiles import tiles

__all__ = ["Found", "search", "tiles"]
