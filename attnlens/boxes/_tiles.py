"""Cuts an image that is large for its model into tiles, each of which the model sees by itself.

>>> [[tuple(box) for box in row] for row in tiles((1500, 900), max_side=1024)]
[[(0, 0, 750, 900), (750, 0, 1500, 900)]]
"""

from __future__ import annotations

from attnlens._checks import is_count
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.geometry._box import checked_size


def tiles(image_size: tuple[int, int], max_side: int = 1024) -> list[list[Box]]:
    """The tiles of an image of (width, height), row-major: boxes of ints in original pixels that cover every pixel.

    All tiles have the same size, at most `max_side` either way, so that their maps stitch into one; the last of a row
    or column is moved back to the image's edge and overlaps the one before it by fewer pixels than there are columns
    (rows). This is the high-resolution mode of ViCrop (arXiv 2502.17422).

    Deviation: the paper asks for blocks with an aspect ratio close to 1, and its code takes int(rows * width / height)
    columns, which is none for a portrait image and lets a tile be wider than `max_side`; here each direction has its
    own count.

    Deviation: in the paper's code the last tile reaches outside the image and is padded black; here tiles hold nothing
    but the image.

    Args:
        image_size: (width, height) of the image, in whole pixels.
        max_side: the longest side of a tile, in whole pixels, at least 1 (paper: 1024).

    Returns:
        Rows of tiles: ceil(height / max_side) rows and ceil(width / max_side) columns, the fewest that fit.

    Raises:
        AttnLensError: for an image size or a `max_side` that is no whole number of pixels, at least 1.

    Examples:
        >>> boxes.tiles((1500, 900), max_side=1024)
        [[Box(x1=0, y1=0, x2=750, y2=900), Box(x1=750, y1=0, x2=1500, y2=900)]]
    """
    width, height = checked_size(image_size)
    if not is_count(max_side):
        raise AttnLensError(f"max_side is {max_side!r}; expected a whole number of pixels, at least 1 (paper: 1024).")
    across, down = _cuts(width, int(max_side)), _cuts(height, int(max_side))
    return [[Box(x1, y1, x2, y2) for x1, x2 in across] for y1, y2 in down]


def _cuts(length: int, max_side: int) -> list[tuple[int, int]]:
    count = -(-length // max_side)
    side = -(-length // count)
    starts = [min(i * side, length - side) for i in range(count)]
    return [(start, start + side) for start in starts]
