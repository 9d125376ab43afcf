"""Recipes: map, search and answer as one thing, by name, in Python or in YAML."""

from attnlens.recipes.ask import Result, ask
from attnlens.recipes.library import describe, named, names
from attnlens.recipes.recipe import Recipe

__all__ = ["Recipe", "Result", "ask", "describe", "named", "names"]
