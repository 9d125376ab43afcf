"""The tree search of ZoomEye (arXiv 2411.16044): look into the quarter that promises most, until the question is
answerable there.

Nothing here knows a model: what the search asks is answered by `Confidences`.

>>> root = tree((1344, 1000), input_side=336, depth=2)
>>> [tuple(child.box) for child in root.children]
[(0, 0, 672, 500), (672, 0, 1344, 500), (0, 500, 672, 1000), (672, 500, 1344, 1000)]
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise, repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

from attnlens import _renamed
from attnlens._checks import check_count, is_count, is_number, is_whole
from attnlens.boxes._search import Region
from attnlens.errors import AttnLensError
from attnlens.geometry import Box, checked_size

__all__ = ["PRESETS", "Confidences", "Node", "Preset", "find_all", "find_one", "merge_near", "tree"]

Variant = Literal["released", "thorough"]
"""Whose search it is: that of ZoomEye's released code, or ours, which differs as `find_one` says."""

LONG = 2
"""From this ratio of its sides on, a box is cut into four along the longer one only."""


class Confidences(Protocol):
    """What a model thinks of regions of the image: for each box one number, from -1 (surely no) to 1 (surely yes).

    2 (p(yes) - 1/2), with the softmax over yes and no. Any object with these three methods will do; boxes are of ints
    in pixels of the original image.
    """

    def existing(self, boxes: Sequence[Box]) -> Sequence[float]:
        """How sure it is that the target is seen in each region.

        Args:
            boxes: the regions, in pixels of the original image.

        Returns:
            One number from -1 to 1 for each box, in their order.

        Examples:
            >>> asked, regions = "Is there a pink sign in the image?", [(150, 200, 250, 300), (0, 0, 100, 100)]
            >>> [round(one.confidence, 1) for one in answers.verify_crops(reading, regions, asked)]
            [1.0, -1.0]
        """

    def latent(self, boxes: Sequence[Box]) -> Sequence[float]:
        """How sure it is that, by common sense, the target could be found by looking closer at each region.

        Args:
            boxes: the regions, in pixels of the original image.

        Returns:
            One number from -1 to 1 for each box, in their order.

        Examples:
            >>> asked = "Is there a pink sign in the image?"  # the pocket models know no other question of this kind
            >>> regions = [(0, 0, 200, 200), (0, 200, 200, 400)]
            >>> [one.confidence > 0 for one in answers.verify_crops(reading, regions, asked)]
            [False, True]
        """

    def answering(self, boxes: Sequence[Box]) -> Sequence[float]:
        """How sure it is that what is seen in each region answers the question.

        Args:
            boxes: the regions, in pixels of the original image.

        Returns:
            One number from -1 to 1 for each box, in their order.

        Examples:
            >>> shown = [reading.read_alone(image.crop(box)) for box in ((0, 0, 400, 400), (150, 200, 250, 300))]
            >>> sure = [float(np.exp(one.next_token(question).max())) for one in shown]  # of its first token
            >>> [2 * (one - 0.5) > 0.5 for one in sure]
            [False, True]
        """


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


@_renamed.arguments(start="threshold", floor="min_threshold", falls="decay", least="min_confidence")
@dataclass(frozen=True)
class Preset:
    """The settings of ZoomEye for one model family; contradictory ones, or ones of another kind, raise AttnLensError.

    Examples:
        >>> Preset(input_side=336, bias=0.2).levels
        (0.6, 0.5, 0.4, 0.2, 0.0, -0.2)
    """

    input_side: int
    """The model's input resolution, in pixels."""
    bias: float
    """The weight, at the root, of what is seen against what may be found: 0 to 1."""
    threshold: float = 0.6
    """The answering confidence that ends the search, -1 to 1."""
    min_threshold: float = 0.0
    """The least that the threshold falls to, -1 to 1."""
    decay: tuple[float, ...] = (0.1, 0.1, 0.2)
    """By how much the threshold falls each time, at least 0.001; the last fall repeats."""
    scale: float = 1.0
    """Boxes are enlarged to this many input sides."""
    depth: int = 5
    """How often an image is cut when one target is looked for."""
    depth_of_all: int = 2
    """How often an image is cut when all targets are looked for."""
    min_confidence: float = 0.6
    """The existing confidence from which a region counts as one of several, -1 to 1."""
    variant: Variant = "released"
    """Whose search it is: "released", that of the released code, or "thorough", ours.

    The two differ as `find_one` says, and in that the released code shows the model each region enlarged to `scale`
    input sides while it searches.
    """

    def __post_init__(self) -> None:
        check_count("input_side", self.input_side, "pixels")
        if not (is_number(self.bias) and 0 <= self.bias <= 1):
            raise AttnLensError(f"bias is {self.bias!r}; expected a weight from 0 to 1.")
        if not (
            is_number(self.min_threshold)
            and is_number(self.threshold)
            and -1 <= self.min_threshold <= self.threshold <= 1
        ):
            raise AttnLensError(
                f"The threshold starts at {self.threshold!r} and falls to {self.min_threshold!r}; expected confidences "
                "from -1 to 1, min_threshold <= threshold."
            )
        decay = self.decay if isinstance(self.decay, tuple | list) else ()
        if not decay or not all(is_number(fall) and fall >= 0.001 for fall in decay):
            raise AttnLensError(f"decay is {self.decay!r}; expected one or more numbers, at least 0.001 each.")
        if not (is_number(self.scale) and self.scale > 0):
            raise AttnLensError(f"scale is {self.scale!r}; expected a number above 0, 1 for the input side itself.")
        if not (is_number(self.min_confidence) and -1 <= self.min_confidence <= 1):
            raise AttnLensError(f"min_confidence is {self.min_confidence!r}; expected a confidence from -1 to 1.")
        if self.variant not in get_args(Variant):
            raise AttnLensError(f"variant is {self.variant!r}; expected one of {', '.join(get_args(Variant))}.")
        for name in ("depth", "depth_of_all"):
            cuts = getattr(self, name)
            if not (is_whole(cuts) and cuts >= 0):
                raise AttnLensError(f"{name} is {cuts!r}; expected a whole number of cuts, at least 0.")

    start, floor = _renamed.Renamed("threshold"), _renamed.Renamed("min_threshold")
    falls, least = _renamed.Renamed("decay"), _renamed.Renamed("min_confidence")

    @property
    def levels(self) -> tuple[float, ...]:
        """The thresholds one after the other, from `threshold` down to what is not below `min_threshold`.

        As released, one more follows that is: the code lowers the threshold first, and checks afterwards whether it is
        too low.
        """
        levels = [self.threshold]
        falls = chain(self.decay, repeat(self.decay[-1]))
        while levels[-1] >= self.min_threshold:
            levels.append(round(levels[-1] - next(falls), 9))  # so that falls of 0.1 reach a floor of 0 exactly
        return tuple(levels if self.variant == "released" else levels[:-1])


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "llava-1.5": Preset(336, bias=0.2),
        "llava-onevision": Preset(384, bias=0.6, scale=1.2),
        # Side and bias of InternVL2.5 are its tiles' side and the other tiled family's bias: neither is published.
        "internvl2.5": Preset(448, bias=0.6, threshold=0.2, min_threshold=-0.2, scale=1.2),
        "qwen2.5-vl": Preset(448, bias=0.6, threshold=0.95, decay=(0.05, 0.1, 0.2), scale=1.2),
        # Chosen on validation scenes, of starts from 0.6 to 0.95: these models are sure of what they cannot read.
        "pocket": Preset(100, bias=0.2, threshold=0.9),
    }
)
"""The released settings per model family."""


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


def weight(depth: int, deepest: int, bias: float) -> float:
    """w(d) = bias + (1 - bias) d^2 / D^2, what is seen against what may be found: `bias` at the root, 1 at the bottom.

    A tree of one node (D = 0) has only a root.
    """
    return bias + (1 - bias) * (depth / deepest) ** 2 if deepest else bias


def priority(existing: float, latent: float, depth: int, deepest: int, bias: float) -> float:
    """w(d) existing + (1 - w(d)) latent: how much a region `depth` cuts deep, in a tree of `deepest`, promises.

    As in the released code; a reading of the paper's algorithm 2 has the two weights the other way round.
    """
    share = weight(depth, deepest, bias)
    return share * existing + (1 - share) * latent


def find_one(root: Node, confidences: Confidences, preset: Preset, *, to_bottom: bool = False) -> Region:
    """The region of the tree `root` in which the question is answerable: best-first search (type 1).

    The region of highest priority is taken next (the first put in of equals), starting with the whole; priority weighs
    existing against latent confidence, as `bias` of the preset says. If its answering confidence is at least the
    threshold, it is the one; otherwise its parts join the queue, at two questions each. After 3 D regions (D: how deep
    this tree is), and after every two more, the threshold falls by a level, and the best region so far is taken if it
    passes (the first of equals).

    The variant "released" of `preset` finds nothing when no region passes the first threshold below the floor, and when
    every region has been looked at. The variant "thorough" takes no threshold below the floor, always takes the surest
    region, and lets the threshold fall to its last level at once when every region has been looked at.

    Args:
        root: the regions that may be visited, from `tree`.
        confidences: what a model thinks of them.
        preset: the settings: thresholds, bias and variant. The floor is its `min_threshold`.
        to_bottom: for questions with several targets: nothing is taken, nor given up, before a region that is cut no
            further has been looked at, and then, as released, the deepest region that passes is taken, of equally deep
            ones the surest.

    Returns:
        The region, in pixels of the original image; `score` is the answering confidence. Nothing found: the whole
            image, score 0, `confident=False`.

    Raises:
        AttnLensError: for confidences that are not one number from -1 to 1 for each box.

    Examples:
        >>> class Sharp:  # stands in for a model that reads the sign where it fills enough of the region
        ...     existing = latent = lambda self, boxes: [2 * box.covers(Box(*scene.box)) - 1 for box in boxes]
        ...     def answering(self, boxes):
        ...         return [existing if box.width <= 100 else -1 for box, existing in zip(boxes, self.existing(boxes))]
        >>> find_one(tree(image.size, input_side=100), Sharp(), PRESETS["pocket"]).box
        Box(x1=200, y1=200, x2=300, y2=300)
    """
    released = preset.variant == "released"
    nothing = Region(root.box, 0.0, False)
    levels, level = preset.levels, 0
    deepest, reached = root.deepest, False
    queue: list[tuple[float, int, Node]] = [(0.0, 0, root)]
    put_in = 1
    seen: list[tuple[float, Node]] = []
    while queue:
        node = heapq.heappop(queue)[2]
        seen.append((_asked(confidences, "answering", [node.box])[0], node))
        reached = reached or not node.children
        free = reached or not to_bottom
        due = len(seen) >= 3 * deepest and (len(seen) - 3 * deepest) % 2 == 0
        gives_up = False
        if due and _highest(seen) < levels[level]:
            gives_up = level + 1 == len(levels)
            level = min(level + 1, len(levels) - 1)
        passing = [one for one in seen if one[0] >= levels[level]]
        if free and passing:
            return _taken(passing, by_depth=released and to_bottom)
        if free and (gives_up or levels[level] < preset.min_threshold):
            return nothing
        for promise, part in _promising(node, confidences, deepest, preset.bias):
            heapq.heappush(queue, (-promise, put_in, part))
            put_in += 1
    if released or _highest(seen) < levels[-1]:
        return nothing
    return _taken(seen, by_depth=False)


def _highest(seen: Sequence[tuple[float, Node]]) -> float:
    return max(confidence for confidence, _ in seen)


def _taken(passing: Sequence[tuple[float, Node]], by_depth: bool) -> Region:
    """The surest of some regions, or of the deepest ones; the first of equals."""
    confidence, node = max(passing, key=lambda one: (one[1].depth if by_depth else 0, one[0]))
    return Region(node.box, confidence, True)


def _promising(node: Node, confidences: Confidences, deepest: int, bias: float) -> list[tuple[float, Node]]:
    """Each part of a region and its priority."""
    boxes = [part.box for part in node.children]
    if not boxes:
        return []
    existing, latent = _asked(confidences, "existing", boxes), _asked(confidences, "latent", boxes)
    return [
        (priority(seen, hidden, part.depth, deepest, bias), part)
        for part, seen, hidden in zip(node.children, existing, latent, strict=True)
    ]


@_renamed.arguments(least="min_confidence")
def find_all(root: Node, confidences: Confidences, min_confidence: float = 0.6) -> list[Region]:
    """The regions of the tree `root` that show a target, in post-order (type 2: "how many", "all").

    From the smallest up, a region is kept if its existing confidence is at least `min_confidence` and at least that of
    everything inside it; it then stands for what was kept inside it. Every region is asked about once, all in one call.
    "Its children's best" of the paper is taken to be the best of all below, not of the next level only, so that a sure
    find is not swallowed by the whole image.

    Args:
        root: the regions that are asked about, from `tree`.
        confidences: what a model thinks of them; only `existing` is asked.
        min_confidence: the existing confidence, from -1 to 1, from which a region counts.

    Returns:
        The regions, in pixels of the original image; `score` is the existing confidence. None kept: the whole image,
            score 0, `confident=False`.

    Raises:
        AttnLensError: for confidences that are not one number from -1 to 1 for each box.

    Examples:
        >>> class Sharp:  # stands in for a model that sees signs where they fill enough of the region
        ...     def existing(self, boxes):
        ...         return [any(box.covers(Box(*sign.box)) for sign in scene.signs) * 100 / box.width for box in boxes]
        >>> [tuple(one.box) for one in find_all(tree(image.size, input_side=100, depth=2), Sharp())]
        [(0, 200, 100, 300), (200, 200, 300, 300)]
    """
    boxes = [node.box for node in root]
    scores = dict(zip(boxes, _asked(confidences, "existing", boxes), strict=True))
    return _kept(root, scores, min_confidence)[0] or [Region(root.box, 0.0, False)]


def _kept(node: Node, scores: Mapping[Box, float], min_confidence: float) -> tuple[list[Region], float]:
    """What is kept of a region and all inside it, and the highest confidence there."""
    below = [_kept(child, scores, min_confidence) for child in node.children]
    highest = max((top for _, top in below), default=-math.inf)
    if scores[node.box] >= max(highest, min_confidence):
        return [Region(node.box, scores[node.box], True)], scores[node.box]
    return list(chain.from_iterable(found for found, _ in below)), max(highest, scores[node.box])


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


def _asked(confidences: Confidences, kind: str, boxes: Sequence[Box]) -> list[float]:
    given = getattr(confidences, kind)(boxes)
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (len(boxes),) or not (np.abs(numbers) <= 1).all():
        raise AttnLensError(
            f"{type(confidences).__name__}.{kind} gave {given!r} for {len(boxes)} boxes; expected one number for each, "
            "from -1 to 1: 2 (p(yes) - 1/2). NaN means that yes and no have no probability."
        )
    return numbers.tolist()


if not TYPE_CHECKING:
    __getattr__ = _renamed.names(__name__, gathered="merge_near")
