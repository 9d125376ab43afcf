"""Pictures of what a model looked at, drawn with Pillow alone."""

from attnlens.show._figures import answer_figure, layers_strip, look_figure, maps_figure
from attnlens.show._files import save, writable

__all__ = ["answer_figure", "layers_strip", "look_figure", "maps_figure", "save", "writable"]
