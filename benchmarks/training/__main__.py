"""`python -m benchmarks.training llava --out DIR`: train a pocket model, with progress bars; an interrupted run goes
on."""

import argparse
import dataclasses
import pathlib

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attnlens import pocket
from benchmarks.training.plans import Plan, train

PLANS = {
    "llava": Plan(tower_steps=2450, scenes=7000, align_steps=150, early_steps=250, language_steps=1350),
    "instructblip": Plan(
        tower_steps=350, scenes=3000, align_steps=150, early_steps=200, language_steps=900, read_out_steps=500,
        start="pocket/llava",
    ),
    "qwen2_5_vl": Plan(
        tower_steps=1000, scenes=3500, align_steps=300, early_steps=250, language_steps=850, start="pocket/llava"
    ),
    "clip": Plan(scenes=2600, contrast_steps=1100),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("model", choices=list(PLANS), help="which pocket model to train")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder of the checkpoints; the model is in its folder `model`"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads that torch uses")
    parser.add_argument(
        "--start", help="a folder with a trained pocket/llava to start the tower from (default: the bundled one)"
    )
    lengths = [field.name for field in dataclasses.fields(Plan) if field.name != "start"]
    for name in lengths:
        defaults = ", ".join(f"{model} {getattr(plan, name)}" for model, plan in PLANS.items())
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"default: {defaults}")
    given = vars(parser.parse_args())
    torch.set_num_threads(given.pop("threads"))
    out, model = given.pop("out"), given.pop("model")
    plan = dataclasses.replace(PLANS[model], **{key: value for key, value in given.items() if value is not None})
    if plan.start == "pocket/llava":
        plan = dataclasses.replace(plan, start=str(pocket.path("llava")))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        folder = train(model, plan, out, progress)
    Console().print(f"The model is in {folder}")


if __name__ == "__main__":
    main()
