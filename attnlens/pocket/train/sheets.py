"""Practice sheets for the vision tower: small images crowded with signs, and what every patch of them shows."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from attnlens.pocket import scenes

SIDE, PATCH = 80, 8
CELLS = SIDE // PATCH
IGNORED = -100
COLOUR_NAMES = list(scenes.COLOURS)
NO_COLOUR, NO_DIGIT = len(COLOUR_NAMES), 10


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


def bank(count: int, seed: int, split: str) -> list[np.ndarray]:
    """`count` backgrounds of a split, uint8 [400, 400, 3], to cut sheets from."""
    rng = np.random.default_rng([seed, scenes.SPLITS.index(split)])
    return [scenes.render_background(rng, scenes.draw_background(rng, split), 400) for _ in range(count)]


def sheet(
    rng: np.random.Generator, backgrounds: list[np.ndarray], mixes: tuple[Mix, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sheet: pixels uint8 [80, 80, 3], and the colour and the digit of each patch, int64 [100] (see `labels`)."""
    weights = np.array([mix.weight for mix in mixes])
    mix = mixes[rng.choice(len(mixes), p=weights / weights.sum())]
    window = round(float(np.exp(rng.uniform(*np.log(mix.window)))))
    margin = window // 8
    size = window + 2 * margin
    canvas = _ground(rng, backgrounds, size)
    ratio = window / SIDE
    sides = np.exp(rng.uniform(*np.log(mix.signs), size=16))
    # As many as cover a third of the sheet, or fewer.
    count = int(np.searchsorted(np.cumsum(sides**2), rng.uniform(0.1, 0.55) * SIDE**2)) + 1
    lengths = [max(8, round(side * ratio)) for side in sides[:count]]
    signs = []
    for box in scenes.place(rng, lengths, size, tries=40):
        sign = scenes.Sign(COLOUR_NAMES[rng.integers(NO_COLOUR)], str(rng.integers(10)), box)
        scenes.paint(canvas, sign, rng)
        signs.append(sign)
    image = Image.fromarray(canvas).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC, box=(margin, margin, margin + window, margin + window)
    )
    return np.asarray(image), *labels(signs, (margin, margin, margin + window, margin + window))


def _ground(rng: np.random.Generator, backgrounds: list[np.ndarray], size: int) -> np.ndarray:
    whole = backgrounds[rng.integers(len(backgrounds))]
    if size > whole.shape[0]:
        whole = np.pad(whole, ((0, size - whole.shape[0]),) * 2 + ((0, 0),), mode="reflect")
    y, x = rng.integers(0, whole.shape[0] - size + 1, size=2)
    part = whole[y : y + size, x : x + size]
    return part[:, ::-1].copy() if rng.random() < 0.5 else part.copy()


def labels(signs: list[scenes.Sign], window: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The colour and the digit that each patch of a window shows, int64 [100] each; `window` is in the signs' pixels.

    A patch shows a sign that covers 0.3 of it, or that has 0.3 of itself in it. Patches that show less of one are
    `IGNORED`;
    so are the digits of signs that are cut by the window or under 5 input pixels.
    """
    x1, y1, x2, y2 = window
    fx, fy = SIDE / (x2 - x1), SIDE / (y2 - y1)
    edges = np.arange(CELLS) * float(PATCH)
    colour, digit = np.full((CELLS, CELLS), NO_COLOUR), np.full((CELLS, CELLS), NO_DIGIT)
    best = np.zeros((CELLS, CELLS))
    for sign in signs:
        left, right = (sign.box[0] - x1) * fx, (sign.box[2] - x1) * fx
        top, bottom = (sign.box[1] - y1) * fy, (sign.box[3] - y1) * fy
        across = np.clip(np.minimum(right, edges + PATCH) - np.maximum(left, edges), 0, None)
        down = np.clip(np.minimum(bottom, edges + PATCH) - np.maximum(top, edges), 0, None)
        area = (right - left) * (bottom - top)
        part = np.outer(down, across) / min(area, PATCH**2)
        seen = max(0.0, min(right, SIDE) - max(left, 0)) * max(0.0, min(bottom, SIDE) - max(top, 0)) / area
        shown = (part >= 0.3) & (part > best)
        faint = (part > 0.02) & (part < 0.3) & (best < 0.3)
        colour[faint], digit[faint] = IGNORED, IGNORED
        colour[shown] = COLOUR_NAMES.index(sign.colour)
        digit[shown] = int(sign.digit) if seen > 0.8 and right - left >= 5 else IGNORED
        best = np.maximum(best, part)
    return colour.ravel(), digit.ravel()


class Sheets(torch.utils.data.IterableDataset):
    """Endless batches of sheets: pixels uint8 [batch, 80, 80, 3], colours and digits int64 [batch, 100].

    `plan` says which mix is used up to which batch: ((batches, mixes), ...), the last one for ever. Drawing is slower
    than
    learning, so a sheet is shown about `shows` times, over some hundred batches.
    """

    def __init__(
        self,
        plan: tuple[tuple[int, tuple[Mix, ...]], ...],
        batch: int,
        seed: int,
        split: str = "train",
        backgrounds: int = 500,
        shows: int = 1,
    ) -> None:
        self.plan, self.batch, self.seed, self.split = plan, batch, seed, split
        self.backgrounds, self.fresh = backgrounds, -(-batch // shows)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        rng = np.random.default_rng([self.seed, 1])
        backgrounds = bank(self.backgrounds, self.seed, self.split)
        kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        now = None
        done = 0
        while True:
            mixes = next((mixes for until, mixes in self.plan if done < until), self.plan[-1][1])
            if mixes is not now:
                kept, now = [], mixes
            fresh = self.fresh if len(kept) >= 8 * self.batch else self.batch
            batch = [sheet(rng, backgrounds, mixes) for _ in range(fresh)]
            batch += [kept[index] for index in rng.integers(len(kept), size=self.batch - fresh)] if kept else []
            kept = (kept + batch[:fresh])[-100 * self.batch :]
            yield [torch.from_numpy(np.stack(part)) for part in zip(*batch, strict=True)]
            done += 1
