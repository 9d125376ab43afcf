"""Writes a figure to a file."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from attnlens import files
from attnlens.errors import AttnLensError


def writable(path: str | os.PathLike[str]) -> Path:
    """`path`, once it is sure that a picture can be written there: a known format, a folder (made where missing).

    Raises AttnLensError, so that a wrong name is told before a model is loaded for it.
    """
    target = files.expanded(path)
    formats = {ending for ending, name in Image.registered_extensions().items() if name in Image.SAVE}
    if target.suffix.lower() not in formats:
        raise AttnLensError(f"A picture cannot be written to {str(target)!r}: use a name that ends in .png or .jpg.")
    if target.is_dir():
        raise AttnLensError(f"A picture cannot be written to {str(target)!r}: it is a folder. Name a file in it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AttnLensError(f"The folder of {str(target)!r} cannot be made: {error.strerror}.") from None
    return target


def save(figure: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Writes `figure` to `path`, in the format that the name says, whole or not at all. Folders are made."""
    target = writable(path)
    try:
        with files.replacing(target) as part:
            figure.save(part, format=Image.registered_extensions()[target.suffix.lower()])
    except (OSError, ValueError) as error:
        raise AttnLensError(f"The picture could not be written to {str(target)!r}: {error}.") from None
    return target
