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

__all__ = ["clip", "external", "sam", "yolo"]

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

    `scorer`: (crops, text) -> a score for each, or the CLIP to make one of. `text`: what CLIP reads in the question's
    place; the paper's is the question, and one of more than 77 tokens (with options, say) is refused. `rounds`, `cut`:
    the paper's 20 times 10%. Raises AttnLensError for a model that cannot be loaded.
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

    `detector`: (image) -> boxes, or the model to make one of. `scorer`, `text`: as in `clip`. A square that overlaps a
    better one by an intersection over union above `iou` is left out.
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

    `segmenter`: (image) -> boxes, or the model to make one of, with the filters of SAM's authors. `scorer`, `text`,
    `count`, `iou`: as in `yolo`.
    """
    regions = _regions(segmenter, "segmenter", reading)
    cropper = croppers.rank_regions(regions, _scorer(scorer, reading), count=count, iou=iou)
    return _located(reading, cropper, question if text is None else text, count)


def external(function: Function) -> Recipe:
    """The recipe of any function of an RGB image and a question that gives boxes, best first, or of a cropper.

    Boxes are (x1, y1, x2, y2) in pixels of the upright image, or `Region`; none: no crop. Each is a crop;
    `ask(..., count=)` takes the best of them. For another way to answer:
    `dataclasses.replace(external(mine), answer=attnlens.answers.replace)`. A call counts as one picture in
    `Cost.external`. Raises AttnLensError, when asked, for a box that is malformed or wholly outside the image.
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
