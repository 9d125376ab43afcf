"""Ask again, with what the boxes show."""

from __future__ import annotations

from collections.abc import Sequence

from attnlens.geometry import Box
from attnlens.images import crop
from attnlens.lens.reading import Answer, Reading


def append(reading: Reading, boxes: Sequence[Box], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image and, after it, the crop of each box (ViCrop: "in addition to the original image").

    `boxes`: (x1, y1, x2, y2) in pixels of the image; none of them: the answer to the image alone. The crops are
    appended to what the reading has read, so only they are new work.
    """
    for box in boxes:
        reading = reading.zoom(box)
    return reading.answer(question, max_new_tokens)


def replace(reading: Reading, boxes: Sequence[Box], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the crops instead of the image (FOCUS on models with one global view). No box: to the image."""
    if not boxes:
        return reading.answer(question, max_new_tokens)
    crops = [crop(reading.image, Box.from_any(box, reading.image.size)) for box in boxes]
    return reading.lens.read(crops).answer(question, max_new_tokens)


def union(reading: Reading, boxes: Sequence[Box], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the smallest box around all of `boxes` instead of the image (FOCUS and ZoomEye on models with one
    global view). No box: to the image."""
    if not boxes:
        return reading.answer(question, max_new_tokens)
    return replace(reading, [Box.around(boxes)], question, max_new_tokens)


def alone(reading: Reading, boxes: Sequence[Box], question: str, max_new_tokens: int = 20) -> Answer:
    """The answer to the image alone, whatever the boxes."""
    return reading.answer(question, max_new_tokens)
