"""Scenes for the language model: each seen whole, and through windows that often, but not always, hold one sign."""

import dataclasses

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress

from attnlens.pocket import scenes
from attnlens.pocket.train import sheets, tower

SIZE = 400
WINDOWS = 3


@dataclasses.dataclass(frozen=True)
class Item:
    """A scene: its kind of background, its signs, and where its views lie (x1, y1, x2, y2); the first view is the
    whole image.

    `focus` is the index of the sign that the windows are about; `plain` says that every sign can be read in the whole
    image.
    """

    kind: str
    signs: tuple[scenes.Sign, ...]
    views: tuple[tuple[int, int, int, int], ...]
    focus: int
    plain: bool


def draw(rng: np.random.Generator, backgrounds: list[tuple[str, np.ndarray]]) -> tuple[Item, np.ndarray]:
    """A scene, and its views as the model gets them, uint8 [1 + WINDOWS, 80, 80, 3]."""
    kind, ground = backgrounds[rng.integers(len(backgrounds))]
    canvas = (ground[:, ::-1] if rng.random() < 0.5 else ground).copy()
    count = int(rng.integers(2, 6))
    plain = bool(rng.random() < 0.5)
    lengths = np.exp(rng.uniform(*np.log((0.12, 0.36) if plain else scenes.SIDES), size=count))
    if not plain:
        lengths[0] = rng.uniform(0.03, 0.09)
    signs = scenes.populate(rng, canvas, lengths * SIZE)
    focus = int(rng.integers(len(signs))) if plain else 0
    views = ((0, 0, SIZE, SIZE), *(window(rng, signs, focus) for _ in range(WINDOWS)))
    image = Image.fromarray(canvas)
    side = (sheets.SIDE, sheets.SIDE)
    seen = [np.asarray(image.crop(view).resize(side, Image.Resampling.BICUBIC)) for view in views]
    return Item(kind, signs, views, focus, plain), np.stack(seen)


def window(rng: np.random.Generator, signs: tuple[scenes.Sign, ...], focus: int) -> tuple[int, int, int, int]:
    """A square of the canvas, in whole pixels: around the sign `focus`, tight on it, a piece of it, around another
    one, anywhere,
    or all."""
    chance = rng.random()
    if chance < 0.08:
        return 0, 0, SIZE, SIZE
    side = round(float(rng.uniform(80, 200)))
    if chance < 0.22:
        x, y = rng.integers(0, SIZE - side + 1, size=2)
        return int(x), int(y), int(x) + side, int(y) + side
    chosen = signs[focus] if chance < 0.92 else signs[rng.integers(len(signs))]
    x1, y1, x2, y2 = chosen.box
    slack = abs(side - (x2 - x1)) / 2 + 0.1 * (x2 - x1)
    if chance < 0.40:
        side = max(16, round((x2 - x1) * rng.uniform(1.0, 2.5)))
        slack = (side - (x2 - x1)) / 2 + 0.1 * (x2 - x1)
    elif x2 - x1 > 64 and chance < 0.75:
        side = round(float(rng.uniform(80, 110)))
        slack = (x2 - x1) / 2
    x, y = (round(middle - side / 2 + rng.uniform(-slack, slack)) for middle in ((x1 + x2) / 2, (y1 + y2) / 2))
    side = min(side, SIZE)
    x, y = min(max(x, 0), SIZE - side), min(max(y, 0), SIZE - side)
    return x, y, x + side, y + side


def pool(
    count: int, seed: int, progress: Progress, split: str = "train", grounds: int = 800
) -> tuple[list[Item], torch.Tensor]:
    """`count` scenes of a split and their views, uint8 [count, 1 + WINDOWS, 80, 80, 3]."""
    rng = np.random.default_rng([seed, 2])
    backgrounds = []
    for _ in range(grounds):
        background = scenes.draw_background(rng, split)
        backgrounds.append((background.kind, scenes.render_background(rng, background, SIZE)))
    items, pixels = [], torch.empty(count, 1 + WINDOWS, sheets.SIDE, sheets.SIDE, 3, dtype=torch.uint8)
    for index in progress.track(range(count), description="scenes"):
        item, seen = draw(rng, backgrounds)
        items.append(item)
        pixels[index] = torch.from_numpy(seen)
    return items, pixels


@torch.no_grad()
def embed(clip: torch.nn.Module, pixels: torch.Tensor, progress: Progress, batch: int = 64) -> torch.Tensor:
    """The frozen tower's features of all views, float16 [count, views, 100, width]."""
    run = torch.compile(tower.features)
    count, views = pixels.shape[:2]
    flat = pixels.flatten(0, 1)
    out = torch.empty(count * views, sheets.CELLS**2, clip.config.hidden_size, dtype=torch.float16)
    for start in progress.track(range(0, count * views, batch), description="features"):
        part = flat[start : start + batch]
        out[start : start + batch] = run(clip, tower.normalise(part)).half()
    return out.unflatten(0, (count, views))


def legible(sign: scenes.Sign, view: tuple[int, int, int, int]) -> tuple[float, float]:
    """Through that view: the side of the sign in input pixels, and how much of the sign is inside."""
    x1, y1, x2, y2 = view
    a1, b1, a2, b2 = sign.box
    inside = max(0, min(a2, x2) - max(a1, x1)) * max(0, min(b2, y2) - max(b1, y1))
    return (a2 - a1) * sheets.SIDE / (x2 - x1), inside / ((a2 - a1) * (b2 - b1))
