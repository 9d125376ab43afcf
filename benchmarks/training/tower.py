"""First stage: the vision tower alone learns to say, for every patch, which colour and which digit it shows."""

import pathlib

import torch
from rich.progress import Progress
from transformers import CLIPVisionModel

from benchmarks.training import practice, towers
from benchmarks.training.checkpointer import Keeper
from benchmarks.training.muon import Pair

PATCHES = 6400
"""Patches in a batch."""


class Tower(torch.nn.Module):
    """A vision tower, and two linear heads that are thrown away afterwards."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = towers.KINDS[kind]
        self.vision = self.kind.make()
        self.norm = torch.nn.LayerNorm(towers.WIDTH)
        self.colour = torch.nn.Linear(towers.WIDTH, practice.NO_COLOUR + 1)
        self.digit = torch.nn.Linear(towers.WIDTH, practice.NO_DIGIT + 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of colours [batch, patches, 9] and digits [batch, patches, 11] for pixels float32 [batch, 3, h, w]."""
        states = self.norm(self.kind.see(self.vision, pixels)[:, self.kind.leading :])
        return self.colour(states), self.digit(states)

    def heads(self) -> list[torch.nn.Module]:
        return [self.norm, self.colour, self.digit]


def losses(tower: Tower, pixels: torch.Tensor, colours: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    colour, digit = tower(towers.normalise(pixels))
    cross_entropy = torch.nn.functional.cross_entropy
    return cross_entropy(colour.flatten(0, 1), colours.flatten(), ignore_index=practice.IGNORED) + 2 * cross_entropy(
        digit.flatten(0, 1), digits.flatten(), ignore_index=practice.IGNORED
    )


@torch.no_grad()
def legibility(tower: Tower, seed: int = 0, count: int = 128) -> dict[str, float]:
    """Accuracy per patch on validation backgrounds: digits for several sizes of sign (input pixels), colours of tiny
    signs."""
    table = {}
    for low, high in ((2.4, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14), (14, 18), (18, 30), (30, 60)):
        mixes = (practice.Mix(1.0, (low, high), (80.0, 200.0) if low >= 6 else (300.0, 400.0)),)
        size = tower.kind.sizes[0]
        patches = count * size[0] * size[1] // practice.PATCH**2
        pixels, colours, digits = next(
            iter(practice.Sheets(((1, mixes),), patches, seed, "validation", sizes=(size,), backgrounds=40))
        )
        colour, digit = tower(towers.normalise(pixels))
        shown = (colours >= 0) & (colours < practice.NO_COLOUR)
        table[f"colour {low:g}-{high:g}"] = float((colour.argmax(-1) == colours)[shown].float().mean())
        shown = (digits >= 0) & (digits < practice.NO_DIGIT)
        if shown.any():
            table[f"digit {low:g}-{high:g}"] = float((digit[..., :10].argmax(-1) == digits)[shown].float().mean())
    return table


def train(
    kind: str,
    out: pathlib.Path,
    progress: Progress,
    *,
    steps: int,
    start: CLIPVisionModel | None = None,
    seed: int = 0,
    muon: float = 0.01,
    adam: float = 2e-3,
) -> Tower:
    """Train a tower, with a checkpoint every 500 steps and a table of legibility; resumes from `out / "tower.pt"`.

    A tower that begins with nothing meets large signs first, tiny ones last. With `start`, a trained CLIP tower, one of
    another kind begins with its weights, and with signs of all sizes.
    """
    torch.manual_seed(seed)
    tower = Tower(kind)
    if start is not None and tower.kind.transplant is not None:
        tower.kind.transplant(tower.vision, start)
    fresh = not (out / "tower.pt").exists()
    stages: tuple[tuple[int, tuple[practice.Mix, ...]], ...] = ((0, practice.ALL),)
    if start is None:
        shares = ((0.16, practice.BIG), (0.32, practice.MIDDLE), (0.83, practice.ALL))
        stages = (*((int(share * steps), mixes) for share, mixes in shares), (0, practice.TINY))
    elif fresh:
        _fit(tower, tower.heads(), _sheets(tower, stages, seed), 60, progress)
    pair = Pair([tower], steps, muon, adam)
    keeper = Keeper(out, "tower", tower, pair, progress, every=500)
    plan = tuple((until - pair.done, mixes) for until, mixes in stages)
    # With many shapes compiling takes longer than it saves.
    loss_of = torch.compile(losses) if len(tower.kind.sizes) == 1 else losses
    for pixels, colours, digits in _sheets(tower, plan, seed + pair.done):
        if pair.done >= steps:
            break
        loss = loss_of(tower, pixels, colours, digits)
        loss.backward()
        if keeper.step(loss):
            keeper.note(**{name: round(value, 3) for name, value in legibility(tower).items()})
    return tower


def _sheets(
    tower: Tower, plan: tuple[tuple[int, tuple[practice.Mix, ...]], ...], seed: int
) -> torch.utils.data.DataLoader:
    drawn = practice.Sheets(plan, PATCHES, seed, sizes=tower.kind.sizes, stretch=tower.kind.stretch, shows=3)
    return torch.utils.data.DataLoader(drawn, batch_size=None, num_workers=1, prefetch_factor=6)


def _fit(
    tower: Tower, heads: list[torch.nn.Module], data: torch.utils.data.DataLoader, steps: int, progress: Progress
) -> None:
    """The heads alone learn to read a tower that has been trained before."""
    tower.vision.requires_grad_(False)
    optimiser = torch.optim.Adam([p for head in heads for p in head.parameters()], 1e-2)
    for _, batch in zip(progress.track(range(steps), description="heads"), data, strict=False):
        loss = losses(tower, *batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    tower.vision.requires_grad_(True)
