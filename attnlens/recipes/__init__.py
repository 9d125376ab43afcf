"""Recipes: map, search and answer as one thing, by name, in Python or in YAML."""

from attnlens.recipes._ask import Result, ask
from attnlens.recipes._library import Card, card, named, names
from attnlens.recipes._localization import Localization
from attnlens.recipes._recipe import Recipe
from attnlens.recipes.tools import external

__all__ = ["Card", "Localization", "Recipe", "Result", "ask", "card", "external", "named", "names"]
