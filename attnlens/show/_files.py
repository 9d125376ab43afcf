"""Writes a figure to a file."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from attnlens import _files
from attnlens.errors import AttnLensError, quoted


def writable(path: str | os.PathLike[str]) -> Path:
    """`path`, once it is sure that a picture can be written there: a known format, a folder (made where missing).

    Raises AttnLensError, so that a wrong name is told before a model is loaded for it.
    """
    formats = {ending for ending, name in Image.registered_extensions().items() if name in Image.SAVE}
    if Path(path).suffix.lower() not in formats:
        raise AttnLensError(
            f"A picture cannot be written to {quoted(str(path))}: use a name that ends in .png or .jpg."
        )
    return _files.writable(path, "A picture")


def save(figure: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Writes `figure` to `path`, in the format that the name says, whole or not at all. Folders are made."""
    target = writable(path)
    try:
        with _files.replacing(target) as part:
            figure.save(part, format=Image.registered_extensions()[target.suffix.lower()])
    except (OSError, ValueError) as error:
        raise AttnLensError(f"The picture could not be written to {str(target)!r}: {error}.") from None
    return target
