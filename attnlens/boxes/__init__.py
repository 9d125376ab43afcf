"""Boxes: the parts of an image that matter, from an importance map or from a model's own confidence."""

from typing import TYPE_CHECKING

from attnlens._renamed import names
from attnlens.boxes import tree
from attnlens.boxes._components import components
from attnlens.boxes._proposals import propose
from attnlens.boxes._search import Region, search
from attnlens.boxes._tiles import tiles

__all__ = ["Region", "components", "propose", "search", "tiles", "tree"]

if not TYPE_CHECKING:
    __getattr__ = names(__name__, Found="Region", focus="attnlens.recipes.focus")
