"""The command `layers`: which layer of a model looks where the answer is, and an adapter that reads that one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import TimeRemainingColumn

from attnlens.cli._options import DEFAULT_MODEL, Adapter, Device, Dtype, Force, Json, Model, loaded, loads_a_model
from attnlens.cli._output import bars, plain, print_json, print_table, quietly
from attnlens.errors import AttnLensError

if TYPE_CHECKING:
    from PIL import Image

    from attnlens.adapters import AdapterSpec
    from attnlens.analysis import Ranking, Row
    from attnlens.evaluate import Example
    from attnlens.lens import Lens

By = Literal["ratio", "crops"]
BINS = ("small", "medium")
TASKS = ("read",)
"""Of the pocket scenes: targets small enough that where the model looks matters, and large enough to be noticed."""
MOST_HEADS = 20
"""In the table; --json has all."""


@loads_a_model
def layers(
    model: Model = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            metavar="FILE|SPLIT",
            help="A JSON file of questions with boxes, or a split of the pocket scenes: train, validation, test. "
            "Choose on other data than you report on.",
        ),
    ] = "validation",
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="How many examples at most, evenly spaced in the data.")
    ] = 200,
    answers: Annotated[
        bool, typer.Option("--answers", help="Ask the questions too, and tell right from wrong answers.")
    ] = False,
    heads: Annotated[bool, typer.Option("--heads", help="Rank the heads of the language model, too.")] = False,
    adapter: Adapter = None,
    by: Annotated[
        By, typer.Option("--by", help="What the best is chosen by: its ratio, or the crops that hold the target.")
    ] = "ratio",
    write: Annotated[
        Path | None,
        typer.Option("--write", "-w", metavar="FILE.yaml", help="Write the adapter, with the best layer as default."),
    ] = None,
    force: Force = False,
    save: Annotated[
        Path | None, typer.Option("--save", "-o", metavar="FILE.png", help="Chart of the ratio over the layers.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Rank a model's layers by how much they look at the answer, on questions whose answer has a box.

    The [bold]ratio[/] of a layer is its relative attention inside the box over that inside a box of the same size
    anywhere in the image: 1 is chance, 10 means ten times as much. Shown is its mean over the examples with a 95 %
    interval; [bold]covered[/] is how often the crop that the layer leads to holds at least half of the target. "mean"
    is the mean map of all layers. The highest ratio does not always make the best crops: --by says which of the two
    counts. --write puts the best map into an adapter, which --adapter then uses; a chart, --save, needs the extra plot.

    [bold]attnlens layers[/]
    [bold]attnlens layers --model my_model --data my_boxes.json --answers --save layers.png[/]
    [bold]attnlens layers --model my_model --data my_boxes.json --write my_model.yaml[/]
    [bold]attnlens look street.jpg "What does the sign say?" --model my_model --adapter my_model.yaml[/]
    """
    from attnlens import show
    from attnlens.adapters import _writing

    target = None if write is None else _writing.checked_target(write, force)
    picture = None if save is None else show.writable(save)
    if picture is not None:
        from attnlens.show import _charts

        _charts.available()
    examples, source = _examples(data, count)
    model = model or DEFAULT_MODEL
    with quietly():
        lens = loaded(model, adapter, device, dtype, **options)
        ranking = _ranked(lens, examples, heads, answers)
        if picture is not None:
            show.save(_chart(ranking, model), picture)
    best = ranking.best(by)
    if target is not None:
        _writing.write_defaults(
            _source(lens, model, adapter), target, _defaults(ranking, by), _reason(best, ranking, source, by), force
        )
    if as_json:
        print_json(
            model=model,
            data=data,
            examples=ranking.count,
            best=_plain(best, answers),
            candidates=[_plain(row, answers) for row in ranking.rows()],
            adapter=None if target is None else str(target),
            picture=None if picture is None else str(picture),
        )
        return
    _print(ranking, best, answers, source)
    for name, path in (("adapter", target), ("picture", picture)):
        if path is not None:
            Console().print(plain(f"{name}: {path}"), soft_wrap=True)


def _examples(data: str, count: int) -> tuple[list[Example], str]:
    """Those with a box, and where they come from, in words that hold on any machine."""
    from attnlens import evaluate
    from attnlens.pocket._scenery import CHOICE, SPLITS

    if data in CHOICE:
        known = evaluate.pocket_examples(data, BINS, TASKS, math.ceil(count / len(BINS) / len(TASKS)))
        source = f"pocket {data} scenes ({', '.join(BINS)}; {', '.join(TASKS)})"
    elif "/" in data or data.endswith(".json") or Path(data).exists():
        known, source = evaluate.read(data), Path(data).name
    elif data in SPLITS:
        raise AttnLensError(
            f"The scenes of the split {data!r} are for the report alone, so that no choice is made with an eye on it. "
            f"Choose on one of {', '.join(CHOICE)}."
        )
    else:
        raise AttnLensError(
            f"There is no data set {data!r}. Expected a JSON file, or a split of the pocket scenes: "
            f"{', '.join(CHOICE)}."
        )
    boxed = evaluate.with_boxes(known, "ranking layers by attention ratio")
    if len(boxed) < len(known):
        note = f"{len(known) - len(boxed)} of {len(known)} examples have no box and are left out."
        Console(stderr=True).print(plain(note, style="yellow"), soft_wrap=True)
    taken = min(count, len(boxed))
    return [boxed[index * len(boxed) // taken] for index in range(taken)], source


def _ranked(lens: Lens, examples: Sequence[Example], heads: bool, answers: bool) -> Ranking:
    from attnlens.analysis import rank
    from attnlens.evaluate import is_correct

    with bars(TimeRemainingColumn()) as bar:
        task = bar.add_task("Looking", total=len(examples))
        return rank(
            lens,
            examples,
            heads=heads,
            right=is_correct if answers else None,
            progress=lambda done: bar.update(task, completed=done),
        )


def _source(lens: Lens, model: str, adapter: str | None) -> str | Path | AdapterSpec:
    """Where the adapter came from that the model was loaded with."""
    from attnlens import adapters, pocket
    from attnlens.lens._loading import ADAPTER_FILE

    if adapter is not None:
        return adapter
    folder = pocket.path(model.removeprefix("pocket/")) if model.startswith("pocket/") else Path(model)
    own = folder / ADAPTER_FILE
    if own.is_file():
        return own
    known = adapters.available().get(lens.adapter.name)
    return known if known is not None and adapters.find(known) == lens.adapter else lens.adapter


def _defaults(ranking: Ranking, by: By) -> dict[str, int | str]:
    found: dict[str, int | str] = {"layer": ranking.best_layer(by), "layers": ranking.depth}
    through = ranking.best_connector_layer(by)
    return found if through is None else found | {"connector_layer": through}


def _reason(best: Row, ranking: Ranking, source: str, by: By) -> str:
    """Why this layer is the default, for whoever reads the adapter."""
    maps = sum(candidate.head is None for candidate in ranking.candidates)
    word = "example" if ranking.count == 1 else "examples"
    if by == "crops":
        why = f"of {maps} maps its crops hold the target most often, in {100 * best.covered:.0f} %"
    else:
        why = f"the highest attention ratio of {maps} maps, {_interval(best.ratio, best.interval)}"
    counted = "" if best.candidate.layer == "mean" else "0-based: "
    return f"{counted}{why}, on {ranking.count} {word} of {source}"


def _chart(ranking: Ranking, model: str) -> Image.Image:
    """A panel for each connector layer, right and wrong answers apart where they are known."""
    from attnlens.show import _charts

    panels: dict[str, dict[int, Row]] = {}
    for row in ranking.rows():
        layer, through, head = row.candidate
        if head is None and layer != "mean":
            title = model if through is None else f"connector layer {through}"
            panels.setdefault(title, {})[layer] = row
    nothing = (math.nan, math.nan, math.nan)

    def series(name: str, points: dict[int, tuple[float, float, float]]) -> Any:
        return _charts.Series(name, *zip(*(points.get(layer, nothing) for layer in range(ranking.depth)), strict=True))

    def drawn(rows: dict[int, Row]) -> list[Any]:
        if ranking.right is None:
            return [series("all examples", {layer: (row.ratio, *row.interval) for layer, row in rows.items()})]
        return [
            series("right answers", {layer: (row.right, *row.right_interval) for layer, row in rows.items()}),
            series("wrong answers", {layer: (row.wrong, *row.wrong_interval) for layer, row in rows.items()}),
        ]

    return _charts.layers_chart({title: drawn(rows) for title, rows in panels.items()})


def _plain(row: Row, answers: bool) -> dict[str, Any]:
    """A row for JSON, which has no NaN."""
    layer, through, head = row.candidate
    split: dict[str, Any] = {}
    if answers:
        split = {
            "right": _number(row.right),
            "right_interval": [_number(edge) for edge in row.right_interval],
            "wrong": _number(row.wrong),
            "wrong_interval": [_number(edge) for edge in row.wrong_interval],
        }
    return {
        "layer": layer,
        "connector_layer": through,
        "head": head,
        "ratio": _number(row.ratio),
        "interval": [_number(edge) for edge in row.interval],
        "crop_holds": _number(row.covered),
    } | split


def _number(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _print(ranking: Ranking, best: Row, answers: bool, source: str) -> None:
    rows = [row for row in ranking.rows() if row.candidate.head is None]
    single = [row for row in ranking.rows() if row.candidate.head is not None and math.isfinite(row.ratio)]
    console = Console()
    console.print(plain(f"{ranking.count} examples of {source}"), soft_wrap=True)
    _print_rows(rows, best, answers)
    if single:
        top = sorted(single, key=lambda row: -row.ratio)[:MOST_HEADS]
        which = f"the best {len(top)} of {len(single)}" if len(top) < len(single) else f"all {len(single)}"
        console.print(plain(f"\nheads, {which}"), soft_wrap=True)
        _print_rows(top, best, answers)
    if ranking.right is not None:
        console.print(plain(f"{int(ranking.right.sum())} of {ranking.count} answers are right"), soft_wrap=True)


def _print_rows(rows: Sequence[Row], best: Row, answers: bool) -> None:
    connector = any(row.candidate.connector_layer is not None for row in rows)
    heads = any(row.candidate.head is not None for row in rows)
    names = ["layer", *(["connector"] if connector else []), *(["head"] if heads else [])]
    titles = [*names, "ratio", *(["right", "wrong"] if answers else []), "covered", ""]
    lines = []
    for row in rows:
        layer, through, head = row.candidate
        cells = [str(layer), *([str(through)] if connector else []), *([str(head)] if heads else [])]
        cells.append(_interval(row.ratio, row.interval))
        if answers:
            cells += [_interval(row.right, row.right_interval), _interval(row.wrong, row.wrong_interval)]
        cells += [f"{100 * row.covered:.0f} %", "best" if row is best else ""]
        lines.append(cells)
    print_table(titles, lines, right=titles[:-1], style=["bold green" if row is best else "" for row in rows])


def _interval(value: float, edges: tuple[float, float]) -> str:
    if not math.isfinite(value):
        return "-"
    return _short(value) + (f" [{_short(edges[0])}, {_short(edges[1])}]" if math.isfinite(edges[0]) else "")


def _short(ratio: float) -> str:
    """Three digits."""
    return f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}"
