"""The tree of an image: its parts, their parts, and how they are enlarged and joined.

>>> root = tree((1344, 1000), input_side=336, depth=2)
>>> [tuple(child.box) for child in root.children]
[(0, 0, 672, 500), (672, 0, 1344, 500), (0, 500, 672, 1000), (672, 500, 1344, 1000)]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise

from attnlens._checks import is_count, is_whole
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.geometry._box import checked_size

LONG = 2
"""From this ratio of its sides on, a box is cut into four along the longer one only."""


@dataclass(frozen=True)
class Node:
    """A region of the image, and what it is cut into.

    Iterating gives the node and all below it, children before their parent (post-order).

    Examples:
        >>> root = tree((400, 400), input_side=100, depth=1)
        >>> [node.depth for node in root], root.deepest
        ([1, 1, 1, 1, 0], 1)
    """

    box: Box
    """The region: ints, in pixels of the original image."""
    depth: int = 0
    """How many cuts it lies below the whole."""
    children: tuple[Node, ...] = ()
    """What it is cut into, row-major; empty where it is cut no further."""

    def __iter__(self) -> Iterator[Node]:
        yield from chain.from_iterable(self.children)
        yield self

    @property
    def deepest(self) -> int:
        """The depth of the deepest node from here on."""
        return max((child.deepest for child in self.children), default=self.depth)


def tree(image_size: tuple[int, int], input_side: int, depth: int = 5) -> Node:
    """The regions of an image of (width, height) that a search may visit, at most `depth` cuts deep.

    A region is cut into 2 x 2 parts, or, if one side is at least twice the other, into four along that one. Parts
    differ by at most a pixel and cover the region exactly.

    Args:
        image_size: (width, height) of the image, in whole pixels.
        input_side: the model's input resolution, in pixels. A region is cut while its longer side is at least so long,
            and there is a pixel for each part.
        depth: how many times a region is cut at most; 0 leaves the whole image (paper: 5).

    Returns:
        The root of the tree: the whole image.

    Raises:
        AttnLensError: for an image size or an `input_side` that is no whole number of at least 1, and for a `depth`
            that is none of at least 0.

    Examples:
        >>> root = tree((1344, 1000), input_side=336)
        >>> root.deepest, len(list(root))
        (3, 85)
        >>> root.children[1].box
        Box(x1=672, y1=0, x2=1344, y2=500)
    """
    width, height = checked_size(image_size)
    if not is_count(input_side):
        raise AttnLensError(f"input_side is {input_side!r}; expected the model's input resolution in pixels, above 0.")
    if not (is_whole(depth) and depth >= 0):
        raise AttnLensError(f"depth is {depth!r}; expected a whole number of cuts, at least 0 (paper: 5).")
    return _grown(Box(0, 0, width, height), 0, int(input_side), int(depth))


def _grown(box: Box, level: int, input_side: int, depth: int) -> Node:
    parts = _parts(box) if level < depth and max(box.width, box.height) >= input_side else []
    return Node(box, level, tuple(_grown(part, level + 1, input_side, depth) for part in parts))


def _parts(box: Box) -> list[Box]:
    """Four parts of a box, row-major; none where it has too few pixels."""
    cols, rows = 2, 2
    if box.height >= LONG * box.width:
        cols, rows = 1, 4
    elif box.width >= LONG * box.height:
        cols, rows = 4, 1
    if box.width < cols or box.height < rows:
        return []
    x = [int(box.x1 + box.width * i // cols) for i in range(cols + 1)]
    y = [int(box.y1 + box.height * i // rows) for i in range(rows + 1)]
    return [Box(x1, y1, x2, y2) for y1, y2 in pairwise(y) for x1, x2 in pairwise(x)]


def merge_near(boxes: Sequence[Box], image_size: tuple[int, int], side: float, near: float = 100) -> list[Box]:
    """The boxes to show the model, of ints in original pixels: each at least `side` wide and high, near ones as one.

    A smaller box grows about its centre, is moved to lie inside the image, and is cut where the image is smaller. Two
    boxes that are near, across and down, then become the smallest around both, until none are. The released code widens
    each box by 50 pixels, and joins what then touches.

    Args:
        boxes: the boxes, in pixels of the original image.
        image_size: (width, height) of the image, in pixels.
        side: the least width and height, in pixels (ZoomEye: the input side times the preset's `scale`).
        near: how many pixels apart, across and down, two boxes may be at most to be joined.

    Returns:
        The boxes, in the order of the first that each holds.

    Raises:
        AttnLensError: for a box that is malformed or outside the image.

    Examples:
        >>> merge_near([Box(10, 10, 50, 50), Box(120, 10, 150, 50), Box(700, 500, 800, 550)], (1000, 800), side=100)
        [Box(x1=0, y1=0, x2=185, y2=100), Box(x1=700, y1=475, x2=800, y2=575)]
    """
    joined = [enlarged(box, image_size, side) for box in boxes]
    while pair := next((p for p in combinations(range(len(joined)), 2) if _gap(*(joined[i] for i in p)) <= near), None):
        first, second = pair
        joined[first] = Box.around([joined[first], joined.pop(second)])
    return joined


def _gap(one: Box, other: Box) -> float:
    """How far apart two boxes are, across or down, whichever is more; 0 or less when they touch."""
    across = max(one.x1, other.x1) - min(one.x2, other.x2)
    down = max(one.y1, other.y1) - min(one.y2, other.y2)
    return max(across, down)


def enlarged(box: Box, image_size: tuple[int, int], side: float) -> Box:
    """A box of ints in original pixels, at least `side` wide and high (ZoomEye: the input side times the preset's
    `scale`): a smaller one grows about its centre, is moved to lie inside the image of (width, height), and is cut
    where the image is smaller."""
    whole = Box.from_any(box, image_size).to_pixels(image_size)
    x1, x2 = _stretched(int(whole.x1), int(whole.x2), side, image_size[0])
    y1, y2 = _stretched(int(whole.y1), int(whole.y2), side, image_size[1])
    return Box(x1, y1, x2, y2)


def _stretched(start: int, stop: int, side: float, limit: int) -> tuple[int, int]:
    length = min(max(stop - start, math.ceil(side)), limit)
    first = min(max((start + stop - length) // 2, 0), limit - length)
    return first, first + length
