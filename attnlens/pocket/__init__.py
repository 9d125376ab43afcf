"""The bundled small MLLMs (`path`, `names`) and the scenes that they were trained on (`attnlens.pocket.scenes`)."""

from attnlens.pocket import scenes
from attnlens.pocket.library import names, path

__all__ = ["names", "path", "scenes"]
