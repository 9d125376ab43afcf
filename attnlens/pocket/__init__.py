"""The bundled small MLLMs (`path`, `names`), a CLIP that crops for them (`cropper_path`), and their `scenes`."""

from attnlens.pocket import scenes
from attnlens.pocket._library import cropper_path, names, path

__all__ = ["cropper_path", "names", "path", "scenes"]
