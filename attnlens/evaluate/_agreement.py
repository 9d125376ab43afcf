"""Whether a report's figures hold: those of a further stream of scenes, laid into the report's intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlens import _files
from attnlens._checks import is_number
from attnlens.errors import AttnLensError
from attnlens.evaluate._markdown import interval, table
from attnlens.evaluate._scoring import FRESH

TABLES = {"accuracy": "accuracy", "gain": "difference to no crop", "crop_holds_target": "crop holds the target"}


@dataclass(frozen=True)
class Compared:
    """One figure of the report, {"mean", "low", "high"}, and its mean in the further stream."""

    model: str
    table: str
    size: str
    condition: str
    reported: Mapping[str, float]
    mean: float

    @property
    def inside(self) -> bool:
        return self.reported["low"] <= self.mean <= self.reported["high"]


def compared(report: Mapping[str, Any], further: Mapping[str, Any]) -> list[Compared]:
    """Every share and difference that both have, of at least `FRESH` further scenes: the intervals are made for that.

    `report`, `further`: what `tables.numbers` gives, or a report.json. Raises AttnLensError where they have no figure
    in common.
    """
    found = list(_common(report, further))
    if not found:
        raise AttnLensError(
            f"The report and the further scenes have no figure of {FRESH} scenes in common. Expected a report.json of "
            "`attnlens reproduce` about the same models."
        )
    return found


def _common(report: Mapping[str, Any], further: Mapping[str, Any]) -> Iterator[Compared]:
    for name in TABLES:
        for model, sizes in further[name].items():
            for size, conditions in sizes.items():
                for condition, value in conditions.items():
                    reported = _at(report, name, model, size, condition)
                    stated = all(is_number(_at(reported, field)) for field in ("mean", "low", "high"))
                    if stated and value["count"] >= FRESH:
                        yield Compared(model, name, size, condition, reported, value["mean"])


def _at(numbers: Any, *path: str) -> Any:
    """What stands there in nested mappings; None where nothing does."""
    for name in path:
        numbers = numbers.get(name) if isinstance(numbers, Mapping) else None
    return numbers


def summary(found: Sequence[Compared]) -> str:
    """How many lie inside, in one sentence."""
    inside = sum(one.inside for one in found)
    return f"{inside} of {len(found)} figures ({inside / len(found):.0%}) lie inside the report's interval."


def write(path: Path, found: Sequence[Compared]) -> None:
    """The comparison as Markdown. Raises AttnLensError where it cannot be written."""
    rows = [
        [one.model, TABLES[one.table], one.size, one.condition, interval(one.reported), f"{one.mean:.1f}",
         "yes" if one.inside else "**no**"]
        for one in found
    ]  # fmt: skip
    header = ["model", "figure", "size", "crop", "report", "further scenes", "inside"]
    text = (
        f"# The report, on {FRESH} further scenes\n\n"
        "Scenes of a stream that was not drawn when the report was written, asked about by the same models. The "
        f"report's intervals say where the same figure of {FRESH} further scenes lies, 95 times in 100.\n\n"
        f"{summary(found)}\n\n{table(header, rows, right=(4, 5))}\n"
    )
    try:
        with _files.replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AttnLensError(f"The comparison cannot be written to {str(path)!r}: {error.strerror}.") from None
