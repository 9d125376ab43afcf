"""How much `attnlens reproduce` measures: counts of examples, and which conditions each of them meets.

>>> FULL.scaled(10).sizes
4
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from attnlens.errors import AttnLensError
from attnlens.evaluate import _conditions, _dataset
from attnlens.evaluate._dataset import Example

SIZES = ("small", "medium", "large")
HIGH = "high"
TASKS = ("read", "colour", "exists", "larger", "left", "describe")
"""Kinds of question; `read` is the one of the tables of sizes, recipes and ablations."""

SEARCHED = "colour"
"""The kind of question that does not say where to look: what colour is the sign that says 5?"""


MAIN_SIZES = ("small", "large")
"""Where a crop is to help, and where it is to do no harm."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of examples. Each is of the first so many of its kind, so that a larger plan contains a smaller one; 0
    leaves it out."""

    main: int
    """Small and large targets each: without a crop, with the human one, rel-att and grad-att."""
    sizes: int
    """Per size small, medium and large: without a crop, the crops to compare with, ViCrop's recipes, attention ratios;
    small targets under every other recipe too."""
    high: int
    """Small targets in large images: the same without ratios, and ViCrop's recipes on tiles."""
    ablations: int
    """Per size of `ablation_sizes`: one choice of a recipe changed at a time."""
    tasks: int
    """Per kind of question and size: without a crop, with the human one, rel-att and grad-att."""
    several: int
    """Small targets that are asked for by what they say, so that every sign must be read: recipes with one and two
    crops."""
    validation: int
    """Per size, of the validation split: what the layers are ranked on."""
    ablation_sizes: tuple[str, ...] = ("small",)
    split: str = "report"
    """Of the scenes that are asked about: "report", which nothing else may look at, or "again", a second stream."""

    def scaled(self, count: int) -> Plan:
        """The same proportions with `count` examples of the main sizes, at least one of everything that is measured."""
        if not 1 <= count <= _dataset.MOST:
            raise AttnLensError(
                f"The count is {count}; expected at least one example per size, and at most {_dataset.MOST}."
            )
        counts = {field: getattr(self, field) for field in _COUNTS}
        changes: Any = {field: max(1, round(n * count / self.main)) for field, n in counts.items() if n}
        return dataclasses.replace(self, **changes)


_COUNTS = ("main", "sizes", "high", "ablations", "tasks", "several", "validation")

QUICK = Plan(main=16, sizes=16, high=4, ablations=12, tasks=2, several=4, validation=8)
"""Under five minutes for three bundled models on two cores."""
FULL = Plan(
    main=1000,
    sizes=400,
    high=400,
    ablations=400,
    tasks=25,
    several=400,
    validation=60,
    ablation_sizes=("small", "medium"),
)
AGAIN = Plan(main=300, sizes=0, high=0, ablations=0, tasks=0, several=0, validation=8, split="again")
"""The main conditions alone, on scenes that were not drawn when the report was written."""


@dataclass(frozen=True)
class Work:
    """An example, the conditions under which it is asked about, and whether its attention ratios are wanted."""

    example: Example
    conditions: tuple[str, ...]
    ratios: bool

    @property
    def records(self) -> int:
        return len(self.conditions) + self.ratios


def ranked(plan: Plan) -> list[Example]:
    """What the layers are ranked on: never an example of the tables."""
    return _dataset.pocket_examples("validation", SIZES, ("read",), plan.validation)


def asked(plan: Plan, best: _conditions.Layers) -> list[Work]:
    """What the tables are made of. `best`: the layers that the ranking put first."""
    work: dict[str, Work] = {}
    for bins, tasks, count, names, ratios in _groups(plan, best):
        for example in _dataset.pocket_examples(plan.split, bins, tasks, count) if count else ():
            wanted = tuple(name for name in names if example.box is not None or name != "human")
            known = work.get(example.id, Work(example, (), False))
            more = tuple(name for name in wanted if name not in known.conditions)
            work[example.id] = Work(example, known.conditions + more, known.ratios or ratios)
    return list(work.values())


def _groups(
    plan: Plan, best: _conditions.Layers
) -> list[tuple[tuple[str, ...], tuple[str, ...], int, tuple[str, ...], bool]]:
    """Bins, kinds of question, count, conditions, and whether ratios are wanted."""
    plain = _conditions.BASELINES + _conditions.vicrop(high=False)
    others = _conditions.others() + _conditions.POCKET
    high = plain + _conditions.vicrop(high=True) + others
    return [
        (MAIN_SIZES, ("read",), plan.main, _conditions.BY_TASK, False),
        (SIZES, ("read",), plan.sizes, plain, True),
        (SIZES[:1], ("read",), plan.sizes, others, False),
        (plan.ablation_sizes, ("read",), plan.ablations, _conditions.ablations(best), False),
        (SIZES[:1], (SEARCHED,), plan.several, _conditions.SEVERAL, False),
        (SIZES, TASKS, plan.tasks, _conditions.BY_TASK, False),
        ((HIGH,), ("read",), plan.high, high, False),
    ]
