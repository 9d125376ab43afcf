"""The report of `attnlens reproduce`: OUT/report.md, OUT/report.json and OUT/pictures, made from OUT/records alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnlens import _files, show
from attnlens.errors import AttnLensError
from attnlens.evaluate import _tables
from attnlens.evaluate._claims import claims
from attnlens.evaluate._dataset import Example
from attnlens.evaluate._markdown import markdown
from attnlens.evaluate._measure import pictured
from attnlens.evaluate._plan import SIZES
from attnlens.evaluate._tables import BINS, Measured, Numbers
from attnlens.geometry import Box, Grid
from attnlens.importance import ImportanceMap
from attnlens.show import _charts

PICTURES = "pictures"


def write(out: Path) -> Path:
    """Makes the report of everything that OUT/records holds; returns the Markdown file.

    Raises AttnLensError where there is nothing to report on, or nothing to draw with.
    """
    _charts.available()
    models = _tables.read(out)
    numbers = _tables.numbers(models)
    numbers["claims"] = claims(numbers)
    pictures = _pictures(out, models, numbers)
    target = out / "report.md"
    try:
        with _files.replacing(out / "report.json") as part:
            part.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        with _files.replacing(target) as part:
            part.write_text(markdown(numbers, pictures), encoding="utf-8")
    except OSError as error:
        raise AttnLensError(f"The report cannot be written to {str(out)!r}: {error.strerror}.") from None
    return target


def read(path: Path) -> Numbers:
    """The numbers of a report.json. Raises AttnLensError where it is none."""
    try:
        numbers = _files.read_json(_files.expanded(path))
    except OSError as error:
        raise AttnLensError(f"The report {str(path)!r} cannot be read: {error.strerror}.") from None
    except ValueError:
        numbers = None
    if not isinstance(numbers, dict) or "accuracy" not in numbers:
        raise AttnLensError(f"{str(path)!r} is no report.json of `attnlens reproduce`. Give the one beside report.md.")
    return numbers


def _pictures(out: Path, models: Sequence[Measured], numbers: Numbers) -> dict[str, str]:
    """Draws what there is to draw; by name, the file relative to `out`."""
    drawn: dict[str, str] = {}

    def keep(name: str, figure: Any) -> None:
        file = f"{PICTURES}/{name.replace('/', '--').replace(' ', '-')}.png"
        show.save(figure, out / file)
        drawn[name] = file

    sizes = {name: _size_series(numbers["accuracy"][name]) for name in numbers["models"]}
    if any(sizes.values()):
        keep("sizes", _charts.sizes_chart(sizes, BINS, joined=len(SIZES)))
    layers = {name: _layer_series(numbers["ratios"][name]) for name in numbers["models"]}
    if any(layers.values()):
        keep("layers", _charts.layers_chart(layers))
    for one in models:
        key = ("picture", pictured(one.records) or "")
        if key in one.records:
            keep(f"example {one.name}", _example_figure(one.records[key]))
    return drawn


def _size_series(accuracy: Mapping[str, Any]) -> list[_charts.Series]:
    """What recipes, the human crop and no crop reach at each size; on tiles where images are large."""
    series = []
    for name, condition in (
        ("rel-att", "rel-att"),
        ("grad-att", "grad-att"),
        ("human crop", "human"),
        ("none", "none"),
    ):
        on_tiles = f"{condition}-high"
        values = [accuracy.get(size, {}) for size in BINS]
        series.append(_series(name, [found.get(on_tiles, found.get(condition)) for found in values]))
    return series if accuracy else []


def _layer_series(ratios: Mapping[str, Any]) -> list[_charts.Series]:
    return [_series(f"{group} answers", ratios[group]) for group in ("right", "wrong") if group in ratios]


def _series(name: str, values: Sequence[Mapping[str, float] | None]) -> _charts.Series:
    def column(field: str) -> list[float]:
        return [math.nan if value is None else value[field] for value in values]

    return _charts.Series(name, column("mean"), column("low"), column("high"))


def _example_figure(record: Mapping[str, Any]) -> Any:
    box = None if record["box"] is None else Box(*record["box"])
    example = Example("picture", record["question"], (record["expected"],), record["image_path"], box)
    image = example.open()
    grid = Grid(np.array(record["x"]), np.array(record["y"]), image.size)
    importance = ImportanceMap(np.array(record["values"], dtype=float), grid)
    boxes = [Box(*edges) for edges in record["boxes"]]
    return show.answer_figure(
        image,
        importance,
        boxes,
        record["question"],
        record["first"],
        record["answer"],
        expected=record["expected"],
        true_box=box,
    )
