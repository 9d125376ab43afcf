"""The parts of a figure: colours, fonts, text that fits, images at display size, boxes drawn on them.

One more frame of coordinates lives here: *display* pixels, of an image as it is drawn. `fitted` chooses its size, and
`marked` scales boxes in original pixels to it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from attnlens.geometry import Box, Grid
from attnlens.importance import ImportanceMap

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER: Colour = (255, 255, 255)
CARD: Colour = (243, 244, 246)
LINE: Colour = (214, 217, 222)
INK: Colour = (24, 27, 33)
MUTED: Colour = (108, 114, 125)
RIGHT: Colour = (21, 128, 61)
WRONG: Colour = (200, 30, 45)
CROP: Colour = (255, 32, 94)
"""The crop that the model was shown."""
TRUTH: Colour = (0, 190, 165)
"""Where the answer really is, dashed."""

STROKE = 3
THINNEST = 24
"""Display pixels: an image of 20,000 x 20 pixels is stretched to this height rather than drawn as a hair line."""


@functools.lru_cache(maxsize=16)
def font(size: int) -> Font:
    """Pillow's own font, which needs no file on the machine."""
    return ImageFont.load_default(size)


def fitted(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """The display size (width, height) of an image of `size`: as large as `limit` allows, in the image's proportions.

    >>> fitted((800, 400), (480, 480))
    (480, 240)
    """
    scale = min(limit[0] / size[0], limit[1] / size[1])
    width, height = (max(THINNEST, round(side * scale)) for side in size)
    return min(width, limit[0]), min(height, limit[1])


def displayed(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at display size: averaged when it shrinks, smooth when it grows."""
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def overlaid(image: Image.Image, importance: ImportanceMap, size: tuple[int, int]) -> Image.Image:
    """The map over the image, made at display size, so that its cost does not grow with the image."""
    width, height = importance.grid.image_size
    grid = Grid(importance.grid.x * (size[0] / width), importance.grid.y * (size[1] / height), size)
    return ImportanceMap(importance.values, grid).overlay(displayed(image, size)).convert("RGB")


def marked(
    picture: Image.Image,
    image_size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    true_box: Sequence[float] | None = None,
) -> Image.Image:
    """A copy of `picture`, an image of `image_size` at display size, with its boxes (original pixels) drawn around.

    The lines lie just outside each box, or along the picture's edge where there is no room.
    """
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    scale = picture.width / image_size[0], picture.height / image_size[1]
    for box in boxes:
        _outline(draw, _to_display(box, scale), picture.size, CROP, dashed=False)
    if true_box is not None:
        _outline(draw, _to_display(true_box, scale), picture.size, TRUTH, dashed=True)
    return picture


def check_mark(picture: Image.Image, centre: tuple[int, int], right: bool) -> None:
    """A tick or a cross of 24 pixels on `picture`, drawn, because fonts may have neither."""
    # Pillow's lines have hard edges: drawn four times as large, then averaged.
    mask = Image.new("L", (96, 96))
    draw = ImageDraw.Draw(mask)
    strokes = [[(12, 50), (36, 76), (84, 22)]] if right else [[(20, 20), (76, 76)], [(20, 76), (76, 20)]]
    for stroke in strokes:
        draw.line(stroke, fill=255, width=16, joint="curve")
    mask = mask.resize((24, 24), Image.Resampling.BOX)
    picture.paste(RIGHT if right else WRONG, (centre[0] - 12, centre[1] - 12), mask)


def wrapped(text: str, size: int, width: int, most_lines: int) -> list[str]:
    """`text` broken into lines of at most `width` display pixels; what does not fit ends in three dots."""
    lines: list[str] = []
    for word in _pieces(text.split() or [""], size, width):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(joined, size) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
        if len(lines) > most_lines:
            return [*lines[: most_lines - 1], shortened(f"{lines[most_lines - 1]} {word}", size, width, cut=True)]
    return lines


def shortened(text: str, size: int, width: int, cut: bool = False) -> str:
    """`text` on one line of at most `width` display pixels; `cut` says that something is missing behind it already."""
    if not cut and text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}...", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def text_width(text: str, size: int) -> float:
    """In display pixels."""
    return font(size).getlength(text)


def line_height(size: int) -> int:
    """In display pixels, with the space to the next line."""
    return round(size * 1.35)


def _pieces(words: Sequence[str], size: int, width: int) -> Iterator[str]:
    """The words; one that is wider than a line, in several pieces."""
    for word in words:
        start = 0
        # Wider than any figure can show: what is cut off is never seen.
        for end in range(1, min(len(word), 2000) + 1):
            if end - start > 1 and text_width(word[start:end], size) > width:
                yield word[start : end - 1]
                start = end - 1
        yield word[start:2000]


def _to_display(box: Sequence[float], scale: tuple[float, float]) -> Box:
    x1, y1, x2, y2 = box
    return Box(x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1])


def _outline(draw: ImageDraw.ImageDraw, box: Box, size: tuple[int, int], colour: Colour, dashed: bool) -> None:
    """A line of STROKE pixels around `box` (display pixels), on a thin white one that parts it from the image."""
    for grow, fill, width in ((STROKE + 1, PAPER, STROKE + 2), (STROKE, colour, STROKE)):
        left, top = (max(0, round(edge) - grow) for edge in (box.x1, box.y1))
        right = max(left, min(size[0], round(box.x2) + grow) - 1)
        bottom = max(top, min(size[1], round(box.y2) + grow) - 1)
        if dashed and fill == colour:
            _dashes(draw, (left, top, right, bottom), fill, width)
        else:
            draw.rectangle((left, top, right, bottom), outline=fill, width=width)


def _dashes(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], fill: Colour, width: int) -> None:
    """The four sides of a rectangle (last pixels included) as dashes, one at every corner."""
    left, top, right, bottom = corners
    for start, stop in _spans(left, right):
        draw.rectangle((start, top, stop, min(bottom, top + width - 1)), fill=fill)
        draw.rectangle((start, max(top, bottom - width + 1), stop, bottom), fill=fill)
    for start, stop in _spans(top, bottom):
        draw.rectangle((left, start, min(right, left + width - 1), stop), fill=fill)
        draw.rectangle((max(left, right - width + 1), start, right, stop), fill=fill)


def _spans(first: int, last: int, dash: int = 9) -> Iterator[tuple[int, int]]:
    """An odd number of equal stretches over first..last; every second one is a dash."""
    length = last - first + 1
    count = 2 * max(1, round(length / (2 * dash))) - 1
    for index in range(0, count, 2):
        start = first + round(index * length / count)
        yield start, max(start, first + round((index + 1) * length / count) - 1)
