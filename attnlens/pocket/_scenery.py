"""What is behind the signs: textures, and parts of photographs; training, validation and the rest share no variant."""

import colorsys
import functools
import pathlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

TEXTURES = ("stripes", "checks", "dots", "clouds", "bricks")
PHOTOGRAPHS = ("astronaut", "cat", "coffee")
KINDS = TEXTURES + PHOTOGRAPHS
SPLITS = ("train", "validation", "test", "report", "again")
"""Random streams of their own. The last three share backgrounds that neither training nor choices have seen; which
stream served what is in docs/streams.md."""
CHOICE = SPLITS[:3]
"""Streams on which something may be chosen: the others are for the report, and for seeing whether it holds."""

HUES = 24
SCALES = 8
# Of the residues of hue + scale, modulo 8, which belong to a split; and of a photograph's width, which part.
_HELD_OUT = SPLITS[2:]
_RESIDUES = {"train": (0, 1, 2, 3, 4), "validation": (5,)} | dict.fromkeys(_HELD_OUT, (6, 7))
_REGIONS = {"train": (0.0, 0.55), "validation": (0.55, 0.70)} | dict.fromkeys(_HELD_OUT, (0.70, 1.0))


@dataclass(frozen=True)
class Background:
    """What is behind the signs.

    `variant` is what training, validation and the rest do not share: (hue, scale) of a texture, the box
    (x1, y1, x2, y2) in a photograph's own pixels.
    """

    kind: str
    variant: tuple[int, ...]


def draw(rng: np.random.Generator, split: str, aspect: float = 1.0) -> Background:
    """A background of that split for an image of that `aspect` = width / height; each of `KINDS` is equally likely."""
    kind = str(rng.choice(KINDS))
    if kind in TEXTURES:
        hue = int(rng.integers(HUES))
        residue = int(rng.choice(_RESIDUES[split]))
        return Background(kind, (hue, (residue - hue) % SCALES))
    rows, cols, _ = photograph(kind).shape
    first, last = (round(edge * cols) for edge in _REGIONS[split])
    # The largest box of that aspect in the split's part of the photograph, and down to 0.6 of it.
    most = min(last - first, int(rows * aspect))
    width = int(rng.integers(round(0.6 * most), most + 1))
    height = min(rows, max(1, round(width / aspect)))
    x, y = int(rng.integers(first, last - width + 1)), int(rng.integers(0, rows - height + 1))
    return Background(kind, (x, y, x + width, y + height))


def render(rng: np.random.Generator, background: Background, size: tuple[int, int]) -> np.ndarray:
    """Its pixels, uint8 [height, width, 3], for `size` = (width, height)."""
    if background.kind in TEXTURES:
        return _texture(rng, background, size)
    x1, y1, x2, y2 = background.variant
    part = Image.fromarray(photograph(background.kind)[y1:y2, x1:x2])
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(part.resize(size, Image.Resampling.BICUBIC), np.float32)
    return np.clip(pixels * np.float32(rng.uniform(0.7, 1.15)), 0, 255).astype(np.uint8)


@functools.cache
def photograph(kind: str) -> np.ndarray:
    """A photograph of the package (see backgrounds/LICENCES.md), uint8 [rows, cols, 3]."""
    with Image.open(pathlib.Path(__file__).parent / "backgrounds" / f"{kind}.jpg") as image:
        return np.asarray(image.convert("RGB"))


def _texture(rng: np.random.Generator, background: Background, size: tuple[int, int]) -> np.ndarray:
    """Two muted shades of a hue, mixed by a pattern whose period grows with the scale."""
    hue, scale = background.variant
    width, height = size
    period = (width * height) ** 0.5 * 0.03 * 1.35**scale
    x = np.arange(width, dtype=np.float32)[None] + np.float32(rng.uniform(0, period))
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(rng.uniform(0, period))
    match background.kind:
        case "stripes":
            angle = rng.uniform(0, np.pi)
            wave = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * np.float32(2 * np.pi / period)
            mix = 0.5 + 0.5 * np.sin(wave)
        case "checks":
            mix = ((x // period + y // period) % 2).astype(np.float32)
        case "dots":
            inside = (x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < (0.3 * period) ** 2
            mix = inside.astype(np.float32)
        case "bricks":
            row = y // (period / 2)
            joint = (y % (period / 2) < 0.06 * period) | ((x + (row % 2) * period / 2) % period < 0.06 * period)
            mix = joint.astype(np.float32)
        case _:
            across, down = (max(2, round(side / period)) for side in size)
            mix = np.zeros((height, width), np.float32)
            for octave in range(3):
                noise = Image.fromarray(rng.random((down << octave, across << octave), np.float32))
                mix += np.asarray(noise.resize(size, Image.Resampling.BICUBIC)) * np.float32(0.5**octave / 1.75)
    shades = []
    for value in rng.permutation([rng.uniform(0.25, 0.5), rng.uniform(0.55, 0.95)]):
        shades.append(np.array(colorsys.hsv_to_rgb(hue / HUES, rng.uniform(0.05, 0.4), value), np.float32) * 255)
    pixels = shades[0] + mix[..., None] * (shades[1] - shades[0])
    pixels += rng.standard_normal(size=(height, width, 1), dtype=np.float32) * 5
    return np.clip(pixels, 0, 255).astype(np.uint8)
