"""Small-detail scenes: coloured signs, each with one digit, on a texture or a photograph, and a question about them.

A scene is made from its seed alone, so it never has to be stored, and it comes with the box of what was asked about.
The splits draw from separate random streams (`SPLITS`; docs/streams.md says what each served), and training,
validation and the rest from separate backgrounds: disjoint regions of the photographs, disjoint pairs of hue and scale
of the textures (`Background.variant`).

>>> scene(seed=7, target_area=0.004).image.size
(400, 400)
>>> scene_in_bin(seed=7, bin_name="small", task="colour").question
'What colour is the sign that says 5?'
"""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from attnlens import _renamed
from attnlens._checks import is_whole
from attnlens.errors import AttnLensError, quoted
from attnlens.pocket import _scenery, _signs
from attnlens.pocket._scenery import SPLITS, Background
from attnlens.pocket._signs import COLOURS, Box, Sign

__all__ = ["Scene", "scene", "scene_in_bin"]


@dataclass(frozen=True)
class Bin:
    """A size of target and of image."""

    area: tuple[float, float]
    """Relative area of the target, from and below."""
    side: tuple[float, float]
    """Square root of the image's area, in pixels: from and to."""


BINS = {
    "small": Bin((0.0005, 0.005), (300, 900)),
    "medium": Bin((0.005, 0.05), (300, 900)),
    "large": Bin((0.05, 0.2), (300, 900)),
    "high": Bin((0.0005, 0.005), (1100, 1800)),
}
"""The sizes of the ViCrop paper (< .005, < .05, the rest of the area), and small targets in large images, as in V*."""

TASKS = ("read", "colour", "exists", "larger", "left", "describe")
"""Kinds of question."""

SEEDS = 10**18
"""Scenes of a split, a size and a kind of question."""

ASPECTS = (0.5, 2.0)
EDGES = (256, 2048)
"""The shortest and the longest edge of a `sized` scene, in pixels."""
LEAST_SIDE = 14
"""Pixels: a target with a smaller side could not be read in the original image either."""
SIDES = (0.03, 0.36)
"""Smallest and largest side of the other signs, relative to the square root of the image's area."""

QUESTION = "What is written on the {colour} sign?"
COLOUR_QUESTION = "What colour is the sign that says {digit}?"
EXISTS_QUESTION = "Is there a {colour} sign in the image?"
LARGER_QUESTION = "Which sign is larger, the {one} one or the {other} one?"
LEFT_QUESTION = "Which sign is further left, the {one} one or the {other} one?"
GENERIC = "Write a general description of the image."

DESCRIPTIONS = {
    "astronaut": "a photograph of an astronaut",
    "cat": "a photograph of a cat",
    "coffee": "a photograph of a cup of coffee",
    **{kind: f"a pattern of {kind}" for kind in _scenery.TEXTURES},
}
"""What the generic prompt is answered with, by kind of background."""

LARGER, FURTHER = 1.3, 0.08
"""How much larger (a ratio of sides), and further left (in widths of the image), one sign is than the other."""


@dataclass(frozen=True)
class Scene:
    """A question about an image, its right answers, and where in the image the answer is to be seen.

    Examples:
        >>> made = scenes.scene(seed=5, target_area=0.004)
        >>> made.question, made.answer, made.box
        ('What is written on the pink sign?', '6', (193, 251, 218, 276))
    """

    question: str
    """What is asked about the image."""
    labels: tuple[str, ...]
    """All right answers."""
    box: Box | None
    """(x1, y1, x2, y2), half-open, in original pixels, of the sign that is asked about, or of what holds both signs
    that are compared; None where there is no such place."""
    signs: tuple[Sign, ...]
    """The signs, each with its colour, its digit and its box. Where one is asked about, or two are, they come first."""
    background: Background
    """What is behind the signs."""
    task: str
    """The kind of question, one of `TASKS`."""
    size: tuple[int, int]
    """(width, height) of the image, in pixels."""
    stream: tuple[int, ...]
    """What the random numbers of the painting start from."""

    @property
    def answer(self) -> str:
        """The first of the right answers."""
        return self.labels[0]

    @property
    def target_area(self) -> float | None:
        """Area of the target's box over the area of the image; None where there is no box."""
        if self.box is None:
            return None
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1) / (self.size[0] * self.size[1])

    @functools.cached_property
    def image(self) -> Image.Image:
        """The image, RGB, which is painted when it is first asked for."""
        rng = np.random.default_rng([*self.stream, 1])
        canvas = _scenery.render(rng, self.background, self.size)
        for sign in self.signs:
            _signs.paint(canvas, sign, rng)
        return Image.fromarray(canvas)


def scene(
    seed: int,
    target_area: float | None = None,
    *,
    split: str = "test",
    size: int | tuple[int, int] = 400,
    task: str = "read",
) -> Scene:
    """The scene number `seed` of a split, of a size that is given.

    A scene is made from its seed alone: the same arguments give the same scene. Splits draw from separate random
    streams, and training, validation and the rest from separate backgrounds.

    Args:
        seed: the number of the scene, a whole number from 0 and below 10**18.
        target_area: the relative area of the sign that is asked about (of one of the two that are compared), above 0
            and at most 0.5. None draws its side like that of the other signs, log-uniformly.
        split: the stream that the scene is drawn from: `train`, `validation`, `test`, `report` or `again`.
        size: (width, height) of the image in pixels, or the side of a square; both edges at least 32.
        task: what is asked (`TASKS`): `read` a sign's digit, its `colour`, whether a sign `exists`, which of two signs
            is `larger` or further `left`, or a general description of the image (`describe`).

    Returns:
        The scene, whose image is not painted yet.

    Raises:
        AttnLensError: for a seed, a target's area or a size out of range, and for a split or task that there is not.

    Examples:
        >>> scenes.scene(seed=7, target_area=0.004).image.size
        (400, 400)
    """
    _check(seed, split, task)
    if target_area is not None and not 0 < target_area <= 0.5:
        raise AttnLensError(f"target_area must be in (0, 0.5], not {target_area!r}")
    width, height = (size, size) if isinstance(size, int) else size
    if min(width, height) < 32:
        raise AttnLensError(f"size must be at least 32 px on both edges, not {width} x {height}")
    return _scene((SPLITS.index(split), seed, TASKS.index(task)), target_area, (width, height), split, task)


def scene_in_bin(seed: int, bin_name: str, *, split: str = "test", task: str = "read") -> Scene:
    """The scene number `seed` of a split with a target of that size, `small`, `medium`, `large` or `high` (see `BINS`).

    These are the scenes of the small-detail benchmark: rectangles of 256 to 2048 pixels, the target's area drawn
    uniformly from its bin. The same arguments give the same scene.

    Args:
        seed: the number of the scene, a whole number from 0 and below 10**18.
        bin_name: the relative area of the target: `small` (0.0005 to 0.005), `medium` (to 0.05), `large` (to 0.2), or
            `high`, which is small targets in large images, as in V*. The others are the sizes of the ViCrop paper.
        split: the stream that the scene is drawn from: `train`, `validation`, `test`, `report` or `again`.
        task: what is asked (`TASKS`), as in `scene`.

    Returns:
        The scene, whose image is not painted yet.

    Raises:
        AttnLensError: for a seed out of range, and for a bin, split or task that there is not.

    Examples:
        >>> scenes.scene_in_bin(seed=7, bin_name="small", task="colour").question
        'What colour is the sign that says 5?'
    """
    _check(seed, split, task)
    if bin_name not in BINS:
        raise AttnLensError(f"bin must be one of {', '.join(BINS)}, not {bin_name!r}")
    chosen = BINS[bin_name]
    stream = (SPLITS.index(split), seed, TASKS.index(task), 1 + list(BINS).index(bin_name))
    rng = np.random.default_rng([*stream, 2])
    low, high = chosen.area
    area = float(rng.uniform(low, high))
    least = max(chosen.side[0], LEAST_SIDE / area**0.5)
    across = math.exp(rng.uniform(math.log(least), math.log(chosen.side[1])))
    aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
    width, height = (int(np.clip(round(edge), *EDGES)) for edge in (across * aspect**0.5, across / aspect**0.5))
    # Whole pixels: the nearest side that stays inside the bin.
    pixels = width * height
    side = int(
        np.clip(round((area * pixels) ** 0.5), math.ceil((low * pixels) ** 0.5), math.ceil((high * pixels) ** 0.5) - 1)
    )
    return _scene(stream, side**2 / pixels, (width, height), split, task)


def _check(seed: int, split: str, task: str) -> None:
    if not is_whole(seed) or not 0 <= seed < SEEDS:
        raise AttnLensError(f"seed must be a whole number from 0 and below 10**18, not {quoted(seed)}")
    if split not in SPLITS:
        raise AttnLensError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if task not in TASKS:
        raise AttnLensError(f"task must be one of {', '.join(TASKS)}, not {task!r}")


def _scene(stream: tuple[int, ...], target_area: float | None, size: tuple[int, int], split: str, task: str) -> Scene:
    rng = np.random.default_rng([*stream, 0])
    background = _scenery.draw(rng, split, size[0] / size[1])
    unit = (size[0] * size[1]) ** 0.5
    while True:  # until the signs allow the question; a few draws at most
        count = int(rng.integers(2, 6))
        lengths = np.exp(rng.uniform(math.log(SIDES[0]), math.log(SIDES[1]), size=count)) * unit
        if target_area is not None:
            lengths[0] = unit * target_area**0.5
        shown = _signs.draw(rng, lengths, size)
        asked = ask(rng, task, shown, background, size)
        if asked is not None:
            question, labels, box = asked
            return Scene(question, labels, box, shown, background, task, size, stream)


def ask(
    rng: np.random.Generator, task: str, shown: tuple[Sign, ...], background: Background, size: tuple[int, int]
) -> tuple[str, tuple[str, ...], Box | None] | None:
    """A question of that kind about the first sign (and the second), its answers and its box; None: no fair one."""
    if not shown:
        return None
    first = shown[0]
    match task:
        case "read":
            return QUESTION.format(colour=first.colour), (first.digit,), first.box
        case "colour":
            if any(sign.digit == first.digit for sign in shown[1:]):
                return None
            return COLOUR_QUESTION.format(digit=first.digit), (first.colour,), first.box
        case "exists":
            absent = [name for name in COLOURS if name not in {sign.colour for sign in shown}]
            if rng.random() < 0.5:
                return EXISTS_QUESTION.format(colour=first.colour), ("yes",), first.box
            return EXISTS_QUESTION.format(colour=absent[rng.integers(len(absent))]), ("no",), None
        case "describe":
            return GENERIC, (DESCRIPTIONS[background.kind],), None
    if len(shown) < 2:
        return None
    second = shown[1]
    one, other = (str(name) for name in rng.permutation([first.colour, second.colour]))
    x1, y1, x2, y2 = zip(first.box, second.box, strict=True)
    both = (min(x1), min(y1), max(x2), max(y2))
    if task == "larger":
        if max(first.side, second.side) < LARGER * min(first.side, second.side):
            return None
        winner = max(first, second, key=lambda sign: sign.side)
        return LARGER_QUESTION.format(one=one, other=other), (winner.colour,), both
    if abs(first.centre[0] - second.centre[0]) < FURTHER * size[0]:
        return None
    winner = min(first, second, key=lambda sign: sign.centre[0])
    return LEFT_QUESTION.format(one=one, other=other), (winner.colour,), both


if not TYPE_CHECKING:
    __getattr__ = _renamed.names(__name__, sized="scene_in_bin")
