"""The tree search of ZoomEye (arXiv 2411.16044): look into the quarter that promises most, until the question is
answerable there.

Nothing here knows a model: what the search asks is answered by `Confidences`.
"""

from typing import TYPE_CHECKING

from attnlens import _renamed
from attnlens.boxes.tree._preset import PRESETS, Preset
from attnlens.boxes.tree._search import Confidences, find_all, find_one
from attnlens.boxes.tree._tree import Node, merge_near, tree

__all__ = ["PRESETS", "Confidences", "Node", "Preset", "find_all", "find_one", "merge_near", "tree"]

if not TYPE_CHECKING:
    __getattr__ = _renamed.names(__name__, gathered="merge_near")
