"""Boxes: the parts of an image that matter, from an importance map or from a model's own confidence."""

from attnlens.boxes import focus, tree
from attnlens.boxes.components import components
from attnlens.boxes.proposals import propose
from attnlens.boxes.search import Found, search
from attnlens.boxes.tiles import tiles

__all__ = ["Found", "components", "focus", "propose", "search", "tiles", "tree"]
