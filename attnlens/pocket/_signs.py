"""Coloured signs, each with one digit: where they stand and how they are painted."""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "red": (215, 25, 30),
    "orange": (255, 125, 0),
    "yellow": (255, 222, 30),
    "green": (20, 145, 55),
    "cyan": (40, 205, 225),
    "blue": (25, 60, 215),
    "purple": (120, 35, 160),
    "pink": (255, 130, 195),
}
"""Names of the sign colours and their RGB values; no two signs of a scene share one."""

DARK_INK = {"orange", "yellow", "cyan", "pink"}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Sign:
    """One sign: its colour's name, its digit, and its box (x1, y1, x2, y2), half-open, in original pixels."""

    colour: str
    digit: str
    box: Box

    @property
    def side(self) -> int:
        """Width and height, in pixels."""
        return self.box[2] - self.box[0]

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y), in pixels."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


def draw(rng: np.random.Generator, lengths: np.ndarray, size: tuple[int, int]) -> tuple[Sign, ...]:
    """Signs of those sides (pixels), the first one first, at random in an image of `size` = (width, height)."""
    boxes = place(rng, [max(4, round(length)) for length in lengths], size)
    names = rng.permutation(list(COLOURS))
    return tuple(Sign(str(name), str(rng.integers(10)), box) for name, box in zip(names, boxes, strict=False))


def place(rng: np.random.Generator, lengths: list[int], size: tuple[int, int], tries: int = 200) -> list[Box]:
    """Boxes of squares of those sides that do not touch, at random, in order; a square without room is left out."""
    boxes: list[Box] = []
    width, height = size
    for length in lengths:
        if length > min(size):
            continue
        corners = rng.integers(0, (width - length + 1, height - length + 1), size=(tries, 2))
        free = np.ones(tries, bool)
        for x1, y1, x2, y2 in boxes:
            apart_x = (corners[:, 0] > x2) | (corners[:, 0] + length < x1)
            apart_y = (corners[:, 1] > y2) | (corners[:, 1] + length < y1)
            free &= apart_x | apart_y
        if free.any():
            x, y = (int(value) for value in corners[np.argmax(free)])
            boxes.append((x, y, x + length, y + length))
    return boxes


def paint(canvas: np.ndarray, sign: Sign, rng: np.random.Generator) -> None:
    """Draw a sign into `canvas` (uint8 [rows, cols, 3]), with a little random shade."""
    x1, y1, x2, y2 = sign.box
    plate, glyph = plate_mask(sign.side), glyph_mask(sign.side, sign.digit)
    colour = np.clip(np.array(COLOURS[sign.colour]) + rng.integers(-14, 15, size=3), 0, 255).astype(np.float32)
    ink = np.float32(15 if sign.colour in DARK_INK else 250)
    face = colour + glyph[..., None] * (ink - colour)
    under = canvas[y1:y2, x1:x2]
    canvas[y1:y2, x1:x2] = (under + plate[..., None] * (face - under)).round().astype(np.uint8)


@functools.lru_cache(maxsize=1024)
def plate_mask(side: int) -> np.ndarray:
    """How much of each pixel a sign of that side covers: a square with rounded corners, float32 [side, side]."""
    big = Image.new("L", (side * 4, side * 4))
    ImageDraw.Draw(big).rounded_rectangle((0, 0, side * 4 - 1, side * 4 - 1), radius=side * 0.6, fill=255)
    return np.asarray(big.resize((side, side), Image.Resampling.BOX), np.float32) / 255


@functools.lru_cache(maxsize=4096)
def glyph_mask(side: int, digit: str) -> np.ndarray:
    """How much ink each pixel of a sign carries, the digit centred on it, float32 [side, side]."""
    big = Image.new("L", (side * 4, side * 4))
    font = ImageFont.load_default(side * 4 * 1.08)
    draw = ImageDraw.Draw(big)
    left, top, right, bottom = draw.textbbox((0, 0), digit, font=font)
    draw.text(
        (side * 2 - (left + right) / 2, side * 2 - (top + bottom) / 2),
        digit,
        fill=255,
        font=font,
        stroke_width=side * 0.1,
    )
    return np.asarray(big.resize((side, side), Image.Resampling.BOX), np.float32) / 255
