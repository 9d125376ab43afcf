"""Recipes: map, search and answer as one thing, by name, in Python or in YAML.

The rooms `entropy`, `focus`, `hide`, `zoomeye` and `tools` say what options the recipes of these names take.
"""

from typing import TYPE_CHECKING

from attnlens._renamed import names as renamed
from attnlens.recipes import entropy, focus, hide, tools, zoomeye
from attnlens.recipes._ask import Result, ask
from attnlens.recipes._library import Card, card, find, names
from attnlens.recipes._localization import Localization
from attnlens.recipes._recipe import Recipe
from attnlens.recipes.tools import external

__all__ = [
    "Card",
    "Localization",
    "Recipe",
    "Result",
    "ask",
    "card",
    "entropy",
    "external",
    "find",
    "focus",
    "hide",
    "names",
    "tools",
    "zoomeye",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, Look="Localization", named="find")
