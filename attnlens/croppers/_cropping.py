"""Three croppers out of parts that need no model to be understood: shrink, rank, or ask a function.

    scorer = clip_scorer("openai/clip-vit-base-patch32")
    cropper = rank_regions(detector("hustvl/yolos-tiny"), scorer)
    cropper(image, "What does the red sign say?")[0].box

Every box is the smallest square that covers what was found, as whole pixels of the original image, because that is what
ViCrop appends. Where nothing was found it is the whole image, score 0, `confident=False`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnlens._checks import check_count, is_count, is_number
from attnlens._images import ImageSource, crop, open_image
from attnlens.boxes import Region
from attnlens.boxes._suppression import best_first, suppress
from attnlens.errors import AttnLensError
from attnlens.geometry import Box

Cropper = Callable[[ImageSource, str], list[Region]]
"""(image, question) -> the boxes worth a closer look, best first, never none."""
Scorer = Callable[[Sequence[Image.Image], str], Sequence[float]]
"""(crops, question) -> for each crop, how well it goes with the question; any unit, larger is better."""
Proposer = Callable[[Image.Image], Sequence[Sequence[float] | Region]]
"""(RGB image) -> boxes of all there is to see, (x1, y1, x2, y2) in its pixels."""
Function = Callable[[Image.Image, str], Sequence[Sequence[float] | Region]]
"""(RGB image, question) -> boxes worth a closer look, (x1, y1, x2, y2) in its pixels, or `Region`; another cropper."""


def clip(scorer: Scorer, *, rounds: int = 20, cut: float = 0.1) -> Cropper:
    """The crop that CLIP likes best, found by shrinking the image side by side.

    In each of `rounds` rounds, four crops leave out `cut` of the present one from its left, top, right and bottom side
    (at least a pixel); the one with the best score (the first of equals) is the next to be cut. The best of these is
    the result, the first of equals; the whole image is not in the running. A side of one pixel is cut no more.

    Args:
        scorer: (crops, question) -> a score for each crop, such as `clip_scorer` makes of a CLIP.
        rounds: how often a side is cut; the paper's 20.
        cut: the fraction to leave out, above 0 and below 1; the paper's 0.1.

    Returns:
        (image, question) -> one region: the smallest square that covers the crop, in whole pixels of the original
        image.

    Raises:
        AttnLensError: for numbers of the wrong kind; and, when the cropper is called, for scores that are not one
            finite number for each crop.

    Examples:
        >>> def reddish(crops, question):
        ...     return [np.asarray(crop)[..., 0].mean() for crop in crops]
        >>> clip(reddish, rounds=8)(image, question)[0].box
        Box(x1=108, y1=40, x2=400, y2=332)
    """
    if not is_count(rounds):
        raise AttnLensError(f"rounds is {rounds!r}; expected a whole number, at least 1 (paper: 20).")
    if not (is_number(cut) and 0 < cut < 1):
        raise AttnLensError(f"cut is {cut!r}; expected the fraction to leave out, above 0, below 1 (paper: 0.1).")

    def cropper(image: ImageSource, question: str) -> list[Region]:
        picture = open_image(image)
        box, best = Box(0, 0, *picture.size), None
        for _ in range(rounds):
            boxes = _without_a_side(box, cut)
            if not boxes:
                break
            scores = _scored(scorer, picture, boxes, question)
            top = int(np.argmax(scores))
            box = boxes[top]
            if best is None or scores[top] > best[0]:
                best = scores[top], box
        return _whole(picture) if best is None else [_found(picture, best[1], best[0])]

    return cropper


def rank_regions(regions: Proposer, scorer: Scorer, *, count: int = 1, iou: float = 0.3) -> Cropper:
    """The `count` regions that CLIP likes best: of a detector's boxes (YOLO-style) or a segmenter's masks (SAM).

    Args:
        regions: (image) -> boxes, (x1, y1, x2, y2) in pixels of the RGB image, or `Region`, such as `detector` and
            `segmenter` make of a model. Boxes are clipped to the image.
        scorer: (crops, question) -> a score for each crop, such as `clip_scorer` makes of a CLIP. Ties go to the region
            that comes first.
        count: how many regions there are at most.
        iou: a square that overlaps a better one by an intersection over union above this is dropped, 0 (no overlap) to
            1 (any).

    Returns:
        (image, question) -> the regions, best first: the smallest square that covers each, in whole pixels of the
        original image. Without any it is the whole image, score 0, `confident=False`.

    Raises:
        AttnLensError: for numbers of the wrong kind; and, when the cropper is called, for a box that is malformed or
            wholly outside the image, and for scores that are not one finite number for each crop.

    Examples:
        >>> def corners(image):
        ...     return [(0, 0, 100, 60), (300, 300, 400, 400)]
        >>> rank_regions(corners, lambda crops, question: [crop.width * crop.height for crop in crops])(image, question)
        [Region(box=Box(x1=300, y1=300, x2=400, y2=400), score=10000.0, confident=True, image=0)]
    """
    check_count("count", count, "boxes")
    if not (is_number(iou) and 0 <= iou <= 1):
        raise AttnLensError(f"iou is {iou!r}; expected a number from 0 (no overlap) to 1 (any).")

    def cropper(image: ImageSource, question: str) -> list[Region]:
        picture = open_image(image)
        boxes = [one.box for one in _inside(regions(picture), picture, regions)]
        if not boxes:
            return _whole(picture)
        scores = _scored(scorer, picture, boxes, question)
        found = [_found(picture, boxes[index], scores[index]) for index in np.argsort(-scores, kind="stable")]
        return [found[index] for index in suppress([one.box for one in found], iou)[:count]]

    return cropper


def external(function: Function) -> Cropper:
    """Any function of an RGB image and a question that gives boxes, best first: a detector of any kind or licence.

    Of boxes with the same square the first is kept, and the score falls from 1 with the place in the list.

    Args:
        function: (image, question) -> boxes, (x1, y1, x2, y2) in pixels of the upright image (lists, an array [boxes,
            4], or a tensor), as many as it likes, none too; they are clipped to the image. It may give `Region` too, as
            a cropper does: these keep their score, and those that nothing chose are left out.

    Returns:
        (image, question) -> a region for each box: the smallest square that covers it, in whole pixels of the original
        image. Without any it is the whole image, score 0, `confident=False`.

    Raises:
        AttnLensError: when the cropper is called, for a box that is malformed or wholly outside the image.

    Examples:
        >>> def mine(image, question):
        ...     return [(10, 20, 200, 120)]
        >>> external(mine)(image, question)[0].box
        Box(x1=10, y1=0, x2=200, y2=190)
    """

    def cropper(image: ImageSource, question: str) -> list[Region]:
        picture = open_image(image)
        given = _inside(function(picture, question), picture, function)
        return best_first(_found(picture, one.box, one.score) for one in given) or _whole(picture)

    return cropper


def _without_a_side(box: Box, cut: float) -> list[Box]:
    """The box less a strip on its left, top, right and bottom, as far as more than a pixel is left to cut."""
    across, down = (max(1, round(cut * side)) for side in (box.width, box.height))
    left, right = box._replace(x1=box.x1 + across), box._replace(x2=box.x2 - across)
    upper, lower = box._replace(y1=box.y1 + down), box._replace(y2=box.y2 - down)
    return [one for one in (left, upper, right, lower) if one.area > 0]


def _scored(scorer: Scorer, image: Image.Image, boxes: Sequence[Box], question: str) -> npt.NDArray[np.float64]:
    given = _plain(scorer([crop(image, box) for box in boxes], question))
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping | Set):
        given = [_plain(score) for score in given]
    if not isinstance(given, list) or len(given) != len(boxes) or not all(map(_is_score, given)):
        raise AttnLensError(
            f"The scorer gave {given!r} for {len(boxes)} crops; expected one finite number for each, in their order. "
            "If they are NaN, the model may need a wider type: float32 instead of float16."
        )
    return np.array(given, dtype=np.float64)


def _plain(given: Any) -> Any:
    """An array's or a tensor's numbers as Python's, whatever its type, device and gradient; the rest as it is."""
    return given.tolist() if hasattr(given, "tolist") else given


def _is_score(given: object) -> bool:
    return isinstance(given, Real) and math.isfinite(given)


def name_of(function: Any) -> str:
    """What to call a user's function in an error: its name, or that of what it is part of."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return str(getattr(function, "__name__", type(function).__name__))


def _inside(given: Any, image: Image.Image, source: object) -> list[Region]:
    """The boxes that a user's function gave, in the image, less those that nothing chose."""
    name = name_of(source)
    given = _plain(given)
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise AttnLensError(
            f"{name} gave {type(given).__name__!r}; expected a list of boxes (x1, y1, x2, y2) in pixels of the image, "
            "empty when there are none."
        )
    try:
        found = [_checked(one, place, image.size) for place, one in enumerate(given, start=1)]
    except AttnLensError as error:
        raise AttnLensError(f"{name} gave a box that cannot be used. {error}") from None
    return [one for one in found if one.confident]


def _checked(given: object, place: int, image_size: tuple[int, int]) -> Region:
    """A box with a score of 1 over its place in the list, or a `Region` with its own."""
    if not isinstance(given, Region):
        return Region(Box.from_any(given, image_size), 1 / place, True)
    if not _is_score(given.score):
        raise AttnLensError(f"The score of {given!r} is no finite number.")
    return Region(Box.from_any(given.box, image_size), given.score, given.confident)


def _found(image: Image.Image, box: Box, score: float) -> Region:
    return Region(box.to_pixels(image.size).square(image.size), float(score), True)


def _whole(image: Image.Image) -> list[Region]:
    return [Region(Box(0, 0, *image.size), 0.0, False)]
