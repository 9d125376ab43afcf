"""Recipes: map, search and answer as one thing, by name, in Python or in YAML."""

from attnlens.recipes.ask import Result, ask
from attnlens.recipes.external import external
from attnlens.recipes.library import Card, card, named, names
from attnlens.recipes.look import Look
from attnlens.recipes.recipe import Recipe

__all__ = ["Card", "Look", "Recipe", "Result", "ask", "card", "external", "named", "names"]
