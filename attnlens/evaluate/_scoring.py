"""Whether an answer is right, and how sure a mean over questions is.

An answer is right when it equals one of the labels after both are normalised as in VQA evaluation: case, spaces,
articles and trailing punctuation do not count. This is stricter than the substring test that ViCrop's release uses for
some data sets, and it does not weigh the labels by how many annotators gave them, as the VQA score does.
Intervals are drawn from a fixed seed, so that the same values give the same interval: percentile bootstraps over the
questions for what a mean is, and `fresh` for what the mean of further questions will be.

>>> is_correct("The red one.", ["red one"])
True
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnlens.errors import AttnLensError

ARTICLES = frozenset({"a", "an", "the"})
RESAMPLES = 2000
LEVEL = 0.95
FRESH = 300
"""Questions in a further stream, for which the report's intervals are made."""


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values and its interval, in the unit of the values.

    Examples:
        >>> attnlens.evaluate.bootstrap([True, True, False, True]).points
        Interval(mean=75.0, low=25.0, high=100.0, count=4)
    """

    mean: float
    """The mean of the values."""
    low: float
    """The lower end of the 95 % interval."""
    high: float
    """The upper end of the 95 % interval."""
    count: int
    """How many values."""

    @property
    def points(self) -> Interval:
        """The same in hundredths: percent of an accuracy, percentage points of a difference."""
        return Interval(100 * self.mean, 100 * self.low, 100 * self.high, self.count)


def normalised(text: str) -> str:
    """`text` in lower case, single spaces, without articles, quotes around it and punctuation at its end.

    What consists of nothing else ("A", "?") keeps it: the letter of an option is an answer.
    """
    words = text.casefold().split()
    bare = " ".join(words).strip("\"'`“”‘’ ").rstrip(".,;:!?").strip("\"'`“”‘’ ").split()
    return " ".join([word for word in bare if word not in ARTICLES] or bare or words)


def is_correct(answer: str, labels: Iterable[str]) -> bool:
    """Whether `answer` is one of `labels`, both normalised.

    As in VQA evaluation: case, spaces, articles, quotes around it and trailing punctuation do not count. What consists
    of nothing else ("A", "?") keeps it: the letter of an option is an answer. This is stricter than the substring test
    that ViCrop's release uses for some data sets, and it does not weigh the labels by how many annotators gave them, as
    the VQA score does.

    Args:
        answer: what the model said.
        labels: all right answers.

    Returns:
        True for a right answer; an empty one never is.

    Examples:
        >>> attnlens.evaluate.is_correct("The red one.", ["red one"])
        True
    """
    given = normalised(answer)
    return bool(given) and given in {normalised(label) for label in labels}


def bootstrap(values: Sequence[float] | npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of `values` (numbers or booleans, one a question) with its 95 % percentile bootstrap interval.

    Args:
        values: numbers or booleans, one for each question, such as whether its answer is right.
        resamples: how many times the questions are drawn again, with replacement.
        seed: what the random numbers start from: the same values give the same interval.

    Returns:
        The mean and its interval, in the unit of `values`. Values that are all equal, and a single one, give an
            interval of no width: read it together with `count`.

    Raises:
        AttnLensError: when there is no value, or one that is not finite.

    Examples:
        >>> attnlens.evaluate.bootstrap([1, 1, 0, 1])
        Interval(mean=0.75, low=0.25, high=1.0, count=4)
    """
    array = _checked(values)
    rng = np.random.default_rng(seed)
    size = len(array)
    if (array == array[0]).all():  # exactly, where summing would round
        mean = float(array[0])
        return Interval(mean, mean, mean, size)
    # A resample at a time: a matrix of all would take gigabytes for a large data set.
    means = [array[rng.integers(size, size=size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(array.mean()), float(low), float(high), size)


def difference(
    a: Sequence[float] | npt.ArrayLike,
    b: Sequence[float] | npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over the same questions in the same order, with its paired bootstrap interval.

    Args:
        a: numbers or booleans, one for each question.
        b: what is taken from them, of the same questions in the same order.
        resamples: how many times the questions are drawn again, with replacement.
        seed: what the random numbers start from: the same values give the same interval.

    Returns:
        The mean difference and its 95 % interval, in the unit of the values. `points` of it are percentage points where
            the values are right (1) and wrong (0).

    Raises:
        AttnLensError: when the two differ in length, when there is no value, or one that is not finite.

    Examples:
        >>> attnlens.evaluate.difference([1, 1, 1, 0], [1, 0, 0, 0]).points
        Interval(mean=50.0, low=0.0, high=100.0, count=4)
    """
    first, second = _checked(a), _checked(b)
    if len(first) != len(second):
        raise AttnLensError(
            f"A paired difference of {len(first)} and {len(second)} values; expected both of the same questions, in "
            "the same order."
        )
    return bootstrap(first - second, resamples=resamples, seed=seed)


def fresh(
    values: Sequence[float] | npt.ArrayLike,
    outcomes: Sequence[float],
    *,
    count: int = FRESH,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of `values` with the 95 % interval in which the mean of `count` further ones of the same kind lies.

    It is wider than that of the mean, since the further values vary, too: a mean of 300 lies inside the 95 % interval
    of a mean of 1,000 two times in three only. `outcomes` are all the values there can be, such as (0, 1) for right and
    wrong, or (-1, 0, 1) for a paired difference: what was not seen in 1,000 values may be seen in the next, so an
    accuracy of 100 % has an interval with a width. Drawn from the posterior predictive distribution, multinomial with
    Jeffreys' prior (half an observation of each outcome). Raises AttnLensError as `bootstrap` does, and for a value
    that is none of the outcomes.
    """
    array, known = _checked(values), np.asarray(outcomes, dtype=np.float64)
    seen = np.array([np.count_nonzero(array == outcome) for outcome in known])
    if seen.sum() != len(array):
        raise AttnLensError(f"{len(array) - seen.sum()} of {len(array)} values are none of the outcomes {outcomes}.")
    rng = np.random.default_rng(seed)
    means = rng.multinomial(count, rng.dirichlet(seen + 0.5, resamples)) @ known / count
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(array.mean()), float(low), float(high), len(array))


def _checked(values: Sequence[float] | npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise AttnLensError(f"Values of shape {array.shape}; expected one number for each question, at least one.")
    if not np.isfinite(array).all():
        raise AttnLensError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} values are not finite, the first at "
            f"{int(np.argmin(np.isfinite(array)))}; expected finite numbers. Leave those questions out, and say so."
        )
    return array
