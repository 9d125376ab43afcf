"""Crops chosen from outside the MLLM, as recipes: ViCrop's external tools (arXiv 2502.17422, table 4 and appendix F).

    attnlens.ask(lens, image, question, recipe="clip")
    attnlens.ask(lens, image, question, recipe="yolo", detector="PekingU/rtdetr_r50vd")

    def mine(image, question):
        return [(10, 20, 200, 120)]

    attnlens.ask(lens, image, question, recipe=external(mine))

Each crop is the smallest square that covers what was found, and is appended to the image, as ViCrop's is; of several
images the crops of all compete. A model given by name is loaded once in a process, to where the MLLM is, when it is
first needed: that takes part in the seconds of the first question. Another setting than the paper's is another part:
`detector=attnlens.croppers.detector("hustvl/yolos-tiny", threshold=0.1)`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch

from attnlens import croppers
from attnlens._checks import check_count
from attnlens.answers import append
from attnlens.boxes._suppression import best_first
from attnlens.croppers import Cropper, Proposer, Scorer
from attnlens.croppers._cropping import Function, name_of
from attnlens.errors import AttnLensError
from attnlens.lens import Reading
from attnlens.recipes._localization import Localization
from attnlens.recipes._recipe import Recipe

__all__ = ["clip", "sam", "yolo"]

CLIP = "openai/clip-vit-base-patch32"
"""Our choice: small, and widely used."""
DETECTOR = "hustvl/yolos-tiny"
"""Apache-2.0, trained on COCO as the paper's YOLOv8 is, whose licence is not ours to hand on."""
SEGMENTER = "facebook/sam-vit-base"
"""Our choice: the smallest SAM."""

_MAKERS = {"scorer": "clip_scorer", "detector": "detector", "segmenter": "segmenter"}

Part = str | os.PathLike[str] | Callable[..., Any]
"""The Hugging Face id or the folder of a model, or what `attnlens.croppers` made of one."""


def clip(
    reading: Reading,
    question: str,
    *,
    scorer: Part = CLIP,
    text: str | None = None,
    rounds: int = 20,
    cut: float = 0.1,
) -> Localization:
    """The crop that CLIP likes best, found by shrinking the image side by side (`attnlens.croppers.clip`).

    Args:
        reading: the images, as `lens.read` gives them.
        question: the question, which CLIP reads unless there is `text`.
        scorer: (crops, text) -> a score for each, or the CLIP to make one of: its folder or Hugging Face id. The
            default is our choice: small, and widely used.
        text: what CLIP reads in the question's place; the paper's is the question, and one of more than 77 tokens (with
            options, say) is refused. None: the question.
        rounds: how often a side is cut; the paper's 20.
        cut: the fraction of a side that is cut, above 0 and below 1; the paper's 10%.

    Returns:
        One region: the smallest square that covers the crop, in whole pixels of the image that it is of. Its score is
        the scorer's.

    Raises:
        AttnLensError: for a model that cannot be loaded, a text that is too long for it, and options of the wrong kind.

    Examples:
        >>> bundled = attnlens.pocket.cropper_path("clip")  # knows the signs of the scenes, and nothing else
        >>> recipes.tools.clip(reading, question, scorer=bundled).regions[0].box
        Box(x1=47, y1=0, x2=371, y2=324)
    """
    cropper = croppers.clip(_scorer(scorer, reading), rounds=rounds, cut=cut)
    return _located(reading, cropper, question if text is None else text, 1)


def yolo(
    reading: Reading,
    question: str,
    *,
    detector: Part = DETECTOR,
    scorer: Part = CLIP,
    text: str | None = None,
    count: int = 1,
    iou: float = 0.3,
) -> Localization:
    """Of the objects that a detector is at least 25% sure of, the `count` that CLIP likes best; none: no crop.

    Args:
        reading: the images, as `lens.read` gives them.
        question: the question, which CLIP reads unless there is `text`.
        detector: (image) -> boxes, or the model to make one of (`attnlens.croppers.detector`): its folder or Hugging
            Face id. The default is under Apache-2.0, and trained on COCO as the paper's YOLOv8 is, whose licence is not
            ours to hand on.
        scorer: (crops, text) -> a score for each, or the CLIP to make one of, as in `clip`.
        text: what CLIP reads in the question's place; the paper's is the question, and one of more than 77 tokens (with
            options, say) is refused. None: the question.
        count: how many regions there are at most, of all images.
        iou: a square that overlaps a better one by an intersection over union above this is left out.

    Returns:
        The regions, best first: the smallest square that covers each object, in whole pixels of the image that it is
        of. Their scores are the scorer's. An image where nothing is detected gives one region that is not confident,
        which comes last.

    Raises:
        AttnLensError: for a model that cannot be loaded, a text that is too long for CLIP, and options of the wrong
            kind.

    Examples:
        >>> def corners(image):
        ...     return [(0, 0, 120, 120), (180, 240, 300, 360)]
        >>> bundled = attnlens.pocket.cropper_path("clip")
        >>> recipes.tools.yolo(reading, question, detector=corners, scorer=bundled).regions[0].box
        Box(x1=180, y1=240, x2=300, y2=360)
    """
    regions = _regions(detector, "detector", reading)
    cropper = croppers.rank_regions(regions, _scorer(scorer, reading), count=count, iou=iou)
    return _located(reading, cropper, question if text is None else text, count)


def sam(
    reading: Reading,
    question: str,
    *,
    segmenter: Part = SEGMENTER,
    scorer: Part = CLIP,
    text: str | None = None,
    count: int = 1,
    iou: float = 0.3,
) -> Localization:
    """Of everything that SAM cuts out of the image, the `count` masks that CLIP likes best; none: no crop.

    Args:
        reading: the images, as `lens.read` gives them.
        question: the question, which CLIP reads unless there is `text`.
        segmenter: (image) -> boxes, or the model to make one of (`attnlens.croppers.segmenter`), with the filters of
            SAM's authors: its folder or Hugging Face id. The default is our choice: the smallest SAM.
        scorer: (crops, text) -> a score for each, or the CLIP to make one of, as in `clip`.
        text: what CLIP reads in the question's place; the paper's is the question, and one of more than 77 tokens (with
            options, say) is refused. None: the question.
        count: how many regions there are at most, of all images.
        iou: a square that overlaps a better one by an intersection over union above this is left out.

    Returns:
        The regions, best first: the smallest square that covers each mask, in whole pixels of the image that it is of.
        Their scores are the scorer's. An image without a mask gives one region that is not confident, which comes last.

    Raises:
        AttnLensError: for a model that cannot be loaded, a text that is too long for CLIP, and options of the wrong
            kind.

    Examples:
        >>> def pieces(image):
        ...     return [box for row in attnlens.boxes.tiles(image.size, 80) for box in row]
        >>> bundled = attnlens.pocket.cropper_path("clip")
        >>> recipes.tools.sam(reading, question, segmenter=pieces, scorer=bundled).regions[0].box
        Box(x1=160, y1=240, x2=240, y2=320)
    """
    regions = _regions(segmenter, "segmenter", reading)
    cropper = croppers.rank_regions(regions, _scorer(scorer, reading), count=count, iou=iou)
    return _located(reading, cropper, question if text is None else text, count)


def external(function: Function) -> Recipe:
    """The recipe of any function of an RGB image and a question that gives boxes, best first, or of a cropper.

    Each box is a crop, appended to the image; a call counts as one picture in `Cost.external`. For another way to
    answer: `dataclasses.replace(external(mine), answer=attnlens.answers.replace)`.

    Args:
        function: (image, question) -> boxes, (x1, y1, x2, y2) in pixels of the upright image, or `Region`; none: no
            crop. A cropper of `attnlens.croppers` is one too.

    Returns:
        A recipe for `ask(recipe=)`, where `count=` takes the best of the boxes; without it, all of them.

    Raises:
        AttnLensError: for what is no function; and, when asked, for a box that is malformed or wholly outside the
            image.

    Examples:
        >>> def mine(image, question):
        ...     return [(190, 250, 220, 280)]
        >>> attnlens.ask(lens, image, question, recipe=external(mine)).boxes
        [Box(x1=190, y1=250, x2=220, y2=280)]
    """
    if not callable(function):
        raise AttnLensError(
            f"external() got {function!r}; expected a function of an image and a question that gives boxes "
            "(x1, y1, x2, y2)."
        )

    def from_outside(reading: Reading, question: str, *, count: int | None = None) -> Localization:
        if count is not None:
            check_count("count", count, "regions")
        return _located(reading, croppers.external(_counted(function, reading, _one)), question, count)

    return Recipe(locate=from_outside, answer=append)


def _located(reading: Reading, cropper: Cropper, text: str, count: int | None) -> Localization:
    """The best `count` (None: all) of what is found in each image read; where nothing was comes last."""
    found = [
        dataclasses.replace(one, image=number)
        for number, image in enumerate(reading.images)
        for one in cropper(image, text)
    ]
    return Localization(best_first(found)[:count])


def _scorer(given: Part, reading: Reading) -> Scorer:
    return _counted(_ready(given, "scorer", reading), reading, lambda crops, text: len(crops))


def _regions(given: Part, option: str, reading: Reading) -> Proposer:
    return _counted(_ready(given, option, reading), reading, _one)


def _counted(part: Callable[..., Any], reading: Reading, pictures: Callable[..., int]) -> Callable[..., Any]:
    """`part`, which reports how many pictures it is shown at each call."""

    @wraps(part)
    def counted(*shown: Any) -> Any:
        reading.meter.external(pictures(*shown))
        return part(*shown)

    counted.__name__ = name_of(part)
    return counted


def _one(*_: object) -> int:
    return 1


def _ready(given: Part, option: str, reading: Reading) -> Callable[..., Any]:
    if callable(given) and not isinstance(given, torch.nn.Module):
        return given
    if not isinstance(given, str | os.PathLike):
        raise AttnLensError(
            f"{option} is a {type(given).__name__}; expected a Hugging Face id, a folder, or what "
            f"attnlens.croppers.{_MAKERS[option]} makes of a model and its processor."
        )
    try:
        return _loaded(option, os.fspath(given), str(reading.model.device))
    except AttnLensError as error:
        raise AttnLensError(f"{error} Of a recipe, {option}= is where to say which.") from error


@lru_cache(maxsize=8)
def _loaded(option: str, name: str, device: str) -> Callable[..., Any]:
    """The part that a model's name stands for: loaded once, whatever is asked."""
    make: Callable[..., Any] = getattr(croppers, _MAKERS[option])
    return make(name, device=device)
