"""Practice sheets for the vision tower: small images crowded with signs, and what every patch of them shows."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from attnlens.pocket import _scenery, _signs

PATCH = 8
IGNORED = -100
COLOUR_NAMES = list(_signs.COLOURS)
NO_COLOUR, NO_DIGIT = len(COLOUR_NAMES), 10

Window = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in a scene's pixels; it may reach beyond the scene, where the model's processor pads."""
Size = tuple[int, int]
"""(width, height) in input pixels: what the vision tower is given."""


@dataclasses.dataclass(frozen=True)
class Mix:
    """A kind of sheet: how often, sides of its signs and of the window that is cut (in input and in canvas pixels)."""

    weight: float
    signs: tuple[float, float]
    window: tuple[float, float] = (80.0, 400.0)


BIG = (Mix(1.0, (26.0, 60.0)),)
MIDDLE = (Mix(0.7, (12.0, 30.0)), Mix(0.3, (24.0, 60.0)))
ALL = (
    Mix(0.45, (7.0, 18.0), (80.0, 240.0)),
    Mix(0.27, (2.3, 30.0), (160.0, 400.0)),
    Mix(0.16, (16.0, 72.0)),
    Mix(0.12, (24.0, 78.0), (16.0, 80.0)),
)
TINY = (
    Mix(0.40, (1.6, 10.0), (160.0, 400.0)),
    Mix(0.30, (6.0, 14.0), (80.0, 240.0)),
    Mix(0.18, (14.0, 72.0)),
    Mix(0.12, (24.0, 78.0), (16.0, 80.0)),
)


def bank(count: int, seed: int, split: str) -> list[np.ndarray]:
    """`count` backgrounds of a split, uint8 [400, 400, 3], to cut sheets from."""
    rng = np.random.default_rng([seed, _scenery.SPLITS.index(split)])
    return [_scenery.render(rng, _scenery.draw(rng, split), (400, 400)) for _ in range(count)]


def sheet(
    rng: np.random.Generator, backgrounds: list[np.ndarray], mixes: tuple[Mix, ...], size: Size, stretch: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sheet: pixels uint8 [height, width, 3], and the colour and the digit of each patch, int64 (see `labels`).

    What is shown is up to `stretch` times wider, or higher, than it was.
    """
    weights = np.array([mix.weight for mix in mixes])
    mix = mixes[rng.choice(len(mixes), p=weights / weights.sum())]
    scale = float(np.exp(rng.uniform(*np.log(mix.window)))) / 80
    bend = stretch ** rng.uniform(-0.5, 0.5)
    across, down = (max(8, round(edge * scale * part)) for edge, part in zip(size, (bend, 1 / bend), strict=True))
    margin = max(across, down) // 8
    canvas = _ground(rng, backgrounds, (across + 2 * margin, down + 2 * margin))
    sides = np.exp(rng.uniform(*np.log(mix.signs), size=40))
    # As many as cover a third of the sheet, or fewer.
    count = int(np.searchsorted(np.cumsum(sides**2), rng.uniform(0.1, 0.55) * size[0] * size[1])) + 1
    lengths = [max(8, round(side * scale)) for side in sides[:count]]
    drawn = []
    for box in _signs.place(rng, lengths, (across + 2 * margin, down + 2 * margin), tries=40):
        sign = _signs.Sign(COLOUR_NAMES[rng.integers(NO_COLOUR)], str(rng.integers(10)), box)
        _signs.paint(canvas, sign, rng)
        drawn.append(sign)
    window = (margin, margin, margin + across, margin + down)
    image = Image.fromarray(canvas).resize(size, Image.Resampling.BICUBIC, box=window)
    return np.asarray(image), *labels(drawn, window, size)


def _ground(rng: np.random.Generator, backgrounds: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    whole = backgrounds[rng.integers(len(backgrounds))]
    rows, cols, _ = whole.shape
    if size[0] > cols or size[1] > rows:
        whole = np.pad(whole, ((0, max(0, size[1] - rows)), (0, max(0, size[0] - cols)), (0, 0)), mode="reflect")
    y, x = rng.integers(0, (whole.shape[0] - size[1] + 1, whole.shape[1] - size[0] + 1))
    part = whole[y : y + size[1], x : x + size[0]]
    return part[:, ::-1].copy() if rng.random() < 0.5 else part.copy()


def labels(
    shown: Sequence[_signs.Sign], window: Window, size: Size, patch: int = PATCH
) -> tuple[np.ndarray, np.ndarray]:
    """The colour and the digit that each patch of a window shows, int64 [rows * cols] each.

    A patch shows a sign that covers 0.3 of it, or that has 0.3 of itself in it. Patches that show less of one are
    `IGNORED`; so are the digits of signs that are cut by the window or under 5 input pixels.
    """
    x1, y1, x2, y2 = window
    width, height = size
    fx, fy = width / (x2 - x1), height / (y2 - y1)
    columns, rows = (np.arange(edge // patch) * float(patch) for edge in size)
    colour, digit = np.full((len(rows), len(columns)), NO_COLOUR), np.full((len(rows), len(columns)), NO_DIGIT)
    best = np.zeros((len(rows), len(columns)))
    for sign in shown:
        left, right = (sign.box[0] - x1) * fx, (sign.box[2] - x1) * fx
        top, bottom = (sign.box[1] - y1) * fy, (sign.box[3] - y1) * fy
        across = np.clip(np.minimum(right, columns + patch) - np.maximum(left, columns), 0, None)
        down = np.clip(np.minimum(bottom, rows + patch) - np.maximum(top, rows), 0, None)
        area = (right - left) * (bottom - top)
        part = np.outer(down, across) / min(area, patch**2)
        seen = max(0.0, min(right, width) - max(left, 0)) * max(0.0, min(bottom, height) - max(top, 0)) / area
        shows = (part >= 0.3) & (part > best)
        faint = (part > 0.02) & (part < 0.3) & (best < 0.3)
        colour[faint], digit[faint] = IGNORED, IGNORED
        colour[shows] = COLOUR_NAMES.index(sign.colour)
        digit[shows] = int(sign.digit) if seen > 0.8 and min(right - left, bottom - top) >= 5 else IGNORED
        best = np.maximum(best, part)
    return colour.ravel(), digit.ravel()


class Sheets(torch.utils.data.IterableDataset):
    """Endless batches of sheets: pixels uint8 [batch, height, width, 3], colours and digits int64 [batch, patches].

    `plan` says which mix is used up to which batch: ((batches, mixes), ...), the last one for ever. The batches take
    turns in `sizes`, with as many sheets as make `patches` patches. Drawing is slower than learning, so a sheet is
    shown about `shows` times, over some hundred batches.
    """

    def __init__(
        self,
        plan: tuple[tuple[int, tuple[Mix, ...]], ...],
        patches: int,
        seed: int,
        split: str = "train",
        *,
        sizes: tuple[Size, ...] = ((80, 80),),
        stretch: float = 1.0,
        backgrounds: int = 500,
        shows: int = 1,
    ) -> None:
        self.plan, self.patches, self.seed, self.split = plan, patches, seed, split
        self.sizes, self.stretch, self.backgrounds, self.shows = sizes, stretch, backgrounds, shows

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        rng = np.random.default_rng([self.seed, 1])
        backgrounds = bank(self.backgrounds, self.seed, self.split)
        kept: dict[Size, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {size: [] for size in self.sizes}
        now = None
        done = 0
        while True:
            mixes = next((mixes for until, mixes in self.plan if done < until), self.plan[-1][1])
            if mixes is not now:
                kept, now = {size: [] for size in self.sizes}, mixes
            size = self.sizes[done % len(self.sizes)]
            old = kept[size]
            count = self.patches * PATCH**2 // (size[0] * size[1])
            fresh = -(-count // self.shows) if len(old) >= 8 * count else count
            batch = [sheet(rng, backgrounds, mixes, size, self.stretch) for _ in range(fresh)]
            batch += [old[index] for index in rng.integers(len(old), size=count - fresh)] if old else []
            kept[size] = (old + batch[:fresh])[-100 * count // len(self.sizes) :]
            yield [torch.from_numpy(np.stack(part)) for part in zip(*batch, strict=True)]
            done += 1
