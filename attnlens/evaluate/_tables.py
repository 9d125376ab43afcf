"""From records to the numbers of the report: plain dicts and lists, rounded, in an order that no run changes.

Accuracies are in per cent, differences in percentage points. Shares of scenes and their paired differences are
{"mean", "low", "high", "mean_low", "mean_high", "count"}: from low to high lies, 95 times in 100, the same figure of
`FRESH` further scenes (`scoring.fresh`), and from mean_low to mean_high the mean itself (a bootstrap over scenes).
Attention ratios have the second interval alone, as low and high.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attnlens.errors import AttnLensError
from attnlens.evaluate._conditions import (
    ATTENTION,
    BASELINES,
    BY_TASK,
    EXTERNAL,
    PURE,
    SEVERAL,
    TWICE,
    VARIANTS,
    Layers,
    others,
    vicrop,
)  # fmt: skip
from attnlens.evaluate._plan import HIGH, SEARCHED, SIZES, TASKS
from attnlens.evaluate._records import Key, Records, settings_of
from attnlens.evaluate._scoring import Interval, bootstrap, fresh
from attnlens.evaluate._shapes import shape_of, wrong_settings
from attnlens.recipes._library import HIGH_RESOLUTION_TILE

BINS = (*SIZES, HIGH)
READ = "read"
"""The kind of question of every table but the one of kinds."""
DIGITS = 2

Numbers = dict[str, Any]

_log = logging.getLogger("attnlens")


@dataclass(frozen=True)
class Measured:
    """The records of one model."""

    settings: Mapping[str, Any]
    records: Mapping[Key, Any]

    @property
    def name(self) -> str:
        return str(self.settings["model"])

    def answers(self, condition: str, bins: Iterable[str], task: str = READ) -> dict[str, Any]:
        """The answers under a condition, by example, in an order that does not depend on the run."""
        found: dict[str, Any] = {}
        for name in bins:
            found |= self._grouped.get((condition, name, task), {})
        return found

    @cached_property
    def _grouped(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """By condition, size and kind of question: the answers by example."""
        groups: dict[tuple[str, str, str], dict[str, Any]] = {}
        for key, record in sorted(self.records.items()):
            if key[0] == "answer" and "refused" not in record:
                groups.setdefault((key[2], record["bin"], record["task"]), {})[key[1]] = record
        return groups

    def refusals(self) -> list[Numbers]:
        """For each condition that could not be asked of some examples: of how many, and why of the first."""
        found: dict[str, list[str]] = {}
        for key, record in sorted(self.records.items()):
            if key[0] == "answer" and "refused" in record:
                found.setdefault(key[2], []).append(record["refused"])
        return [{"recipe": name, "count": len(why), "why": why[0]} for name, why in found.items()]

    def conditions(self) -> list[str]:
        return sorted({key[2] for key in self.records if key[0] == "answer"})

    def ratios(self) -> list[Any]:
        return [record for key, record in sorted(self.records.items()) if key[0] == "ratios"]

    def ranking(self) -> Any:
        """The ranking on the most examples; None where no ranking was finished."""
        rankings = [record for key, record in self.records.items() if key[0] == "ranking"]
        return max(rankings, key=lambda record: record["examples"], default=None)

    @property
    def best(self) -> Layers | None:
        ranking = self.ranking()
        return None if ranking is None else Layers(ranking["layer"], ranking["connector_layer"])


def read(out: Path) -> list[Measured]:
    """Every model that OUT/records has, by name. Raises AttnLensError where there is none, or a file is damaged."""
    found, unchecked = [], []
    for path in sorted((out / "records").glob("*.jsonl")):
        settings = settings_of(path)
        wrong = wrong_settings(settings)
        if wrong is not None:
            raise AttnLensError(
                f"Line 1 of {str(path)!r}, the settings of the run, is not as it should be: {wrong} Delete that file, "
                "and measure that model again."
            )
        with Records(path, settings, shape_of(settings)) as records:
            found.append(Measured(settings, records.all()))
            if records.unchecked:
                unchecked.append(f"{records.unchecked} of {path.name}")
    if unchecked:
        _log.warning(
            "Records without checksums, as attnlens 0.1.0 wrote them: %s. They are used as they stand; a damaged "
            "character in them may go unseen.",
            ", ".join(unchecked),
        )
    if not any(one.records for one in found):
        raise AttnLensError(f"{str(out)!r} holds no records to report on. Run `attnlens reproduce {out}` first.")
    return sorted((one for one in found if one.records), key=lambda one: one.name)


def numbers(models: Sequence[Measured]) -> Numbers:
    """All that the report says, by table and model; what the clock says stands apart, under "seconds"."""

    def each(table: Callable[[Measured], Any]) -> Numbers:
        return {one.name: table(one) for one in models}

    return {
        "models": each(_model),
        "accuracy": each(lambda one: _by_bin(one, _accuracy)),
        "gain": each(lambda one: _by_bin(one, _gain)),
        "crop_holds_target": each(lambda one: _by_bin(one, _holds)),
        "ablations": each(_ablations),
        "ratios": each(_ratios),
        "kinds": each(_kinds),
        "several": each(_several),
        "cost": each(lambda one: _by_bin(one, _cost)),
        "seconds": each(lambda one: _by_bin(one, _seconds)),
        "refused": each(Measured.refusals),
    }


def ordered(conditions: Iterable[str]) -> list[str]:
    """Baselines, recipes that look for the crop, external croppers, ablations; each in the order people know."""
    first = (*BASELINES, *vicrop(high=False), *vicrop(high=True), *others())

    def place(name: str) -> tuple[int, int, str]:
        known = first.index(name) if name in first else len(first)
        return (2 if " " in name and name not in VARIANTS else int(name in EXTERNAL), known, name)

    return sorted(conditions, key=place)


def recipes(conditions: Iterable[str]) -> list[str]:
    """Those conditions that are no ablation."""
    return [name for name in ordered(conditions) if " " not in name or name in VARIANTS]


def _model(one: Measured) -> Numbers:
    best = one.ranking()
    kept = {
        field: one.settings[field]
        for field in ("type", "split", "parameters", "layers", "connector_layers", "defaults")
    }
    return {
        **kept,
        "weights": one.settings["weights"],
        "versions": one.settings["versions"],
        "examples": {name: len(one.answers("none", [name])) for name in BINS},
        "examples_by_kind": {task: len(one.answers("none", SIZES, task)) for task in TASKS},
        "ranking": best and {**best, "ratio": _rounded(best["ratio"])},
    }


def _by_bin(one: Measured, value: Callable[[Measured, str, str], Any]) -> Numbers:
    """By size and condition, where there is something."""
    found: Numbers = {}
    for name in BINS:
        values = {condition: value(one, name, condition) for condition in ordered(one.conditions())}
        kept = {condition: number for condition, number in values.items() if number is not None}
        if kept:
            found[name] = kept
    return found


def _accuracy(one: Measured, bin_name: str, condition: str) -> Numbers | None:
    return _mean([record["right"] for record in one.answers(condition, [bin_name]).values()])


def _gain(one: Measured, bin_name: str, condition: str) -> Numbers | None:
    return None if condition == "none" else paired(one, condition, "none", [bin_name])


def _holds(one: Measured, bin_name: str, condition: str) -> Numbers | None:
    if condition == "none":
        return None
    held = [record["holds"] for record in one.answers(condition, [bin_name]).values()]
    return _mean([value for value in held if value is not None])


def paired(one: Measured, condition: str, base: str, bins: Iterable[str], task: str = READ) -> Numbers | None:
    """The difference in accuracy over the examples that both conditions have, in points."""
    bins = list(bins)
    first, second = one.answers(condition, bins, task), one.answers(base, bins, task)
    both = [example for example in first if example in second]
    if not both:
        return None
    return _difference(tuple(first[e]["right"] for e in both), tuple(second[e]["right"] for e in both))


def _ablations(one: Measured) -> list[Numbers]:
    """One row for each choice, recipe and size: its accuracy, and the difference to the recipe as it is."""
    tiles = f"tiles of at most {HIGH_RESOLUTION_TILE} px"
    choices = (str(one.best), "layer=mean", "criterion=sum", "variant=released")
    named = [(base, choice, f"{base} {choice}") for choice in choices for base in (*ATTENTION, PURE)]
    named += [(base, tiles, f"{base}-high") for base in (*ATTENTION, PURE)]
    rows = []
    for base, choice, name in named:
        for bin_name in BINS:
            accuracy, change = _accuracy(one, bin_name, name), paired(one, name, base, [bin_name])
            if accuracy is not None and change is not None:
                row = {"recipe": base, "choice": choice, "size": bin_name, "accuracy": accuracy, "difference": change}
                rows.append(row)
    return rows


def _ratios(one: Measured) -> Numbers:
    """By the answer, the mean ratio of every combined layer m + k * layers, over small, medium and large targets."""
    records = [record for record in one.ratios() if record["bin"] in SIZES]
    groups = {
        "all": records,
        "right": [record for record in records if record["right"]],
        "wrong": [record for record in records if not record["right"]],
    }
    return {name: _layers(group) for name, group in groups.items() if group}


def _layers(records: Sequence[Any]) -> list[Numbers | None]:
    flat = np.array([np.ravel(np.array(record["ratios"], dtype=float)) for record in records])
    columns = ([value for value in column if math.isfinite(value)] for column in flat.T)
    return [_interval(bootstrap(column)) if column else None for column in columns]


def _kinds(one: Measured) -> Numbers:
    """By kind of question and size: the accuracy under each of a few conditions, and the difference to none."""
    found: Numbers = {}
    for task in TASKS:
        for bin_name in SIZES:
            row: Numbers = {}
            for condition in BY_TASK:
                accuracy = _mean([r["right"] for r in one.answers(condition, [bin_name], task).values()])
                if accuracy is not None:
                    gain = None if condition == "none" else paired(one, condition, "none", [bin_name], task)
                    row[condition] = {"accuracy": accuracy, "gain": gain}
            if row:
                found.setdefault(task, {})[bin_name] = row
    return found


def _several(one: Measured) -> Numbers:
    """By condition, small signs asked for by what they say: accuracy, difference to none and, of two crops, to one."""
    found: Numbers = {}
    for condition in SEVERAL:
        accuracy = _mean([r["right"] for r in one.answers(condition, SIZES[:1], SEARCHED).values()])
        if accuracy is not None:
            changes = [
                None if base is None or base == condition else paired(one, condition, base, SIZES[:1], SEARCHED)
                for base in ("none", TWICE.get(condition))
            ]
            found[condition] = {"accuracy": accuracy, "gain": changes[0], "second": changes[1]}
    return found


def _cost(one: Measured, bin_name: str, condition: str) -> Numbers | None:
    costs = [record["cost"] for record in one.answers(condition, [bin_name]).values()]
    if not costs:
        return None
    fields = sorted({field for cost in costs for field in cost})
    return {field: _rounded(float(np.mean([cost.get(field, 0) for cost in costs]))) for field in fields}


def _seconds(one: Measured, bin_name: str, condition: str) -> float | None:
    """The median, which a busy moment does not move."""
    seconds = [record["seconds"] for record in one.answers(condition, [bin_name]).values()]
    return round(float(np.median(seconds)), 3) if seconds else None


def _mean(values: Iterable[bool]) -> Numbers | None:
    answers = tuple(values)
    return _share(answers) if answers else None


@cache
def _share(answers: tuple[bool, ...]) -> Numbers:
    """Cached, as the next is, because tables share figures and a bootstrap takes a while."""
    return _figure(answers, (0, 1))


@cache
def _difference(first: tuple[bool, ...], second: tuple[bool, ...]) -> Numbers:
    return _figure(np.subtract(first, second, dtype=float), (-1, 0, 1))


def _figure(values: Any, outcomes: Sequence[float]) -> Numbers:
    """A share of scenes, or a paired difference of two, with both intervals."""
    mean, further = _interval(bootstrap(values).points), _interval(fresh(values, outcomes).points)
    return {**further, "mean_low": mean["low"], "mean_high": mean["high"]}


def _interval(interval: Interval) -> Numbers:
    low, high = _rounded(interval.low), _rounded(interval.high)
    return {"mean": _rounded(interval.mean), "low": low, "high": high, "count": interval.count}


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # no -0.0
