"""`python -m attnlens.pocket.train llava --out DIR`: train a pocket model, with progress bars; an interrupted run goes
on."""

import argparse
import dataclasses
import pathlib

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attnlens.pocket.train import llava


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m attnlens.pocket.train", description=__doc__)
    parser.add_argument("model", choices=["llava"], help="which pocket model to train")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder of the checkpoints; the model is in its folder `model`"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads that torch uses")
    for field in dataclasses.fields(llava.Plan):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=int, default=field.default, help=f"default {field.default}"
        )
    given = vars(parser.parse_args())
    torch.set_num_threads(given.pop("threads"))
    out = given.pop("out")
    given.pop("model")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        folder = llava.train(out, llava.Plan(**given), progress)
    Console().print(f"The model is in {folder}")


if __name__ == "__main__":
    main()
