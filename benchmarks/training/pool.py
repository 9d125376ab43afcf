"""Scenes for the language model: each seen whole, and through windows that often, but not always, hold one sign."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress

from attnlens.pocket import _scenery, _signs
from benchmarks.training import towers
from benchmarks.training.practice import PATCH, Size, Window

WINDOWS = 3
SIDES = (300.0, 700.0)
"""Square root of a scene's area, in pixels: from and to."""


@dataclass(frozen=True)
class Bucket:
    """Scenes that the model sees in one size, whole and through a crop; `aspects`: what their width / height may be."""

    whole: Size
    crop: Size
    aspects: tuple[float, float]
    square: bool = False
    """Whether the processor pads the whole to a square, as LLaVA's does."""


BUCKETS = {
    "llava": (Bucket((80, 80), (80, 80), (0.5, 2.0), square=True),),
    "instructblip": (Bucket((80, 80), (80, 80), (0.5, 2.0)),),
    "qwen2_5_vl": (
        Bucket((112, 112), (96, 96), (0.97, 1.03)),
        Bucket((112, 96), (112, 112), (1.03, 1.3)),
        Bucket((128, 80), (96, 96), (1.36, 1.7)),
        Bucket((144, 80), (112, 112), (1.7, 2.0)),
        Bucket((96, 112), (96, 96), (0.77, 0.97)),
        Bucket((80, 128), (112, 112), (0.59, 0.73)),
        Bucket((80, 144), (96, 96), (0.5, 0.59)),
    ),
}
"""What each model's processor makes of an image."""


@dataclass(frozen=True)
class View:
    """A window of the scene and the size in which the model gets it."""

    window: Window
    size: Size

    def legible(self, sign: _signs.Sign) -> tuple[float, float]:
        """The shorter side of the sign in input pixels, and how much of the sign is inside."""
        x1, y1, x2, y2 = self.window
        a1, b1, a2, b2 = sign.box
        inside = max(0, min(a2, x2) - max(a1, x1)) * max(0, min(b2, y2) - max(b1, y1))
        return sign.side * min(self.size[0] / (x2 - x1), self.size[1] / (y2 - y1)), inside / sign.side**2


@dataclass(frozen=True)
class Item:
    """A scene: its kind of background, its size, its signs, and its views, the first of which is the whole image.

    `focus` is the index of the sign that the windows are about; `plain` says that every sign can be read in the whole
    image.
    """

    kind: str
    size: tuple[int, int]
    signs: tuple[_signs.Sign, ...]
    views: tuple[View, ...]
    focus: int
    plain: bool


@dataclass(frozen=True)
class Pool:
    """The items of a bucket, and what the tower sees of their views, float16 [items, 1 + WINDOWS, tokens, width].

    Views of two sizes are padded to the larger number of tokens, of which the `leading` ones are no patches.
    """

    bucket: Bucket
    items: list[Item]
    features: torch.Tensor
    leading: int

    def seen(self, chosen: np.ndarray | torch.Tensor, views: int | torch.Tensor) -> torch.Tensor:
        """One view each of the chosen items, float32 [chosen, tokens, 128]."""
        width, height = self.bucket.whole if isinstance(views, int) and views == 0 else self.bucket.crop
        return self.features[chosen, views, : self.leading + width * height // PATCH**2].float()

    def some(self, count: int) -> torch.Tensor:
        """The whole images of the first `count` items, or of all there are."""
        return self.seen(np.arange(min(count, len(self.items))), 0)


def draw(
    rng: np.random.Generator, backgrounds: list[tuple[str, np.ndarray]], bucket: Bucket
) -> tuple[Item, list[np.ndarray]]:
    """A scene, and its views as the model gets them, uint8 [height, width, 3] each."""
    kind, ground = backgrounds[rng.integers(len(backgrounds))]
    canvas = (ground[:, ::-1] if rng.random() < 0.5 else ground).copy()
    size = (canvas.shape[1], canvas.shape[0])
    unit = (size[0] * size[1]) ** 0.5
    count = int(rng.integers(2, 6))
    plain = bool(rng.random() < 0.5)
    lengths = np.exp(rng.uniform(*np.log((0.13, 0.42) if plain else (0.03, 0.36)), size=count)) * unit
    if not plain:
        lengths[0] = max(14.0, np.exp(rng.uniform(*np.log((0.022, 0.1)))) * unit)
    shown = _signs.draw(rng, lengths, size)
    for sign in shown:
        _signs.paint(canvas, sign, rng)
    focus = int(rng.integers(len(shown))) if plain else 0
    views = (
        View(whole(size, bucket.square), bucket.whole),
        *(View(window(rng, shown, focus, size), bucket.crop) for _ in range(WINDOWS)),
    )
    image = Image.fromarray(canvas)
    return Item(kind, size, shown, views, focus, plain), [look(image, view) for view in views]


def whole(size: tuple[int, int], square: bool) -> Window:
    """All of an image, or the square around it."""
    if not square:
        return 0, 0, *size
    side = max(size)
    left, top = ((side - edge) // 2 for edge in size)
    return -left, -top, side - left, side - top


def look(image: Image.Image, view: View) -> np.ndarray:
    """A view as the processors make it: padded with CLIP's mean, resized, uint8 [height, width, 3]."""
    x1, y1, x2, y2 = (round(edge) for edge in view.window)
    if x1 < 0 or y1 < 0:
        padded = Image.new("RGB", (x2 - x1, y2 - y1), tuple(int(255 * value) for value in towers.MEAN))
        padded.paste(image, (-x1, -y1))
        return np.asarray(padded.resize(view.size, Image.Resampling.BICUBIC))
    return np.asarray(image.crop((x1, y1, x2, y2)).resize(view.size, Image.Resampling.BICUBIC))


def window(
    rng: np.random.Generator, shown: tuple[_signs.Sign, ...], focus: int, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A square of the canvas, in whole pixels: around the sign `focus`, tight on it, a piece of it, around another
    one, anywhere, or as large as there is."""
    chance = rng.random()
    most = min(size)
    side = most if chance < 0.08 else min(most, round(float(rng.uniform(80, 200))))
    if chance < 0.22:
        x, y = rng.integers(0, (size[0] - side + 1, size[1] - side + 1))
        return int(x), int(y), int(x) + side, int(y) + side
    chosen = shown[focus] if chance < 0.92 else shown[rng.integers(len(shown))]
    slack = abs(side - chosen.side) / 2 + 0.1 * chosen.side
    if chance < 0.40:
        side = max(16, round(chosen.side * rng.uniform(1.0, 2.5)))
        slack = (side - chosen.side) / 2 + 0.1 * chosen.side
    elif chosen.side > 64 and chance < 0.75:
        slack = chosen.side / 2
    side = min(side, most)
    x, y = (round(middle - side / 2 + rng.uniform(-slack, slack)) for middle in chosen.centre)
    x, y = (min(max(corner, 0), edge - side) for corner, edge in zip((x, y), size, strict=True))
    return x, y, x + side, y + side


@torch.no_grad()
def pool(
    kind: str, vision: torch.nn.Module, bucket: Bucket, count: int, seed: int, progress: Progress, grounds: int = 300
) -> Pool:
    """`count` training scenes of a bucket and what the frozen tower sees of their views."""
    rng = np.random.default_rng([seed, 2, *bucket.whole])
    backgrounds = []
    for _ in range(min(grounds, count)):
        aspect = float(np.exp(rng.uniform(*np.log(bucket.aspects))))
        unit = float(np.exp(rng.uniform(*np.log(SIDES))))
        size = (round(unit * aspect**0.5), round(unit / aspect**0.5))
        background = _scenery.draw(rng, "train", aspect)
        backgrounds.append((background.kind, _scenery.render(rng, background, size)))
    tower = towers.KINDS[kind]
    most = tower.leading + max(size[0] * size[1] for size in (bucket.whole, bucket.crop)) // PATCH**2
    items: list[Item] = []
    features = torch.zeros(count, 1 + WINDOWS, most, towers.WIDTH, dtype=torch.float16)
    batch: list[list[np.ndarray]] = []
    for index in progress.track(range(count), description="scenes"):
        item, seen = draw(rng, backgrounds, bucket)
        items.append(item)
        batch.append(seen)
        if len(batch) < 16 and index < count - 1:
            continue
        at = slice(index + 1 - len(batch), index + 1)
        first = tower.see(vision, towers.normalise(torch.from_numpy(np.stack([views[0] for views in batch]))))
        features[at, 0, : first.shape[1]] = first.half()
        others = tower.see(
            vision, towers.normalise(torch.from_numpy(np.stack([view for views in batch for view in views[1:]])))
        )
        features[at, 1:, : others.shape[1]] = others.unflatten(0, (len(batch), WINDOWS)).half()
        batch = []
    return Pool(bucket, items, features, tower.leading)
