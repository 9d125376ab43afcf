"""Pictures that show a model several regions of an image at once: put close together, or outline where they lie.

>>> image = Image.new("RGB", (1000, 800))
>>> compact(image, [Box(0, 0, 100, 50), Box(900, 700, 1000, 800)]).size
(200, 150)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from attnlens import _renamed
from attnlens.errors import AttnLensError
from attnlens.geometry import Box

__all__ = ["compact", "outline"]

Colour = str | tuple[int, int, int]
"""A name or number that PIL knows ("red", "#f00"), or 8-bit (red, green, blue)."""

_THINNEST = 150  # a line is as wide as this part of the image's shorter side


def compact(image: Image.Image, boxes: Sequence[Sequence[float]], fill: Colour | None = None) -> Image.Image:
    """What `boxes` show of an RGB `image`, without the rows and columns of pixels that lie in none of them.

    Regions keep their own scale, their order and their relative position (left of, above), and lose the distance
    between them, so that several far ones fit into a small picture; one box gives its exact crop.

    The canvas of HiDe (arXiv 2510.00054) and of RAP (arXiv 2503.01222). FOCUS and ZoomEye paste regions onto a canvas
    of a fixed size, for which FOCUS shrinks each; here the processor scales the whole.

    Args:
        image: an RGB image.
        boxes: one or more boxes (x1, y1, x2, y2) in pixels of the image, clipped and rounded to whole pixels.
        fill: the colour of what is left between the boxes: a name or number that PIL knows ("red", "#f00"), or 8-bit
            (red, green, blue). None: the image's mean colour, which stands out least from what is shown and, normalised
            by a processor, is nearest to nothing.

    Returns:
        An RGB picture, as wide as the columns and as high as the rows that lie in a box.

    Raises:
        AttnLensError: for no box, one that is malformed or outside the image, and a colour that is none.

    Examples:
        >>> compact(image, [(0, 0, 50, 40), scene.box]).size  # the second is 25 x 25 pixels
        (75, 65)
    """
    if not boxes:
        raise AttnLensError("There is no box to put into a montage; expected at least one.")
    pixels = np.asarray(image)
    shown = np.zeros(pixels.shape[:2], dtype=bool)
    for box in boxes:
        x1, y1, x2, y2 = _whole(image, box)
        shown[y1:y2, x1:x2] = True
    kept = np.ix_(shown.any(axis=1), shown.any(axis=0))
    blank = np.rint(pixels.mean(axis=(0, 1))) if fill is None else np.array(_rgb(fill))
    return Image.fromarray(np.where(shown[kept][:, :, None], pixels[kept], blank.astype(np.uint8)))


def outline(
    image: Image.Image, boxes: Sequence[Sequence[float]], colour: Colour = "red", rim: Colour | None = None
) -> Image.Image:
    """A copy of an RGB `image` with a line around each of `boxes` (x1, y1, x2, y2), in pixels of the image.

    The line is a 150th of the image's shorter side wide, at least a pixel, and lies outside the box, so that it hides
    nothing of it; only where the box ends at the image's edge does the line lie inside. Lines of later boxes lie on
    those of earlier ones.

    Args:
        image: an RGB image.
        boxes: boxes (x1, y1, x2, y2) in pixels of the image, clipped and rounded to whole pixels; of none, the copy is
            plain.
        colour: of the lines: a name or number that PIL knows ("red", "#f00"), or 8-bit (red, green, blue).
        rim: the colour of a further line of one pixel around, which sets it off from any ground; None for no such line.

    Returns:
        An RGB picture of the same size.

    Raises:
        AttnLensError: for a box that is malformed or outside the image, and for a colour that is none.

    Examples:
        >>> picture = outline(image, [(100, 100, 200, 200)])
        >>> picture.size, picture.getpixel((99, 150))
        ((400, 400), (255, 0, 0))
    """
    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    line = max(1, round(min(image.size) / _THINNEST))
    for box in boxes:
        inner = _whole(image, box)
        if rim is not None:
            _draw_around(draw, inner, line + 1, _rgb(rim), image.size)
        _draw_around(draw, inner, line, _rgb(colour), image.size)
    return picture


def _draw_around(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], line: int, colour: Colour, size: tuple[int, int]
) -> None:
    x1, y1 = max(box[0] - line, 0), max(box[1] - line, 0)
    x2, y2 = min(box[2] + line, size[0]), min(box[3] + line, size[1])
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=line)


def _whole(image: Image.Image, box: Sequence[float]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = Box.from_any(box, image.size).to_pixels(image.size)
    return int(x1), int(y1), int(x2), int(y2)


def _rgb(colour: Colour) -> tuple[int, int, int]:
    try:
        red, green, blue = (ImageColor.getrgb(colour) if isinstance(colour, str) else colour)[:3]
        known = all(channel in range(256) for channel in (red, green, blue))
    except (TypeError, ValueError):
        known = False
    if not known:
        raise AttnLensError(
            f"The colour is {colour!r}; expected a name such as 'red', '#ff0000', or (red, green, blue) from 0 to 255."
        )
    return red, green, blue


if not TYPE_CHECKING:
    __getattr__ = _renamed.names(__name__, compacted="compact", outlined="outline")
