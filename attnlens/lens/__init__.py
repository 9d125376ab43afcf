"""A loaded model, what it has read, and its trace."""

# ruff: noqa: E402 - a version out of range, or a broken torchvision, is told before the imports below trip over it
from attnlens import _torchvision_check, _versions

_versions.require()
_torchvision_check.require()

from attnlens.lens._cost import Cost
from attnlens.lens._layouts import Layout, View
from attnlens.lens._lens import Lens
from attnlens.lens._loading import load
from attnlens.lens._reading import Answer, Reading
from attnlens.lens._trace import Trace
from attnlens.lens._values import ValueSimilarity
from attnlens.lens._words import WordAttention

__all__ = [
    "Answer",
    "Cost",
    "Layout",
    "Lens",
    "Reading",
    "Trace",
    "ValueSimilarity",
    "View",
    "WordAttention",
    "load",
]
