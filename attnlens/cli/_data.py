"""The commands for data sets: data make, data show."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from attnlens.cli._options import Json
from attnlens.cli._output import plain, print_json, print_table, progress

if TYPE_CHECKING:
    from attnlens.evaluate import Example

app = typer.Typer(no_args_is_help=True, help="Questions about images with boxes: make the benchmark, check a file.")


@app.command()
def make(
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The file to write.", show_default=False)],
    split: Annotated[
        str,
        typer.Option(
            "--split",
            "-s",
            help="train, validation or test, which share nothing; report and again are for reproduce.",
        ),
    ] = "test",
    bins: Annotated[
        list[str] | None,
        typer.Option(
            "--bins",
            "-b",
            metavar="BIN",
            help="Size of the target: small, medium, large, or high (small in a large image). Repeat for several; "
            "by default all.",
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            "-t",
            metavar="TASK",
            help="Kind of question: read, colour, exists, larger, left, describe. Repeat for several; by default all.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Examples of each bin and task.")] = 300,
    images: Annotated[
        bool,
        typer.Option(
            "--images",
            help="Write the images too, as PNG files beside OUT.json, for other programs; a few MB each for high.",
        ),
    ] = False,
) -> None:
    """Write the small-detail benchmark, or a part of it, as a JSON file.

    Entries have id, question, labels, image_path and bbox, the form in which the ViCrop authors publish their data. The
    images are scenes that attnlens paints again from their seeds, so none is stored unless you ask for it. The same
    command always gives the same benchmark.

    [bold]attnlens data make out/test.json[/]
    [bold]attnlens data make out/small/data.json --bins small --bins high --tasks read --count 50 --images[/]
    """
    from attnlens import evaluate
    from attnlens.pocket import scenes

    kinds = dict.fromkeys(itertools.product(bins or scenes.BINS, tasks or scenes.TASKS))
    examples = [
        example
        for bin_name, task in progress(kinds, "Laying out scenes")
        for example in evaluate.pocket_examples(split, [bin_name], [task], count)
    ]
    if images:
        evaluate.export(out, progress(examples, "Painting scenes"))
    else:
        evaluate.write(out, examples)
    Console().print(plain(f"{len(examples)} examples: {out}"), soft_wrap=True)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A JSON file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """What a data set holds: examples, boxes and sizes of target, by group and task.

    Every image file is opened, so a data set that is shown without an error can be used.

    [bold]attnlens data show out/test.json[/]
    [bold]attnlens data show my_data.json --json[/]
    """
    from attnlens import evaluate

    examples = evaluate.read(file)
    found: dict[tuple[str | None, str | None], list[float | None]] = {}
    for example in progress(examples, "Reading images"):
        found.setdefault((example.group, example.task), []).append(_area(example))
    rows = [_summary(group, task, areas) for (group, task), areas in found.items()]
    with_box = sum(example.box is not None for example in examples)
    if as_json:
        print_json(file=str(file), count=len(examples), with_box=with_box, groups=rows)
        return
    numbers, lines = ("examples", "with box", "box, % of the image"), []
    for row in rows:
        percent = "" if row["area"] is None else " to ".join(f"{100 * area:.3g}" for area in row["area"])
        shown = (row["group"] or "-", row["task"] or "-", str(row["count"]), str(row["with_box"]), percent)
        lines.append(shown)
    lines.append(("all", "", str(len(examples)), str(with_box), ""))
    print_table(("group", "task", *numbers), lines, right=numbers)


def _summary(group: str | None, task: str | None, areas: list[float | None]) -> dict[str, Any]:
    boxed = [area for area in areas if area is not None]
    extremes = [min(boxed), max(boxed)] if boxed else None
    return {"group": group, "task": task, "count": len(areas), "with_box": len(boxed), "area": extremes}


def _area(example: Example) -> float | None:
    """Area of the box inside the image over the area of the image; None without a box."""
    width, height = size = example.size()
    return None if example.box is None else example.box.clip(size).area / (width * height)
