"""FOCUS (arXiv 2506.21710): its settings, its search, and how it shows a model what it found."""

from attnlens.recipes.focus._presets import PRESETS, Preset, transferred
from attnlens.recipes.focus._search import locate

__all__ = ["PRESETS", "Preset", "locate", "transferred"]
