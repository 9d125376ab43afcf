"""How much `attnlens reproduce` measures: counts of examples, and which conditions each of them meets.

>>> FULL.scaled(10).sizes
10
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from attnlens.errors import AttnLensError
from attnlens.evaluate import conditions, dataset
from attnlens.evaluate.dataset import Example

SIZES = ("small", "medium", "large")
HIGH = "high"
TASKS = ("read", "colour", "exists", "larger", "left", "describe")
"""Kinds of question; `read` is the one of the tables of sizes, recipes and ablations."""

SEARCHED = "colour"
"""The kind of question that does not say where to look: what colour is the sign that says 5?"""


@dataclass(frozen=True)
class Plan:
    """Counts of examples. Each is of the first so many of its kind, so that a larger plan contains a smaller one."""

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
    ablation_sizes: tuple[str, ...]

    def scaled(self, count: int) -> Plan:
        """The same proportions with `count` examples per size, at least one of everything."""
        if count < 1:
            raise AttnLensError(f"The count is {count}; expected at least one example per size.")
        fields = ("sizes", "high", "ablations", "tasks", "several", "validation")
        counts = {field: max(1, round(getattr(self, field) * count / self.sizes)) for field in fields}
        return dataclasses.replace(self, **counts)


QUICK = Plan(sizes=16, high=4, ablations=12, tasks=2, several=4, validation=8, ablation_sizes=("small",))
"""Under five minutes for three bundled models on two cores."""
FULL = Plan(sizes=200, high=40, ablations=100, tasks=25, several=150, validation=60, ablation_sizes=("small", "medium"))


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
    return dataset.pocket("validation", SIZES, ("read",), plan.validation)


def asked(plan: Plan, best: conditions.Layers) -> list[Work]:
    """What the tables are made of. `best`: the layers that the ranking put first."""
    work: dict[str, Work] = {}
    for bins, tasks, count, names, ratios in _groups(plan, best):
        for example in dataset.pocket("test", bins, tasks, count):
            wanted = tuple(name for name in names if example.box is not None or name != "human")
            known = work.get(example.id, Work(example, (), False))
            more = tuple(name for name in wanted if name not in known.conditions)
            work[example.id] = Work(example, known.conditions + more, known.ratios or ratios)
    return list(work.values())


def _groups(
    plan: Plan, best: conditions.Layers
) -> list[tuple[tuple[str, ...], tuple[str, ...], int, tuple[str, ...], bool]]:
    """Bins, kinds of question, count, conditions, and whether ratios are wanted."""
    plain = conditions.BASELINES + conditions.vicrop(high=False)
    others = conditions.others() + conditions.POCKET
    high = plain + conditions.vicrop(high=True) + others
    return [
        (SIZES, ("read",), plan.sizes, plain, True),
        (SIZES[:1], ("read",), plan.sizes, others, False),
        (plan.ablation_sizes, ("read",), plan.ablations, conditions.ablations(best), False),
        ((HIGH,), ("read",), plan.high, high, False),
        (SIZES, TASKS, plan.tasks, conditions.BY_TASK, False),
        (SIZES[:1], (SEARCHED,), plan.several, conditions.SEVERAL, False),
    ]
