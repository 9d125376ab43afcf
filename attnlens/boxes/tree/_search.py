"""Best-first search through the tree of an image, for one target or for all."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Protocol

import numpy as np

from attnlens import _renamed
from attnlens.boxes._search import Region
from attnlens.boxes.tree._preset import Preset
from attnlens.boxes.tree._tree import Node
from attnlens.errors import AttnLensError
from attnlens.geometry import Box


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
        >>> find_one(boxes.tree.tree(image.size, input_side=100), Sharp(), boxes.tree.PRESETS["pocket"]).box
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
        >>> [tuple(one.box) for one in find_all(boxes.tree.tree(image.size, input_side=100, depth=2), Sharp())]
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
