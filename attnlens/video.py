"""A few frames of something that moves, as images that a lens can read together.

>>> [image.size for image in frames(np.zeros((100, 20, 30, 3), np.uint8), count=3)]
[(30, 20), (30, 20), (30, 20)]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from attnlens.errors import AttnLensError, first_line
from attnlens.geometry import is_count
from attnlens.images import BROKEN, ImageSource, open_image

FrameSource = ImageSource | Sequence[ImageSource]
"""A path or PIL image that may hold several frames, images one after another, or an array [frames, height, width,
channels]."""


def frames(source: FrameSource, count: int = 8) -> list[Image.Image]:
    """`count` frames of `source` as upright RGB images, in order: the middle one of each of `count` equal parts.

    Of an animated GIF, WebP or PNG, or a TIFF of several pages; of a list of images (each whatever `open_image` takes);
    or of an array [frames, height, width, channels]. All of them where there are no more than `count`. Frames count
    alike, however long each is shown. Only those returned are converted.

    Raises AttnLensError for a source without frames, for one that cannot be read, and for what Pillow does not open,
    such as MP4.

        reading = lens.read(attnlens.frames("signs.gif", count=4))
    """
    if not is_count(count):
        raise AttnLensError(f"count is {count!r}; expected a whole number of frames, at least 1.")
    if isinstance(source, str | os.PathLike):
        return _of_file(os.path.expanduser(os.fspath(source)), int(count))
    if isinstance(source, Image.Image):
        return _of_picture(source, int(count))
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise AttnLensError(
            f"The array has shape {source.shape}; expected [frames, height, width, channels]. One picture: give it to "
            "lens.read as it is. Grey frames: array[..., None]."
        )
    if not isinstance(source, np.ndarray | list | tuple):
        raise AttnLensError(
            f"Frames cannot be made from {type(source).__name__!r}; expected a path, a list of images, or a numpy "
            "array [frames, height, width, channels]."
        )
    if not len(source):
        raise AttnLensError("There is no frame: the source is empty. Give at least one.")
    return [open_image(source[place]) for place in _places(len(source), int(count))]


def _places(total: int, count: int) -> list[int]:
    """Which of `total` frames: all, or the middle (the later of two) of each of `count` equal parts."""
    if total <= count:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def _of_file(path: str, count: int) -> list[Image.Image]:
    try:
        picture = Image.open(path)
    except UnidentifiedImageError:
        raise AttnLensError(
            f"{path!r} is nothing that Pillow can open; expected an animated GIF, WebP or PNG, or a TIFF of several "
            "pages. Decode a video with another library (PyAV, OpenCV, imageio) and give its frames: a list of images, "
            "or an array [frames, height, width, channels], in RGB."
        ) from None
    except (OSError, Image.DecompressionBombError):
        open_image(path)  # which says what is wrong with the file
        raise
    with picture:
        return _of_picture(picture, count)


def _of_picture(picture: Image.Image, count: int) -> list[Image.Image]:
    found, shown = [], picture.tell()
    try:
        for place in _places(getattr(picture, "n_frames", 1), count):
            picture.seek(place)
            found.append(open_image(picture))
        picture.seek(shown)
    except BROKEN as error:
        raise AttnLensError(
            f"The frames of this {picture.format} are damaged or cut short after {len(found)}: {first_line(error)}. "
            "Copy or download it again."
        ) from None
    return found
