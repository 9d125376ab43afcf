"""What the commands print, and where: an answer as a table, numbers and maps as JSON, all else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from attnlens.importance import ImportanceMap
    from attnlens.recipes import Result

NO_CROP = "none: a flat map, a window as large as the image, or a recipe without a crop"
SURE = "none: a sure first answer"

_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, line ends and tabs apart, and halves of surrogate pairs, which no encoding can print."""


def plain(text: str, style: str = "") -> Text:
    r"""`text` for a terminal, to be taken for nothing but text: names and answers may hold its escape sequences.

    >>> plain("a\x1b[2Jb").plain
    'a\\x1b[2Jb'
    """
    return Text(_CONTROL.sub(lambda found: repr(found[0])[1:-1], text), style=style)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Standard output is for results: whatever a library prints meanwhile goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def status(what: str) -> contextlib.AbstractContextManager[Any]:
    """A spinner on a terminal's standard error; nothing elsewhere."""
    return Console(stderr=True).status(plain(f"{what} ..."))


def print_answer(
    result: Result,
    picture: Path | None,
    names: Sequence[str] = (),
    expected: str | None = None,
    true_box: Sequence[float] | None = None,
) -> None:
    """Question, both answers, crop, cost and picture; with `expected`, whether each answer is right.

    `names`: those of the images; of several, the one that a crop lies in is told.
    """
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("question", plain(result.question))
    if expected is not None:
        table.add_row("expected", plain(expected))
    table.add_row("first answer", _judged(result.first_answer, expected))
    if result.boxes:
        table.add_row("answer with the crop", _judged(result.answer, expected))
    places = [f" in {_told_apart(names, one.image)}" if len(names) > 1 else "" for one in result.regions]
    crops = [box_text(box) + place for box, place in zip(result.boxes, places, strict=True)]
    table.add_row("crop", plain("; ".join(crops) or (SURE if result.skipped_crop else NO_CROP)))
    if true_box is not None:
        table.add_row("the sign", box_text(true_box))
    cost = result.cost.as_dict()
    seconds = cost.pop("seconds")
    counted = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in cost.items())
    table.add_row("cost", f"{counted}, {seconds:.2f} seconds")
    if picture is not None:
        table.add_row("picture", plain(str(picture)))
    Console().print(table)


def print_peaks(peaks: Mapping[str, list[float] | None], picture: Path) -> None:
    """For every map, the box of its most important cell."""
    table = Table(box=None, pad_edge=False)
    table.add_column("map", style="bold")
    table.add_column("brightest cell (x1, y1, x2, y2), in pixels")
    for name, peak in peaks.items():
        table.add_row(name, box_text(peak) if peak else "none: the map is flat or not finite")
    table.add_row("picture", plain(str(picture)))
    Console().print(table)


def _told_apart(names: Sequence[str], number: int) -> str:
    """The name of an image; where several have it, which of them."""
    name = names[number]
    alike = names.count(name)
    return name if alike == 1 else f"{name}, {names[: number + 1].count(name)} of {alike}"


def _judged(answer: str, expected: str | None) -> Text:
    text = plain(answer or "(no words)", style="bold")
    if expected is not None:
        right = answer.strip() == expected.strip()
        text.append("  right" if right else "  wrong", style="green" if right else "red")
    return text


def print_json(**fields: Any) -> None:
    """One JSON object, in ASCII, so that it survives any terminal."""
    typer.echo(json.dumps(fields, allow_nan=False))


def regions(result: Result) -> list[dict[str, Any]]:
    """The crops for JSON: the box, the number of the image that it lies in, from 0, and the score, in the map's units
    or the recipe's own."""
    return [{"box": numbers(one.box), "image": one.image, "score": float(one.score)} for one in result.regions]


def numbers(box: Sequence[float]) -> list[float]:
    """A box for JSON, whole numbers as such."""
    return [int(edge) if float(edge).is_integer() else round(float(edge), 2) for edge in box]


def box_text(box: Sequence[float]) -> str:
    """A box as (x1, y1, x2, y2)."""
    return f"({', '.join(map(str, numbers(box)))})"


def peak_of(importance: ImportanceMap) -> list[float] | None:
    """The box of the most important cell; None where no cell stands out."""
    values = importance.values
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high) or low == high:
        return None
    row, col = divmod(int(values.argmax()), values.shape[1])
    return numbers(importance.grid.cell(row, col))


def finite(importance: ImportanceMap) -> list[list[float | None]]:
    """Values [rows, cols] for JSON, which has no NaN and no infinity."""
    return [[value if math.isfinite(value) else None for value in row] for row in importance.values.tolist()]


def short_path(path: Path) -> str:
    """The path, with ~ for the home folder."""
    home = Path.home()
    return str(Path("~") / path.relative_to(home)) if path.is_relative_to(home) else str(path)
