"""FOCUS (arXiv 2506.21710): its settings, its search, and how it shows a model what it found."""

from typing import TYPE_CHECKING

from attnlens._renamed import names
from attnlens.recipes.focus._presets import PRESETS, Preset, transfer_preset
from attnlens.recipes.focus._search import locate

__all__ = ["PRESETS", "Preset", "locate", "transfer_preset"]

if not TYPE_CHECKING:
    __getattr__ = names(__name__, transferred="transfer_preset", look="locate")
