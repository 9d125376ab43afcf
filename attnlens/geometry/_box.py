"""Boxes in the original image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from attnlens._checks import is_finite
from attnlens._renamed import warn
from attnlens.errors import AttnLensError, quoted

LONGEST = 2**31 - 1
"""Pixels: the longest edge of an image, and how far a grid may reach."""


def checked_size(image_size: object) -> tuple[int, int]:
    """`image_size` as (width, height) in whole pixels, both at least 1; anything else is an AttnLensError."""
    numbers = _numbers(image_size, 2)
    if numbers is None or any(n != int(n) or not 1 <= n <= LONGEST for n in numbers):
        raise AttnLensError(
            f"The image size is {quoted(image_size)}; expected (width, height), whole numbers of pixels, both at least "
            "1. A PIL image has it as image.size; of an array it is (shape[1], shape[0])."
        )
    return int(numbers[0]), int(numbers[1])


class Box(NamedTuple):
    """A rectangle (x1, y1, x2, y2) in original pixels, half-open: x1 <= x < x2, y1 <= y < y2. Ints or floats.

    A named tuple, and so taken wherever four numbers are.

    Attributes:
        x1: left edge, in pixels of the original image.
        y1: top edge; y runs down.
        x2: right edge, the first x that is no longer inside.
        y2: bottom edge, the first y that is no longer inside.

    Examples:
        >>> Box(10, 20, 40, 30).square((400, 400))
        Box(x1=10, y1=10, x2=40, y2=40)
    """

    x1: float
    y1: float
    x2: float
    y2: float

    @classmethod
    def from_any(cls, value: object, image_size: tuple[int, int]) -> Box:
        """A user's (x1, y1, x2, y2) in original pixels as a box, clipped to the image.

        Args:
            value: four finite numbers in order, x1 < x2 and y1 < y2, in pixels of the original image after its EXIF
                orientation is applied; a sequence, an array or a tensor.
            image_size: (width, height) of the original image, in pixels.

        Returns:
            The part of the box inside the image; whole numbers stay ints.

        Raises:
            AttnLensError: unless it is four finite numbers in order that overlap the image; and for numbers that seem
                to be fractions of the image, all at most 1 and not all whole.

        Examples:
            >>> Box.from_any([350, 20, 500, 60], (400, 400))
            Box(x1=350, y1=20, x2=400, y2=60)
        """
        width, height = checked_size(image_size)
        numbers = _numbers(value, 4)
        if numbers is None:
            raise AttnLensError(
                f"The box is {quoted(value)}; expected four finite numbers (x1, y1, x2, y2), in pixels of the original "
                "image."
            )
        box = cls(*numbers)
        if not (box.x1 < box.x2 and box.y1 < box.y2):
            raise AttnLensError(
                f"The box {tuple(box)} is empty or out of order; expected x1 < x2 and y1 < y2. "
                "If it is (x, y, width, height), pass (x, y, x + width, y + height)."
            )
        if max(box) <= 1 and any(n != int(n) for n in box):
            raise AttnLensError(
                f"The box {tuple(box)} seems to be in fractions of the image; expected pixels. "
                f"Multiply x by the image's width ({width}) and y by its height ({height})."
            )
        clipped = box.clip((width, height))
        if clipped.area <= 0:
            raise AttnLensError(
                f"The box {tuple(box)} lies outside the image, which is {width} x {height} pixels (width x height). "
                "Boxes are in pixels of the original image, after its EXIF orientation is applied."
            )
        return clipped

    @property
    def width(self) -> float:
        """In pixels: x2 - x1."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """In pixels: y2 - y1."""
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """In square pixels; 0 when the box is empty."""
        return max(0, self.width) * max(0, self.height)

    def shared(self, other: Box) -> float:
        """What this box and another have in common.

        Args:
            other: the other box, in pixels of the same image.

        Returns:
            The area of the intersection, in square pixels; 0 where they do not meet.

        Examples:
            >>> Box(0, 0, 20, 10).shared(Box(15, 5, 30, 30))
            25
        """
        across = min(self.x2, other.x2) - max(self.x1, other.x1)
        down = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0, across) * max(0, down)

    def covers(self, target: Box) -> bool:
        """Whether at least half of a target lies in this box.

        Args:
            target: the target's box, in pixels of the same image.

        Returns:
            True where the two share at least half of the target's area.

        Examples:
            >>> Box(0, 0, 20, 10).covers(Box(15, 0, 25, 10)), Box(0, 0, 20, 10).covers(Box(16, 0, 26, 10))
            (True, False)
        """
        return self.shared(target) >= target.area / 2

    def holds(self, target: Box) -> bool:
        """The word of 0.1.0 for `covers`."""
        warn("Box.holds", "Box.covers", depth=3)
        return self.covers(target)

    def iou(self, other: Box) -> float:
        """Intersection over union with another box.

        Args:
            other: the other box, in pixels of the same image.

        Returns:
            A number from 0 to 1; 0 when both are empty.

        Examples:
            >>> Box(0, 0, 20, 10).iou(Box(10, 0, 20, 10))
            0.5
        """
        shared = self.shared(other)
        union = self.area + other.area - shared
        return shared / union if union > 0 else 0.0

    def clip(self, image_size: tuple[int, int]) -> Box:
        """The part of this box inside an image.

        Args:
            image_size: (width, height) of the image, in pixels.

        Returns:
            The part inside; empty (area 0) when there is none.

        Examples:
            >>> Box(-5, 10, 30, 40).clip((20, 20))
            Box(x1=0, y1=10, x2=20, y2=20)
        """
        width, height = image_size
        return Box(
            min(max(self.x1, 0), width), min(max(self.y1, 0), height),
            min(max(self.x2, 0), width), min(max(self.y2, 0), height),
        )  # fmt: skip

    def square(self, image_size: tuple[int, int], at_least: float = 0) -> Box:
        """The smallest square, of a given side or more, that covers the part of this box inside the image.

        It is centred on that part, then moved, not shrunk, to lie inside the image; in a direction where it is longer
        than the image it becomes the whole image. Whole-pixel boxes give whole-pixel squares. This is the human crop of
        ViCrop (arXiv 2502.17422).

        Args:
            image_size: (width, height) of the original image, in pixels.
            at_least: the least side of the square, in pixels.

        Returns:
            The square, in pixels of the original image; no square where the image is too narrow or too low for it.

        Examples:
            >>> Box(390, 100, 400, 120).square((400, 400), at_least=50)
            Box(x1=350, y1=85, x2=400, y2=135)
        """
        box = self.clip(image_size)
        side = max(box.width, box.height, at_least)
        x1, x2 = _centred(box.x1, box.x2, side, image_size[0])
        y1, y2 = _centred(box.y1, box.y2, side, image_size[1])
        return Box(x1, y1, x2, y2)

    @classmethod
    def around(cls, boxes: Sequence[Sequence[float]]) -> Box:
        """The smallest box around one or more.

        Args:
            boxes: the boxes, (x1, y1, x2, y2) each, in pixels of the same image.

        Returns:
            Their bounding box, in the same pixels.

        Raises:
            AttnLensError: for none.

        Examples:
            >>> Box.around([(10, 10, 20, 20), (50, 5, 60, 15)])
            Box(x1=10, y1=5, x2=60, y2=20)
        """
        if not boxes:
            raise AttnLensError("There is no box to draw one around; expected at least one.")
        x1, y1, x2, y2 = zip(*boxes, strict=True)
        return cls(min(x1), min(y1), max(x2), max(y2))

    def to_pixels(self, image_size: tuple[int, int]) -> Box:
        """The nearest box of whole pixels inside an image.

        Args:
            image_size: (width, height) of the image, in pixels.

        Returns:
            A box of Python ints, at least one pixel wide and high.

        Examples:
            >>> Box(10.4, 20.6, 10.6, 399.9).to_pixels((400, 400))
            Box(x1=10, y1=21, x2=11, y2=400)
        """
        x1, x2 = _whole(self.x1, self.x2, image_size[0])
        y1, y2 = _whole(self.y1, self.y2, image_size[1])
        return Box(x1, y1, x2, y2)


def _numbers(value: Any, count: int) -> list[float] | None:
    """`value` as `count` finite Python numbers (whole ones stay ints), or None if it is not that."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, Sequence) or len(value) != count:
        return None
    if not all(isinstance(n, Real) and is_finite(n) for n in value):
        return None
    return [int(n) if isinstance(n, Integral) else float(n) for n in value]


def _centred(start: float, stop: float, side: float, limit: int) -> tuple[float, float]:
    if side >= limit:
        return 0, limit
    whole = all(isinstance(n, Integral) for n in (start, stop, side))
    first = (start + stop - side) // 2 if whole else (start + stop - side) / 2
    first = min(max(first, 0), limit - side)
    return first, first + side


def _whole(start: float, stop: float, limit: int) -> tuple[int, int]:
    first = min(max(math.floor(start + 0.5), 0), limit - 1)
    return first, min(max(math.floor(stop + 0.5), first + 1), limit)
