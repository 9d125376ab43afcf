"""First stage: the CLIP tower alone learns to say, for every patch, which colour and which digit it shows."""

import json
import pathlib
import time

import torch
from rich.progress import Progress
from transformers import CLIPVisionConfig, CLIPVisionModel

from attnlens.pocket.train import sheets
from attnlens.pocket.train.muon import Pair

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=sheets.SIDE,
        patch_size=sheets.PATCH,
    )


class Tower(torch.nn.Module):
    """The tower, and two linear heads that are thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = CLIPVisionModel(config())
        width = self.clip.config.hidden_size
        self.norm = torch.nn.LayerNorm(width)
        self.colour = torch.nn.Linear(width, sheets.NO_COLOUR + 1)
        self.digit = torch.nn.Linear(width, sheets.NO_DIGIT + 1)
        embeddings = vision(self.clip).embeddings
        with torch.no_grad():
            embeddings.position_embedding.weight.copy_(sin_cos(sheets.CELLS, width))
            torch.nn.init.normal_(embeddings.patch_embedding.weight, std=(3 * sheets.PATCH**2) ** -0.5)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of colours [batch, 100, 9] and digits [batch, 100, 11] for pixels float32 [batch, 3, 80, 80]."""
        states = self.norm(features(self.clip, pixels))
        return self.colour(states), self.digit(states)


def vision(clip: CLIPVisionModel) -> torch.nn.Module:
    """The transformer inside; transformers has moved it between versions."""
    return getattr(clip, "vision_model", clip)


def features(clip: CLIPVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """What LLaVA reads of the tower: the patches' states after the last layer, [batch, 100, 128]."""
    return clip(pixels).last_hidden_state[:, 1:]


def sin_cos(cells: int, width: int) -> torch.Tensor:
    """2-D sine and cosine position embeddings with a zero row for the class token first, [1 + cells * cells, width]."""
    frequency = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(cells)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    plane = torch.cat([line[:, None].expand(cells, cells, -1), line[None].expand(cells, cells, -1)], dim=2)
    return 0.5 * torch.cat([torch.zeros(1, width), plane.reshape(cells * cells, width)])


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [batch, 80, 80, 3] to what CLIP's processor makes of it, float32 [batch, 3, 80, 80]."""
    mean, std = torch.tensor(MEAN) * 255, torch.tensor(STD) * 255
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def losses(tower: Tower, pixels: torch.Tensor, colours: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    colour, digit = tower(normalise(pixels))
    cross_entropy = torch.nn.functional.cross_entropy
    return cross_entropy(colour.flatten(0, 1), colours.flatten(), ignore_index=sheets.IGNORED) + 2 * cross_entropy(
        digit.flatten(0, 1), digits.flatten(), ignore_index=sheets.IGNORED
    )


@torch.no_grad()
def legibility(tower: Tower, seed: int = 0, count: int = 384) -> dict[str, float]:
    """Accuracy per patch on validation backgrounds: digits for several sizes of sign (input pixels), colours of tiny
    signs."""
    table = {}
    for low, high in ((2.4, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14), (14, 18), (18, 30), (30, 60)):
        mixes = (sheets.Mix(1.0, (low, high), (80.0, 200.0) if low >= 6 else (300.0, 400.0)),)
        pixels, colours, digits = next(iter(sheets.Sheets(((1, mixes),), count, seed, "validation", 40)))
        colour, digit = tower(normalise(pixels))
        shown = (colours >= 0) & (colours < sheets.NO_COLOUR)
        table[f"colour {low:g}-{high:g}"] = float((colour.argmax(-1) == colours)[shown].float().mean())
        shown = (digits >= 0) & (digits < sheets.NO_DIGIT)
        if shown.any():
            table[f"digit {low:g}-{high:g}"] = float((digit[..., :10].argmax(-1) == digits)[shown].float().mean())
    return table


def train(
    out: pathlib.Path,
    progress: Progress,
    *,
    steps: int,
    batch: int = 64,
    seed: int = 0,
    muon: float = 0.01,
    adam: float = 2e-3,
) -> Tower:
    """Train a tower, with a checkpoint and a table of legibility every 500 steps; resumes from `out / "tower.pt"`."""
    torch.manual_seed(seed)
    tower = Tower()
    pair = Pair([tower], steps, muon, adam)
    saved = out / "tower.pt"
    seconds = 0.0
    if saved.exists():
        state = torch.load(saved)
        tower.load_state_dict(state["tower"])
        pair.load_state_dict(state["pair"])
        seconds = state["seconds"]
    plan = (
        (int(0.18 * steps) - pair.done, sheets.BIG),
        (int(0.36 * steps) - pair.done, sheets.MIDDLE),
        (0, sheets.ALL),
    )
    data = torch.utils.data.DataLoader(
        sheets.Sheets(plan, batch, seed + pair.done, shows=3), batch_size=None, num_workers=1, prefetch_factor=6
    )
    compiled = torch.compile(losses)
    bar = progress.add_task("vision tower", total=steps, completed=pair.done)
    last = time.perf_counter()
    for pixels, colours, digits in data:
        if pair.done >= steps:
            break
        loss = compiled(tower, pixels, colours, digits)
        loss.backward()
        pair.step()
        progress.update(bar, advance=1, description=f"vision tower, loss {loss.item():.3f}")
        if pair.done % 50 == 0:
            now = time.perf_counter()
            seconds, last = seconds + now - last, now
            with (out / "tower.jsonl").open("a") as log:
                log.write(
                    json.dumps({"step": pair.done, "loss": round(loss.item(), 4), "seconds": round(seconds)}) + "\n"
                )
        if pair.done % 500 == 0 or pair.done == steps:
            torch.save({"tower": tower.state_dict(), "pair": pair.state_dict(), "seconds": seconds}, saved)
            with (out / "tower.jsonl").open("a") as log:
                log.write(
                    json.dumps(
                        {"step": pair.done, **{name: round(value, 3) for name, value in legibility(tower).items()}}
                    )
                    + "\n"
                )
    return tower
