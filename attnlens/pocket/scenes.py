"""Small-detail scenes: coloured signs, each with one digit, on a texture or a photograph, and a question about one of
them.

A scene is made from its seed alone, so it never has to be stored, and it comes with the box of the sign that was asked
about.
The training, validation and test splits draw from separate random streams and from separate backgrounds: disjoint
regions of
the photographs, disjoint pairs of hue and scale of the textures (`Background.variant`).

>>> scene(seed=7, target_area=0.004).image.size
(400, 400)
"""

import colorsys
import dataclasses
import functools
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attnlens.errors import AttnLensError

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
TEXTURES = ("stripes", "checks", "dots", "clouds", "bricks")
PHOTOGRAPHS = ("astronaut", "cat", "coffee")
KINDS = TEXTURES + PHOTOGRAPHS

BINS = {"small": (0.001, 0.005), "medium": (0.005, 0.05), "large": (0.05, 0.13)}
"""Relative area of the target, as drawn; the bins of the ViCrop paper are < 0.005, < 0.05 and the rest."""

SPLITS = ("train", "validation", "test")
SIDES = (0.03, 0.36)
"""Smallest and largest side of a sign, relative to the side of the image."""

QUESTION = "What is written on the {colour} sign?"
GENERIC = "Write a general description of the image."

HUES = 24
SCALES = 8
# Of the residues of hue + scale, modulo 8, which belong to a split; and of a photograph's width, which part.
_RESIDUES = {"train": (0, 1, 2, 3, 4), "validation": (5,), "test": (6, 7)}
_REGIONS = {"train": (0.0, 0.55), "validation": (0.55, 0.70), "test": (0.70, 1.0)}

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Sign:
    """One sign: its colour's name, its digit, and its box (x1, y1, x2, y2), half-open, in original pixels."""

    colour: str
    digit: str
    box: Box


@dataclasses.dataclass(frozen=True)
class Background:
    """What is behind the signs.

    `variant` is what no two splits share: (hue, scale) of a texture, the box (x1, y1, x2, y2) in a photograph's own
    pixels.
    """

    kind: str
    variant: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image, a question about one of its signs, the right answer (one digit), and that sign's box in original
    pixels."""

    image: Image.Image
    question: str
    answer: str
    box: Box
    signs: tuple[Sign, ...]
    background: Background

    @property
    def target_area(self) -> float:
        """Area of the target's box over the area of the image."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1) / (self.image.width * self.image.height)


def scene(
    seed: int,
    target_area: float | None = None,
    *,
    split: str = "test",
    size: int = 400,
    sides: tuple[float, float] = SIDES,
) -> Scene:
    """The scene number `seed` of a split, `size` x `size` pixels.

    `target_area` is the relative area of the box of the sign that is asked about; without it, its side is drawn like
    that of
    the other signs, log-uniformly between `sides` (relative to `size`).
    """
    if split not in SPLITS:
        raise AttnLensError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if target_area is not None and not 0 < target_area <= 0.5:
        raise AttnLensError(f"target_area must be in (0, 0.5], not {target_area!r}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    background = draw_background(rng, split)
    canvas = render_background(rng, background, size)
    count = int(rng.integers(2, 6))
    lengths = np.exp(rng.uniform(np.log(sides[0]), np.log(sides[1]), size=count)) * size
    if target_area is not None:
        lengths[0] = size * target_area**0.5
    signs = populate(rng, canvas, lengths)
    target = signs[0]
    question = QUESTION.format(colour=target.colour)
    return Scene(Image.fromarray(canvas), question, target.digit, target.box, signs, background)


def sized(seed: int, bin_name: str, *, split: str = "test", size: int = 400) -> Scene:
    """The scene number `seed` of a split with a target of that size: `small`, `medium` or `large` (see `BINS`)."""
    if bin_name not in BINS:
        raise AttnLensError(f"bin must be one of {', '.join(BINS)}, not {bin_name!r}")
    low, high = BINS[bin_name]
    rng = np.random.default_rng([SPLITS.index(split), seed, list(BINS).index(bin_name)])
    # Whole pixels: the smallest and the largest side that stay inside the bin.
    least, most = int(np.ceil(size * low**0.5)), int(np.floor(size * high**0.5 - 1e-9))
    side = int(np.clip(round(size * rng.uniform(low, high) ** 0.5), least, most))
    return scene(seed, (side / size) ** 2, split=split, size=size)


def populate(rng: np.random.Generator, canvas: np.ndarray, lengths: np.ndarray) -> tuple[Sign, ...]:
    """Paint signs of those sides (pixels), the first one first, at random into `canvas` (uint8 [size, size, 3])."""
    boxes = place(rng, [max(4, round(length)) for length in lengths], canvas.shape[0])
    names = rng.permutation(list(COLOURS))
    signs = tuple(Sign(str(name), str(rng.integers(10)), box) for name, box in zip(names, boxes, strict=False))
    for sign in signs:
        paint(canvas, sign, rng)
    return signs


def place(rng: np.random.Generator, lengths: list[int], size: int, tries: int = 200) -> list[Box]:
    """Boxes of squares of those sides that do not touch, at random, in order; a square that finds no room is left
    out."""
    boxes: list[Box] = []
    for length in lengths:
        if length > size:
            continue
        corners = rng.integers(0, size - length + 1, size=(tries, 2))
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
    plate, glyph = plate_mask(x2 - x1), glyph_mask(x2 - x1, sign.digit)
    colour = np.clip(np.array(COLOURS[sign.colour]) + rng.integers(-14, 15, size=3), 0, 255).astype(np.float32)
    ink = np.float32(15 if sign.colour in DARK_INK else 250)
    face = colour + glyph[..., None] * (ink - colour)
    under = canvas[y1:y2, x1:x2]
    canvas[y1:y2, x1:x2] = (under + plate[..., None] * (face - under)).round().astype(np.uint8)


@functools.cache
def plate_mask(side: int) -> np.ndarray:
    """How much of each pixel a sign of that side covers: a square with rounded corners, float32 [side, side]."""
    big = Image.new("L", (side * 4, side * 4))
    ImageDraw.Draw(big).rounded_rectangle((0, 0, side * 4 - 1, side * 4 - 1), radius=side * 0.6, fill=255)
    return np.asarray(big.resize((side, side), Image.Resampling.BOX), np.float32) / 255


@functools.cache
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


def draw_background(rng: np.random.Generator, split: str) -> Background:
    """A background of that split; each of `KINDS` is equally likely."""
    kind = str(rng.choice(KINDS))
    if kind in TEXTURES:
        hue = int(rng.integers(HUES))
        residue = int(rng.choice(_RESIDUES[split]))
        return Background(kind, (hue, (residue - hue) % SCALES))
    height, width, _ = photograph(kind).shape
    first, last = (round(edge * width) for edge in _REGIONS[split])
    side = int(rng.integers(round(0.6 * min(last - first, height)), min(last - first, height) + 1))
    x, y = int(rng.integers(first, last - side + 1)), int(rng.integers(0, height - side + 1))
    return Background(kind, (x, y, x + side, y + side))


def render_background(rng: np.random.Generator, background: Background, size: int) -> np.ndarray:
    """Its pixels, uint8 [size, size, 3]."""
    if background.kind in TEXTURES:
        return _texture(rng, background, size)
    x1, y1, x2, y2 = background.variant
    part = Image.fromarray(photograph(background.kind)[y1:y2, x1:x2])
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(part.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return np.clip(pixels * rng.uniform(0.7, 1.15), 0, 255).astype(np.uint8)


@functools.cache
def photograph(kind: str) -> np.ndarray:
    """A photograph of the package (see backgrounds/LICENCES.md), uint8 [rows, cols, 3]."""
    with Image.open(pathlib.Path(__file__).parent / "backgrounds" / f"{kind}.jpg") as image:
        return np.asarray(image.convert("RGB"))


def _texture(rng: np.random.Generator, background: Background, size: int) -> np.ndarray:
    """Two muted shades of a hue, mixed by a pattern whose period grows with the scale."""
    hue, scale = background.variant
    period = size * 0.03 * 1.35**scale
    x, y = np.arange(size, dtype=np.float32)[None], np.arange(size, dtype=np.float32)[:, None]
    x, y = x + rng.uniform(0, period), y + rng.uniform(0, period)
    match background.kind:
        case "stripes":
            angle = rng.uniform(0, np.pi)
            mix = 0.5 + 0.5 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
        case "checks":
            mix = ((x // period + y // period) % 2).astype(np.float32)
        case "dots":
            mix = ((x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < (0.3 * period) ** 2).astype(
                np.float32
            )
        case "bricks":
            row = y // (period / 2)
            joint = (y % (period / 2) < 0.06 * period) | ((x + (row % 2) * period / 2) % period < 0.06 * period)
            mix = joint.astype(np.float32)
        case _:
            cells = max(2, round(size / period))
            mix = np.zeros((size, size), np.float32)
            for octave in range(3):
                noise = Image.fromarray(rng.random((cells << octave, cells << octave), np.float32))
                mix += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) * 0.5**octave / 1.75
    shades = []
    for value in rng.permutation([rng.uniform(0.25, 0.5), rng.uniform(0.55, 0.95)]):
        shades.append(np.array(colorsys.hsv_to_rgb(hue / HUES, rng.uniform(0.05, 0.4), value), np.float32) * 255)
    pixels = shades[0] + mix[..., None] * (shades[1] - shades[0])
    pixels += rng.normal(0, 5, size=(size, size, 1)).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)
