"""What the commands print, and where: an answer as a table, numbers and maps as JSON, all else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, track
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from attnlens.importance import ImportanceMap
    from attnlens.recipes import Result

NO_CROP = "none: a flat map, a window as large as the image, or a recipe without a crop"
SKIPPED = "none: a sure first answer"

QUIET: ContextVar[bool] = ContextVar("QUIET", default=False)
"""Whether the command was given --quiet."""

T = TypeVar("T")

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


def notes() -> Console:
    """Standard error, for what is no result: hints, progress, where a file went. Nothing is seen of it with --quiet."""
    return Console(stderr=True, quiet=QUIET.get())


def status(what: str) -> contextlib.AbstractContextManager[Any]:
    """A spinner on a terminal's standard error; nothing elsewhere."""
    return notes().status(plain(f"{what} ..."))


def progress(items: Iterable[T], what: str) -> Iterator[T]:
    """`items`, with a bar on a terminal's standard error; nothing elsewhere."""
    console = notes()
    yield from track(items, what, console=console, transient=True, disable=not console.is_terminal)


def bars(*more: Any) -> Progress:
    """Bars on standard error for work whose steps are reported, with `more` columns."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, *more, console=notes())


def print_fields(fields: Iterable[tuple[str, Text | str]], indent: str = "") -> None:
    """A line for each label and its value. In a narrow terminal a value goes on below, and no word of it is broken."""
    console, rows = Console(), [(label, plain(one) if isinstance(one, str) else one) for label, one in fields]
    widest = len(indent) + max((len(label) for label, _ in rows), default=0) + 2
    for label, value in rows:
        first = Text.assemble((f"{indent}{label}".ljust(widest), "dim"))
        room = max(console.width - widest, 20)
        if not console.is_terminal or value.cell_len <= room:
            console.print(first + value, soft_wrap=True)
            continue
        lines = textwrap.wrap(value.plain, room, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines):
            before = first if number == 0 else Text(" " * widest)
            console.print(before + Text(line, style=value.style), soft_wrap=True)


def print_table(
    titles: Sequence[str], rows: Sequence[Sequence[Text | str]], right: Sequence[str] = (), style: Sequence[str] = ()
) -> None:
    """A table, a line for each row; in a terminal too narrow for that, a paragraph for each, where no word is broken.

    `right`: titles of columns of numbers. `style`: of each row.
    """
    console = Console()
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    cells = [[plain(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    for number, row in enumerate(cells):
        first = Text.assemble((row[0].plain, row[0].style or "bold"))
        table.add_row(first, *row[1:], style=style[number] if style else None)
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    if not console.is_terminal or needed <= console.width:
        Console(width=max(needed, console.width)).print(table)
        return
    for row in cells:
        console.print(Text(row[0].plain, style="bold"), soft_wrap=True)
        shown = [(title, cell) for title, cell in zip(titles[1:], row[1:], strict=True) if cell.plain]
        print_fields(shown, indent="  ")


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
    fields: list[tuple[str, Text | str]] = [("question", result.question)]
    if expected is not None:
        fields.append(("expected", expected))
    fields.append(("first answer", _judged(result.first_answer, expected)))
    if result.boxes:
        fields.append(("answer with the crop", _judged(result.answer, expected)))
    places = [f" in {_told_apart(names, one.image)}" if len(names) > 1 else "" for one in result.regions]
    crops = [box_text(box) + place for box, place in zip(result.boxes, places, strict=True)]
    fields.append(("crop", "; ".join(crops) or (SKIPPED if result.skipped_crop else NO_CROP)))
    if true_box is not None:
        fields.append(("the sign", box_text(true_box)))
    cost = result.cost.as_dict()
    seconds = cost.pop("seconds")
    counted = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in cost.items())
    fields.append(("cost", f"{counted}, {seconds:.2f} seconds"))
    if picture is not None:
        fields.append(("picture", str(picture)))
    print_fields(fields)


def print_peaks(peaks: Mapping[str, list[float] | None], picture: Path) -> None:
    """For every map, the box of its most important cell."""
    shown = [(name, box_text(peak) if peak else "none: the map is flat or not finite") for name, peak in peaks.items()]
    print_table(("map", "brightest cell (x1, y1, x2, y2), in pixels"), [*shown, ("picture", str(picture))])


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
