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
from attnlens.boxes import Region
from attnlens.geometry import Box
from attnlens.lens import Answer, Reading

RegionLike = Region | Sequence[float]
"""A `Region`, or (x1, y1, x2, y2) in pixels of the first image."""


def append(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image and, after it, the crop of each box (ViCrop: "in addition to the original image").

    The crops are appended to what the reading has read, so only they are new work.

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: (x1, y1, x2, y2) in pixels of the first image read, as a list or an array of them, or `Region`, which
            says in which image it lies. Of none, the answer is to what has been read.
        question: the question about the image.
        max_new_tokens: how many tokens the answer has at most, at least 1.

    Returns:
        The greedy answer, with what it cost.

    Raises:
        AttnLensError: for a box that is malformed or outside its image, an image that was not read, a `max_new_tokens`
            that is no whole number of at least 1, and for a prompt and an answer longer than the model's context.

    Examples:
        >>> answers.append(reading, [scene.box], question).text, answers.alone(reading, [], question).text
        ('6', '2')
        >>> scene.answer
        '6'
    """
    for box in boxes:
        reading = reading.zoom(box_of(reading, box), number_of(box))
    return reading.answer(question, max_new_tokens)


def append_montage(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image and, after it, one picture of all boxes, close together (HiDe, arXiv 2510.00054).

    `attnlens.montage.compact` makes the picture; of one box it is the crop. Of several images, each with boxes gets a
    montage. The pictures are appended to what the reading has read.

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: (x1, y1, x2, y2) in pixels of the first image read, as a list or an array of them, or `Region`, which
            says in which image it lies. Of none, the answer is to what has been read.
        question: the question about the image.
        max_new_tokens: how many tokens the answer has at most, at least 1.

    Returns:
        The greedy answer, with what it cost.

    Raises:
        AttnLensError: for a box that is malformed or outside its image, an image that was not read, a `max_new_tokens`
            that is no whole number of at least 1, and for a prompt and an answer longer than the model's context.

    Examples:
        >>> answers.append_montage(reading, [scene.box, (0, 0, 50, 50)], question).text
        '6'
    """
    places = _by_image(reading, boxes)
    if all(len(found) == 1 for found in places.values()):
        return append(reading, sorted(boxes, key=number_of), question, max_new_tokens)
    for picture in _montages(reading, boxes):
        reading = reading.with_image(picture)
    return reading.answer(question, max_new_tokens)


def replace(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the crops instead of the image (FOCUS on models with one global view).

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: (x1, y1, x2, y2) in pixels of the first image read, as a list or an array of them, or `Region`, which
            says in which image it lies. Of none, the answer is to what has been read.
        question: the question about the image.
        max_new_tokens: how many tokens the answer has at most, at least 1.

    Returns:
        The greedy answer, with what it cost.

    Raises:
        AttnLensError: for a box that is malformed or outside its image, an image that was not read, a `max_new_tokens`
            that is no whole number of at least 1, and for a prompt and an answer longer than the model's context.

    Examples:
        >>> answers.replace(reading, [scene.box], question).text
        '6'
    """
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    return reading.read_alone(*crops_of(reading, boxes)).answer(question, max_new_tokens)


def replace_by_montage(
    reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20
) -> Answer:
    """The answer to one picture of all boxes, close together, instead of the image: for regions that are far apart.

    FOCUS and ZoomEye do so on models with one global view, for targets more than 1200 and 1000 pixels apart. Of several
    images, each with boxes is replaced by a montage of its own.

    Deviation: regions keep their scale and lose the space between them (`attnlens.montage.compact`), where the papers
    paste them onto a canvas of a fixed size.

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: (x1, y1, x2, y2) in pixels of the first image read, as a list or an array of them, or `Region`, which
            says in which image it lies. Of none, the answer is to what has been read.
        question: the question about the image.
        max_new_tokens: how many tokens the answer has at most, at least 1.

    Returns:
        The greedy answer, with what it cost.

    Raises:
        AttnLensError: for a box that is malformed or outside its image, an image that was not read, a `max_new_tokens`
            that is no whole number of at least 1, and for a prompt and an answer longer than the model's context.

    Examples:
        >>> answers.replace_by_montage(reading, [scene.box, (0, 0, 50, 50)], question).text
        '6'
    """
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    return reading.read_alone(*_montages(reading, boxes)).answer(question, max_new_tokens)


def union(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the smallest box around all of `boxes` instead of the image.

    FOCUS and ZoomEye do so on models with one global view. Of several images, each with boxes is replaced by one crop.

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: (x1, y1, x2, y2) in pixels of the first image read, as a list or an array of them, or `Region`, which
            says in which image it lies. Of none, the answer is to what has been read.
        question: the question about the image.
        max_new_tokens: how many tokens the answer has at most, at least 1.

    Returns:
        The greedy answer, with what it cost.

    Raises:
        AttnLensError: for a box that is malformed or outside its image, an image that was not read, a `max_new_tokens`
            that is no whole number of at least 1, and for a prompt and an answer longer than the model's context.

    Examples:
        >>> answers.union(reading, [scene.box, (150, 200, 200, 250)], question).text
        '6'
    """
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    return reading.read_alone(*_unions(reading, boxes)).answer(question, max_new_tokens)


def outlined(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image with all boxes outlined in red and, after it, the crop of each.

    FOCUS does so on models with a global and local views. Crops are of the image without the lines.

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: (x1, y1, x2, y2) in pixels of the first image read, as a list or an array of them, or `Region`, which
            says in which image it lies. Of none, the answer is to what has been read.
        question: the question about the image.
        max_new_tokens: how many tokens the answer has at most, at least 1.

    Returns:
        The greedy answer, with what it cost.

    Raises:
        AttnLensError: for a box that is malformed or outside its image, an image that was not read, a `max_new_tokens`
            that is no whole number of at least 1, and for a prompt and an answer longer than the model's context.

    Examples:
        >>> answers.outlined(reading, [scene.box], question).text
        '6'
    """
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    crops = crops_of(reading, boxes)
    return reading.read_alone(*_outlined(reading, boxes), *crops).answer(question, max_new_tokens)


def outlined_union(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image with all boxes outlined in red and, after it, the smallest box around all of them.

    ZoomEye does so on models with a global and local views. Of several images, each with boxes gives one crop.

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: (x1, y1, x2, y2) in pixels of the first image read, as a list or an array of them, or `Region`, which
            says in which image it lies. Of none, the answer is to what has been read.
        question: the question about the image.
        max_new_tokens: how many tokens the answer has at most, at least 1.

    Returns:
        The greedy answer, with what it cost.

    Raises:
        AttnLensError: for a box that is malformed or outside its image, an image that was not read, a `max_new_tokens`
            that is no whole number of at least 1, and for a prompt and an answer longer than the model's context.

    Examples:
        >>> answers.outlined_union(reading, [scene.box], question).text
        '6'
    """
    if not len(boxes):
        return reading.answer(question, max_new_tokens)
    pictures = [*_outlined(reading, boxes), *_unions(reading, boxes)]
    return reading.read_alone(*pictures).answer(question, max_new_tokens)


def alone(reading: Reading, boxes: Sequence[RegionLike], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image alone, whatever the boxes.

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: not looked at.
        question: the question about the image.
        max_new_tokens: how many tokens the answer has at most, at least 1.

    Returns:
        The answer to what has been read.

    Raises:
        AttnLensError: for a `max_new_tokens` that is no whole number of at least 1, and for a prompt and an answer
            longer than the model's context.

    Examples:
        >>> answers.alone(reading, [], question).text
        '2'
    """
    return reading.answer(question, max_new_tokens)


def _outlined(reading: Reading, boxes: Sequence[RegionLike]) -> list[Image.Image]:
    """Every image of the reading, with its boxes."""
    places = _by_image(reading, boxes)
    return [montage.outline(image, places.get(number, [])) for number, image in enumerate(reading.images)]


def _montages(reading: Reading, boxes: Sequence[RegionLike]) -> list[Image.Image]:
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


def number_of(region: RegionLike) -> int:
    """Which of a reading's images a region lies in."""
    return region.image if isinstance(region, Region) else 0


def image_of(reading: Reading, region: RegionLike) -> Image.Image:
    """The image that a region lies in."""
    return reading.image_at(number_of(region))


def box_of(reading: Reading, region: RegionLike) -> Box:
    """The region's box, clipped to its image."""
    return _box(region, image_of(reading, region))


def crops_of(reading: Reading, regions: Sequence[RegionLike]) -> list[Image.Image]:
    """The exact pixels of each region."""
    images = reading.images
    found = []
    for region in regions:
        number = number_of(region)
        image = images[number] if number in range(len(images)) else reading.image_at(number)  # which is an error
        found.append(crop(image, _box(region, image)))
    return found


def crop_of(reading: Reading, region: RegionLike) -> Image.Image:
    """The exact pixels of a region."""
    return crop(image_of(reading, region), box_of(reading, region))


def _box(region: RegionLike, image: Image.Image) -> Box:
    return Box.from_any(region.box if isinstance(region, Region) else region, image.size)
