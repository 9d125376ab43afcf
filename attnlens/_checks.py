"""What arguments may be: the numbers that people give, refused in one way where they are none.

>>> is_count(3), is_count(True), is_number(float("nan"))
(True, False, False)
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

from attnlens.errors import AttnLensError, quoted


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of at least 1; True and False are none."""
    return is_whole(value) and int(value) >= 1  # type: ignore[call-overload]


def is_whole(value: object) -> bool:
    """Whether `value` is a whole number, of any sign; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite number; True and False are none."""
    return not isinstance(value, bool) and isinstance(value, Real) and is_finite(value)


def is_finite(value: Real) -> bool:
    """Whether a number is finite, however large a whole one is."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number above every float
        return False


def check(fits: bool, name: str, value: object, expected: str) -> None:
    """Raises AttnLensError, which says what the argument of that name is and what was expected, unless it `fits`."""
    if not fits:
        raise AttnLensError(f"{name} is {quoted(value)}; expected {expected}.")


def check_count(name: str, value: object, of: str) -> None:
    """Raises AttnLensError unless `value` is a whole number `of` something, at least 1."""
    check(is_count(value), name, value, f"a whole number of {of}, at least 1")


def check_between(name: str, value: object, low: float, high: float, meaning: str, below: bool = False) -> None:
    """Raises AttnLensError unless `value` is a number from `low` to `high`, or below it; `meaning` says of what."""
    fits = is_number(value) and low <= value and (value < high if below else value <= high)
    check(fits, name, value, meaning)


def check_iou(value: object) -> None:
    """Raises AttnLensError unless `value` can be the largest overlap of two boxes that are both kept."""
    check_between("iou", value, 0, 1, "a number from 0 (no overlap) up to, but not, 1", below=True)
