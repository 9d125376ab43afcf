"""Writes a figure to a file."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from attnlens import _files
from attnlens.errors import AttnLensError, quoted


def writable(path: str | os.PathLike[str]) -> Path:
    """`path`, once it is sure that a picture can be written there: a known format, a folder (made where missing).

    So a wrong name is told before a model is loaded for it.

    Args:
        path: where a picture is to be written. The ending says the format: .png, .jpg or another that Pillow writes. A
            leading `~` is the home folder.

    Returns:
        The path, with the home folder in place of `~`.

    Raises:
        AttnLensError: where the ending is that of no such format, where the path is a folder, and where its folder
            cannot be made.

    Examples:
        >>> attnlens.show.writable("pictures/answer.png").parent.is_dir()
        True
    """
    formats = {ending for ending, name in Image.registered_extensions().items() if name in Image.SAVE}
    if Path(path).suffix.lower() not in formats:
        raise AttnLensError(
            f"A picture cannot be written to {quoted(str(path))}: use a name that ends in .png or .jpg."
        )
    return _files.writable(path, "A picture")


def save(figure: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Writes `figure` to `path`, in the format that the name says, whole or not at all. Folders are made.

    Args:
        figure: a PIL image, such as the figures of `attnlens.show`.
        path: the file, as `writable` takes it.

    Returns:
        The path that was written.

    Raises:
        AttnLensError: as `writable` does, and where the picture cannot be written.

    Examples:
        >>> importance = maps.relative_attention(reading, question)
        >>> attnlens.show.save(attnlens.show.maps_figure(image, {"rel-att": importance}), "maps.png").name
        'maps.png'
    """
    target = writable(path)
    try:
        with _files.replacing(target) as part:
            figure.save(part, format=Image.registered_extensions()[target.suffix.lower()])
    except (OSError, ValueError) as error:
        raise AttnLensError(f"The picture could not be written to {str(target)!r}: {error}.") from None
    return target
