"""The pocket models from nothing: the stages in their order, each resumed or skipped if its file is there."""

import pathlib
from dataclasses import dataclass

import torch
from rich.progress import Progress
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from benchmarks.training import clip, instructblip, language, package, tower
from benchmarks.training.families import FAMILIES
from benchmarks.training.pool import BUCKETS, Pool, pool


@dataclass(frozen=True)
class Plan:
    """How long each stage is; 0 where a model has no such stage."""

    scenes: int
    tower_steps: int = 0
    align_steps: int = 0
    early_steps: int = 0
    language_steps: int = 0
    read_out_steps: int = 0
    contrast_steps: int = 0
    start: str | None = None
    """A folder with a trained pocket/llava, whose tower the other models' towers start from."""
    seed: int = 0


def train(name: str, plan: Plan, out: pathlib.Path, progress: Progress) -> pathlib.Path:
    """Run all stages of a model in the folder `out` and return the folder of the finished model."""
    out.mkdir(parents=True, exist_ok=True)
    if name == "clip":
        return _clip(plan, out, progress)
    start = None if plan.start is None else LlavaForConditionalGeneration.from_pretrained(plan.start).model.vision_tower
    trained = tower.train(name, out, progress, steps=plan.tower_steps, start=start, seed=plan.seed)
    vision = trained.vision.eval().requires_grad_(False)
    torch.manual_seed(plan.seed)
    if name == "instructblip":
        return _instructblip(plan, vision, out, progress)
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    model = family.model(tokenizer)
    family.vision(model).load_state_dict(vision.state_dict())
    pools = _pools(name, plan, vision, out, progress)
    if not (out / "language.pt").exists():
        language.align(family, model, tokenizer, pools, progress, steps=plan.align_steps, seed=plan.seed)
    lengths = {"steps": plan.language_steps, "early": plan.early_steps}
    language.train(family, model, tokenizer, pools, out, progress, **lengths, seed=plan.seed)
    processor = package.llava(tokenizer) if name == "llava" else package.qwen(tokenizer)
    return _saved(model, processor, out)


def _instructblip(plan: Plan, vision: torch.nn.Module, out: pathlib.Path, progress: Progress) -> pathlib.Path:
    tokenizer, reader = instructblip.tokenizers()
    processor = package.blip(tokenizer, reader)
    model = instructblip.model(tokenizer)
    model.vision_model.load_state_dict(vision.state_dict())
    (scenes,) = _pools("instructblip", plan, vision, out, progress)
    if not (out / "language.pt").exists():
        instructblip.align(model, tokenizer, scenes, progress, steps=plan.align_steps, seed=plan.seed)
    lengths = {"read_out": plan.read_out_steps, "early": plan.early_steps, "steps": plan.language_steps}
    instructblip.train(model, tokenizer, scenes, out, progress, **lengths, seed=plan.seed)
    return _saved(model, processor, out)


def _clip(plan: Plan, out: pathlib.Path, progress: Progress) -> pathlib.Path:
    torch.manual_seed(plan.seed)
    tokenizer = clip.tokenizer()
    model = clip.model(tokenizer)
    saved = out / "crops.pt"
    if not saved.exists():
        torch.save(clip.cuts(plan.scenes, plan.seed, progress), saved)
    clip.train(model, tokenizer, torch.load(saved), out, progress, steps=plan.contrast_steps, seed=plan.seed)
    package.write(model.eval(), package.clip(tokenizer), out / "model")
    return out / "model"


def _pools(name: str, plan: Plan, vision: torch.nn.Module, out: pathlib.Path, progress: Progress) -> list[Pool]:
    saved = out / "pools.pt"
    if not saved.exists():
        each = plan.scenes // len(BUCKETS[name])
        torch.save([pool(name, vision, bucket, each, plan.seed, progress) for bucket in BUCKETS[name]], saved)
    pools: list[Pool] = torch.load(saved, weights_only=False)
    return pools


def _saved(model: PreTrainedModel, processor: object, out: pathlib.Path) -> pathlib.Path:
    package.save(model, processor, out / "model")
    return out / "model"
