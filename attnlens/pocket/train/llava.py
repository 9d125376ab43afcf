"""`pocket/llava` from nothing: the stages in their order, each resumed or skipped if its file is there."""

import dataclasses
import pathlib

import torch
from rich.progress import Progress

from attnlens.pocket.train import language, package, pool, tower, words


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long each stage is. The defaults make a model like the packaged one in one go (see its README.md)."""

    tower_steps: int = 2200
    scenes: int = 4500
    align_steps: int = 150
    early_steps: int = 250
    language_steps: int = 800
    seed: int = 0


def train(out: pathlib.Path, plan: Plan, progress: Progress) -> pathlib.Path:
    """Run all stages in the folder `out` and return the folder of the finished model."""
    out.mkdir(parents=True, exist_ok=True)
    trained = tower.train(out, progress, steps=plan.tower_steps, seed=plan.seed)
    items, pixels = _scenes(out, plan, progress)
    clip = trained.clip.eval().requires_grad_(False)
    features = pool.embed(clip, pixels, progress)
    tokenizer = words.tokenizer()
    torch.manual_seed(plan.seed)
    llava = language.model(tokenizer)
    package.transplant(trained, llava)
    if not (out / "language.pt").exists():
        language.align(llava, tokenizer, items, features, progress, steps=plan.align_steps, seed=plan.seed)
    length = {"steps": plan.language_steps, "early": plan.early_steps}
    language.train(llava, tokenizer, items, features, out, progress, **length, seed=plan.seed)
    package.save(llava, tokenizer, out / "model")
    return out / "model"


def _scenes(out: pathlib.Path, plan: Plan, progress: Progress) -> tuple[list[pool.Item], torch.Tensor]:
    saved = out / "scenes.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=False)
        return state["items"], state["pixels"]
    items, pixels = pool.pool(plan.scenes, plan.seed, progress)
    torch.save({"items": items, "pixels": pixels}, saved)
    return items, pixels
