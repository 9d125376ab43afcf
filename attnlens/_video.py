"""A few frames of something that moves, as images that a lens can read together.

>>> [image.size for image in frames(np.zeros((100, 20, 30, 3), np.uint8), count=3)]
[(30, 20), (30, 20), (30, 20)]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from attnlens._checks import check_count
from attnlens._images import ImageSource, open_image, opened, upright
from attnlens.errors import AttnLensError, first_line, quoted

FrameSource = ImageSource | Sequence[ImageSource]
"""A path or PIL image that may hold several frames, images one after another, or an array [frames, height, width,
channels]."""

_MOST_DECODED = 2 * 10**10
"""Pixels of all frames up to the last that is wanted: some minutes, or half an hour of film in small frames."""
_MOST_KEPT = 10**9
"""Pixels of all frames that are wanted: 4 GB."""


def frames(source: FrameSource, count: int = 8) -> list[Image.Image]:
    """A few frames of something that moves, in order: the middle one of each of `count` equal parts.

    Frames count alike, however long each is shown. Only those returned are converted.

    Args:
        source: an animated GIF, WebP or PNG, or a TIFF of several pages, as a path or a PIL image; a list of images,
            each whatever `Lens.read` takes for one; or an array [frames, height, width, channels].
        count: how many frames, at least 1.

    Returns:
        `count` upright RGB images, or all frames where there are no more than `count`.

    Raises:
        AttnLensError: for a source without frames, for one that cannot be read or is too much to decode, and for what
            Pillow does not open, such as MP4.

    Examples:
        >>> clip = np.zeros((100, 20, 30, 3), np.uint8)
        >>> [image.size for image in frames(clip, count=3)]
        [(30, 20), (30, 20), (30, 20)]
        >>> film = lens.read(attnlens.frames("signs.gif", count=4))  # doctest: +SKIP
    """
    check_count("count", count, "frames")
    if isinstance(source, str | os.PathLike):
        with opened(source) as picture:
            return _of_picture(picture, int(count), f"of {quoted(os.fspath(source))}")
    if isinstance(source, Image.Image):
        return _of_picture(source, int(count), f"of this PIL image (mode {source.mode})")
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


def _of_picture(picture: Image.Image, count: int, name: str) -> list[Image.Image]:
    found, shown = [], picture.tell()
    try:
        places = _places(getattr(picture, "n_frames", 1), count)
        _check_work(picture, places)
        for place in places:
            picture.seek(place)
            found.append(upright(picture, f"Frame {place} {name}"))
        picture.seek(shown)
    except AttnLensError:
        raise
    except Exception as error:  # a decoder may fail in any way on a file that is damaged
        raise AttnLensError(
            f"The frames {name} are damaged or cut short after {len(found)}: {first_line(error)}. Copy or download it "
            "again."
        ) from error
    return found


def _check_work(picture: Image.Image, places: Sequence[int]) -> None:
    """Refuses what would take hours to decode, or more memory than there is: a small file can hold a million frames."""
    pixels = picture.width * picture.height
    if pixels * (places[-1] + 1) > _MOST_DECODED or pixels * len(places) > _MOST_KEPT:
        raise AttnLensError(
            f"{len(places)} frames up to number {places[-1]}, of {picture.width} x {picture.height} pixels, are too "
            f"much to decode: at most {_MOST_DECODED:.0e} pixels are passed over, and {_MOST_KEPT:.0e} kept. Ask for "
            "fewer frames, or cut or scale the file down."
        )
