"""Ask again, with what the boxes show.

Every function here is (reading, boxes, question, max_new_tokens) -> Answer. `boxes`: (x1, y1, x2, y2) in pixels of the
first image read, as a list or an array of them, or `Region`, which says in which image it lies. Without a box it is the
answer to what has been read.

Which one suits a model depends on how it sees. One that sees a single view at one resolution (LLaVA-1.5) does without
the image: `replace`, `union` or, for regions that are far apart, `replace_by_montage`. One that sees a global view and
local ones beside it keeps the image and is told where the crops come from: `outlined`, `outlined_union` (FOCUS,
arXiv 2506.21710, step VI; ZoomEye, arXiv 2411.16044).
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from attnlens import montage
from attnlens._images import crop
from attnlens.answers._regions import RegionLike, box_of, crop_of, number_of
from attnlens.geometry import Box
from attnlens.lens import Answer, Reading


def append(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image and, after it, the crop of each box (ViCrop: "in addition to the original image").

    The crops are appended to what the reading has read, so only they are new work.
    """
    for box in boxes:
        reading = reading.zoom(box_of(reading, box), number_of(box))
    return reading.answer(question, max_new_tokens)


def append_montage(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image and, after it, one picture of all boxes, close together (HiDe, arXiv 2510.00054).

    See `attnlens.montage.compact`; of one box it is the crop. Of several images, each with boxes gets a canvas.
    """
    places = _by_image(reading, boxes)
    if all(len(found) == 1 for found in places.values()):
        return append(reading, sorted(boxes, key=number_of), question, max_new_tokens)
    for picture in _canvases(reading, boxes):
        reading = reading.with_image(picture)
    return reading.answer(question, max_new_tokens)


def replace(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the crops instead of the image (FOCUS on models with one global view)."""
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    return reading.read_alone(*(crop_of(reading, box) for box in boxes)).answer(question, max_new_tokens)


def replace_by_montage(
    reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20
) -> Answer:
    """The answer to one picture of all boxes, close together, instead of the image: for regions that are far apart.

    FOCUS and ZoomEye do so on models with one global view, for targets more than 1200 and 1000 pixels apart. Deviation:
    regions keep their scale and lose the space between them (`attnlens.montage.compact`), where the papers paste them
    onto a canvas of a fixed size. Of several images, each with boxes is replaced by a canvas of its own.
    """
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    return reading.read_alone(*_canvases(reading, boxes)).answer(question, max_new_tokens)


def union(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the smallest box around all of `boxes` instead of the image (FOCUS and ZoomEye on models with one
    global view). Of several images, each with boxes is replaced by one crop."""
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    return reading.read_alone(*_unions(reading, boxes)).answer(question, max_new_tokens)


def outlined(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image with all boxes outlined in red and, after it, the crop of each (FOCUS on models with a
    global and local views). Crops are of the image without the lines."""
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    crops = [crop_of(reading, box) for box in boxes]
    return reading.read_alone(*_outlined(reading, boxes), *crops).answer(question, max_new_tokens)


def outlined_union(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image with all boxes outlined in red and, after it, the smallest box around all of them
    (ZoomEye on models with a global and local views). Of several images, each with boxes gives one crop."""
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    pictures = [*_outlined(reading, boxes), *_unions(reading, boxes)]
    return reading.read_alone(*pictures).answer(question, max_new_tokens)


def alone(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image alone, whatever the boxes."""
    return reading.answer(question, max_new_tokens)


def _outlined(reading: Reading, boxes: Sequence[RegionLike]) -> list[Image.Image]:
    """Every image of the reading, with its boxes."""
    places = _by_image(reading, boxes)
    return [montage.outline(image, places.get(number, [])) for number, image in enumerate(reading.images)]


def _canvases(reading: Reading, boxes: Sequence[RegionLike]) -> list[Image.Image]:
    """Of each image with boxes, in order, one picture of all of them."""
    return [montage.compact(reading.images[number], found) for number, found in _by_image(reading, boxes).items()]


def _unions(reading: Reading, boxes: Sequence[RegionLike]) -> list[Image.Image]:
    """Of each image with boxes, in order, the smallest crop that shows all of them."""
    return [crop(reading.images[number], Box.around(found)) for number, found in _by_image(reading, boxes).items()]


def _by_image(reading: Reading, boxes: Sequence[RegionLike]) -> dict[int, list[Box]]:
    """The boxes in each image that has any, by the image's number, in its order."""
    places: dict[int, list[Box]] = {}
    for box in sorted(boxes, key=number_of):
        places.setdefault(number_of(box), []).append(box_of(reading, box))
    return places
