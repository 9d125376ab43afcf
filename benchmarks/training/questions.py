"""What is asked in training about a scene and two of its views, and what the answer is."""

from dataclasses import dataclass

import numpy as np

from attnlens.pocket import _signs, scenes
from benchmarks.training import words
from benchmarks.training.pool import Item

SHARES = {"read": 0.5, "colour": 0.16, "exists": 0.12, "larger": 0.06, "left": 0.06, "describe": 0.10}
"""How often each kind of question is drawn."""


@dataclass(frozen=True)
class Asked:
    """A question, its answer, how much the answer counts, and whether the second image is seen."""

    task: str
    question: str
    answer: str
    weight: float
    both: bool


def draw(
    rng: np.random.Generator, item: Item, first: int, second: int, shares: dict[str, float] = SHARES
) -> Asked | None:
    """A question about two views of the item, or None when the draw is one that has no fair answer.

    An answer counts as much as the views allow: a digit of 5 input pixels little, one of 7 in full.
    """
    both = bool(rng.random() < 0.55)
    task = str(rng.choice(list(shares), p=list(shares.values())))
    sign = item.signs[item.focus if rng.random() < 0.5 else rng.integers(len(item.signs))]
    match task:
        case "describe":
            return Asked(task, words.phrase(rng, task), scenes.DESCRIPTIONS[item.kind], 0.2, both)
        case "exists":
            return _exists(rng, item, sign, first, both)
        case "larger" | "left":
            return _compared(rng, item, task, first, both)
    if task == "colour" and sum(other.digit == sign.digit for other in item.signs) > 1:
        return None
    best = max(_side(item, sign, view) for view in ((first, second) if both else (first,)))
    if best == 0:
        return None
    weight = 1.0 if best >= 6.5 else 0.3 if best >= 5 else 0.08
    question = words.phrase(rng, task, colour=sign.colour, digit=sign.digit)
    return Asked(task, question, sign.digit if task == "read" else sign.colour, weight, both)


def _side(item: Item, sign: _signs.Sign, view: int) -> float:
    """Its side in input pixels, where most of it is inside the view."""
    side, inside = item.views[view].legible(sign)
    return side if inside > 0.75 else 0.0


def _exists(rng: np.random.Generator, item: Item, sign: _signs.Sign, first: int, both: bool) -> Asked | None:
    if rng.random() < 0.5:
        absent = [name for name in _signs.COLOURS if name not in {shown.colour for shown in item.signs}]
        return Asked("exists", words.phrase(rng, "exists", colour=absent[rng.integers(len(absent))]), "no", 0.5, both)
    _, inside = item.views[first].legible(sign)
    if 0 < inside < 0.5 or (inside == 0 and both):
        return None
    return Asked("exists", words.phrase(rng, "exists", colour=sign.colour), "yes" if inside else "no", 0.5, both)


def _compared(rng: np.random.Generator, item: Item, task: str, first: int, both: bool) -> Asked | None:
    if first != 0 or len(item.signs) < 2:
        return None
    one, other = (item.signs[index] for index in rng.permutation(len(item.signs))[:2])
    if min(_side(item, sign, 0) for sign in (one, other)) < 3:
        return None
    if task == "larger":
        if max(one.side, other.side) < scenes.LARGER * min(one.side, other.side):
            return None
        winner = max(one, other, key=lambda sign: sign.side)
    else:
        if abs(one.centre[0] - other.centre[0]) < scenes.FURTHER * item.size[0]:
            return None
        winner = min(one, other, key=lambda sign: sign.centre[0])
    return Asked(task, words.phrase(rng, task, one=one.colour, other=other.colour), winner.colour, 0.5, both)
