"""Which code places and cuts an image, and what is known of it: one recogniser, one table.

What is known of an image processor is known of its code, and transformers keeps that by model type. A new one is an
entry in `FAMILIES`, and a painted case in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from attnlens._upstream import COMMON_IMAGE_CODE, PREPROCESS, PREPROCESS_ONE, image_code
from attnlens.errors import AttnLensError
from attnlens.lens._layouts import canvas, cutting
from attnlens.lens._layouts.base import Processed
from attnlens.lens._layouts.canvas import PIXEL_STEPS, Canvas, Size, refuse_steps, steps
from attnlens.lens._layouts.cutting import Cut, Pieces

Skill = TypeVar("Skill")

_RESIZE = frozenset({"do_resize"})
_RESIZE_AND_CROP = _RESIZE | {"do_center_crop"}
_RESIZE_AND_PAD = _RESIZE | {"do_pad"}
_OF_TILES = PIXEL_STEPS | {"do_resize", "do_image_splitting", "do_pad"}
_METHODS = (
    *("preprocess", PREPROCESS, PREPROCESS_ONE, "resize", "center_crop", "pad", "pad_to_square", "pan_and_scan"),
    *("crop_image_to_patches", "split_images", "get_image_patches"),
)
"""Methods of image processors that move pixels."""


@dataclass(frozen=True)
class Family:
    """What a family's code does with an image."""

    place: Callable[[Any, Canvas, set[str]], Canvas] | None = None
    """Puts it on one canvas: (image processor, the image as it is, the steps that are on) -> Canvas."""
    steps: frozenset[str] = frozenset()
    """The steps that `place` knows, beside those that change values alone."""
    cut: Callable[[Processed, int, Size], Cut] | None = None
    """Cuts it into so many pictures of (width, height), a thumbnail among them or not."""
    pieces: Callable[[Processed], Pieces] | None = None
    """Cuts it into pictures of its own aspect ratio, whose patches a connector looks at."""
    kinds: frozenset[str] = frozenset()
    """The grid kinds whose own modules follow its code."""


FAMILIES: dict[str, Family] = {
    "": Family(canvas.fit, _RESIZE_AND_CROP),  # transformers' common code
    "aria": Family(pieces=cutting.windows_of_best_sheet),
    "cohere2_vision": Family(cut=cutting.by_aspect_ratio),
    "deepseek_ocr2": Family(kinds=frozenset({"local_global"})),
    "deepseek_vl": Family(canvas.fit_and_pad, _RESIZE_AND_PAD),
    "deepseek_vl_hybrid": Family(canvas.fit_and_pad_twice, _RESIZE_AND_PAD),
    "gemma3": Family(canvas.fit, _RESIZE | {"do_pan_and_scan"}),
    "got_ocr2": Family(canvas.fit, _RESIZE, cut=cutting.by_aspect_ratio),
    "granite_docling": Family(cut=cutting.by_output("rows", "cols")),
    "idefics": Family(canvas.fit, _RESIZE),
    "idefics2": Family(pieces=cutting.quarters),
    "idefics3": Family(cut=cutting.by_output("rows", "cols")),
    "janus": Family(canvas.fit_and_pad, _RESIZE_AND_PAD),
    "llama4": Family(cut=cutting.padded_after),
    "llava": Family(canvas.pad_and_fit, _RESIZE_AND_CROP | {"do_pad"}),
    "llava_next": Family(kinds=frozenset({"anyres"})),
    "llava_onevision": Family(kinds=frozenset({"anyres"})),
    "mllama": Family(kinds=frozenset({"cross"})),
    "molmo2": Family(kinds=frozenset({"crops"})),
    "ovis2": Family(cut=cutting.by_output("grids")),
    "perception_lm": Family(cut=cutting.by_fit),
    "smolvlm": Family(cut=cutting.by_output("rows", "cols")),
    "step3p7": Family(cut=cutting.by_window),
    "unlimited_ocr": Family(kinds=frozenset({"local_global"})),
    "video_llava": Family(canvas.fit, _RESIZE_AND_CROP),
}
"""By the model type whose folder in transformers holds the code."""


def canvas_of(image_processor: Any, image_size: Size) -> Canvas:
    """Where `image_processor`, by its settings, puts an image of `image_size` = (width, height).

        canvas_of(processor.image_processor, image.size).size     # (336, 336)

    Raises AttnLensError for a processor whose code or steps are not known here.
    """
    owner = _owner(image_processor)
    owner = owner if FAMILIES[owner].place is not None else ""
    place, known = FAMILIES[owner].place, FAMILIES[owner].steps
    on = steps(image_processor)
    refuse_steps(image_processor, _strange(image_processor, owner))
    refuse_steps(image_processor, on - PIXEL_STEPS - known)
    return place(image_processor, Canvas.of(image_size), on) if place is not None else Canvas.of(image_size)


def cut(image: Processed, tiles: int, side: Size) -> Cut:
    """How the processor cut `image` into `tiles` pictures of `side` = (width, height), its thumbnail among them or not.

    Raises AttnLensError for an image processor whose code is not known here.
    """
    found = _known(image.processor, lambda family: family.cut)(image, tiles, side)
    unknown = steps(image.processor) - _OF_TILES
    if unknown:
        raise AttnLensError(
            f"{type(image.processor).__name__} has steps that move pixels: {', '.join(sorted(unknown))}. With tiles it "
            "is not known where to. Switch them off in the image processor."
        )
    return found


def pieces(image: Processed) -> Pieces:
    """The pictures that the processor makes of `image`. Raises AttnLensError as `cut` does."""
    return _known(image.processor, lambda family: family.pieces)(image)


def check(image_processor: Any, kind: str) -> None:
    """Raises AttnLensError unless the module of that grid kind follows the processor's code."""
    _known(image_processor, lambda family: kind in family.kinds or None)


def _known(image_processor: Any, part: Callable[[Family], Skill | None]) -> Skill:
    """What the family whose code cuts the images is known to do. Raises AttnLensError where that is nothing."""
    owner = _owner(image_processor)
    found, strange = part(FAMILIES[owner]), _strange(image_processor, owner)
    if not found or strange:
        known = sorted(name for name, family in FAMILIES.items() if part(family))
        raise AttnLensError(
            f"{type(image_processor).__name__} has methods of its own: {', '.join(sorted(strange or {PREPROCESS}))}. "
            f"How it cuts an image into tiles is known for the image processors of {', '.join(known)}. Choose one of "
            "these, or another grid kind in the adapter."
        )
    return found


def _owner(image_processor: Any) -> str:
    """The model type, of those known here, whose code puts the pixels in their places; "" where it is of none."""
    for method in (PREPROCESS, "preprocess"):
        owner = image_code(type(image_processor), method)
        if owner in FAMILIES and owner:  # "" is there for the common code alone
            return owner
    return ""


def _strange(image_processor: Any, owner: str) -> set[str]:
    """Methods that move pixels, by code that is neither the owner's nor transformers' common one."""
    kind = type(image_processor)
    written = {name: image_code(kind, name) for name in _METHODS if hasattr(kind, name)}
    return {name for name, code in written.items() if code != COMMON_IMAGE_CODE and (not owner or code != owner)}
