"""Layers and heads of a model, ranked by how much more they look at the target than elsewhere, on data with boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from attnlens._renamed import Renamed
from attnlens._storage import Valued
from attnlens.boxes._search import search
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.importance import ImportanceMap, box_ratios
from attnlens.lens import Lens, Reading
from attnlens.maps._attention import relative_attention, relative_attention_by_layer

Array = NDArray[np.float64]
By = Literal["ratio", "crops"]
"""What the best map is chosen by: its attention ratio, or how often the crop that it leads to holds the target."""

_RESAMPLES = 2000
_BATCH = 100  # resamples at a time, so that a large data set takes no gigabytes


class Example(Protocol):
    """A question about an image, and where in it the answer is.

    `attnlens.evaluate.Example` is one, and so is any class of your own that has these.
    """

    @property
    def question(self) -> str:
        """What is asked about the image."""

    @property
    def labels(self) -> Sequence[str]:
        """All right answers."""

    @property
    def box(self) -> Sequence[float] | None:
        """(x1, y1, x2, y2) of what is asked about, half-open, in pixels of the original image; None where unknown."""

    def open(self) -> Any:
        """The image: whatever `lens.read` takes.

        Returns:
            A path, a PIL image or an array.

        Examples:
            >>> example = attnlens.evaluate.pocket_examples("test", ["small"], ["read"], count=1)[0]
            >>> example.open().size == example.size()
            True
        """


class Candidate(NamedTuple):
    """A map to read, by the layer of the language model, the layer of the connector, and the head.

    Examples:
        >>> attnlens.analysis.Candidate("mean")
        Candidate(layer='mean', connector_layer=None, head=None)
    """

    layer: int | Literal["mean"]
    """A layer of the language model by its number, or "mean" for the mean of all."""
    connector_layer: int | Literal["mean"] | None = None
    """A layer of the connector by its number, or "mean" for the mean of all; None where the connector has no
    attention."""
    head: int | None = None
    """A head of the language model by its number; None for the mean of all."""


@dataclass(frozen=True)
class Row:
    """What the examples say of one candidate. NaN where there is nothing to tell.

    Examples:
        >>> examples = attnlens.evaluate.pocket_examples("validation", ["small"], ["read"], count=2)
        >>> row = attnlens.analysis.rank(lens, examples).rows()[1]
        >>> row.candidate.layer, row.ratio > 1, row.covered
        (1, True, 0.5)
    """

    candidate: Candidate
    """The map that was read."""
    ratio: float
    """The mean of its attention ratios."""
    interval: tuple[float, float]
    """The 95 % bootstrap interval of `ratio`; of two examples or more."""
    covered: float
    """The share of examples in which the crop that the map leads to holds at least half of the target."""
    right: float
    """`ratio` over the examples that the model answers rightly."""
    right_interval: tuple[float, float]
    """The 95 % bootstrap interval of `right`."""
    wrong: float
    """The same over those that it answers wrongly."""
    wrong_interval: tuple[float, float]
    """The 95 % bootstrap interval of `wrong`."""

    if not TYPE_CHECKING:  # words of 0.1.0
        holds = Renamed("covered")


@dataclass(frozen=True, eq=False)
class Ranking(Valued):
    """What `rank` found, example by example.

    The best candidate is the one with the highest mean ratio, as ViCrop draws it; single heads do not take part. A few
    examples weigh much in it: a tenth of them makes up about a third. A geometric mean, which those cannot rule, chose
    the same layer on 120 validation scenes, for two trainings of pocket/llava; in samples of 20 of these scenes it did
    so more often than the plain mean for the one training, less often for the other, and it needs a floor for targets
    that the model did not see. So the plain mean stays, and `values` has all for another.
    """

    candidates: tuple[Candidate, ...]
    """Every map that was read: the pairs of layers, the mean of all layers, then single heads where asked for."""
    values: Array
    """float64 [examples, candidates]: attention ratios."""
    covered: NDArray[np.bool_]
    """bool [examples, candidates]: whether the crop found on that map holds at least half of the target."""
    right: NDArray[np.bool_] | None
    """bool [examples]: whether the model's first answer is right; None unless that was asked for."""
    depth: int
    """Layers of the language model, those without attention included."""

    if not TYPE_CHECKING:  # the word of 0.1.0
        holds = Renamed("covered")

    @property
    def count(self) -> int:
        """How many examples."""
        return len(self.values)

    def best(self, by: By = "ratio") -> Row:
        """The candidate with the highest ratio, or with the most crops that hold the target.

        Single heads do not take part.

        Args:
            by: "ratio" for the highest mean attention ratio; "crops" for the most crops that hold at least half of the
                target (a tie: the higher ratio).

        Returns:
            What the examples say of that candidate.

        Raises:
            AttnLensError: if no candidate has a ratio.

        Examples:
            >>> examples = attnlens.evaluate.pocket_examples("validation", ["small"], ["read"], count=2)
            >>> attnlens.analysis.rank(lens, examples).best().candidate
            Candidate(layer=1, connector_layer=None, head=None)
        """
        known = [row for row in self.rows() if row.candidate.head is None and math.isfinite(row.ratio)]
        if not known:
            raise AttnLensError(
                "No layer has an attention ratio: in every example its map is flat zero or not finite. "
                "Check the adapter on one image with `attnlens look`."
            )
        return max(known, key=lambda row: (row.covered if by == "crops" else 0.0, row.ratio))

    def best_layer(self, by: By = "ratio") -> int | Literal["mean"]:
        """The layer of the best candidate, as an adapter's `defaults.layer` takes it.

        Args:
            by: what is best, as in `best`.

        Returns:
            The layer's number, or "mean" for the mean of all.

        Raises:
            AttnLensError: if no candidate has a ratio.

        Examples:
            >>> examples = attnlens.evaluate.pocket_examples("validation", ["small"], ["read"], count=2)
            >>> attnlens.analysis.rank(lens, examples).best_layer()
            1
        """
        return self.best(by).candidate.layer

    def best_connector_layer(self, by: By = "ratio") -> int | Literal["mean"] | None:
        """The connector layer of the best candidate, as an adapter's `defaults.connector_layer` takes it.

        Args:
            by: what is best, as in `best`.

        Returns:
            The layer's number, "mean" for the mean of all, or None where the connector has no attention.

        Raises:
            AttnLensError: if no candidate has a ratio.

        Examples:
            >>> examples = attnlens.evaluate.pocket_examples("validation", ["small"], ["read"], count=2)
            >>> attnlens.analysis.rank(lens, examples).best_connector_layer() is None
            True
        """
        return self.best(by).candidate.connector_layer

    def rows(self) -> tuple[Row, ...]:
        """What the examples say of every candidate.

        Returns:
            A row for each candidate, in the order of `candidates`.

        Examples:
            >>> examples = attnlens.evaluate.pocket_examples("validation", ["small"], ["read"], count=2)
            >>> [row.candidate.layer for row in attnlens.analysis.rank(lens, examples).rows()]
            [0, 1, 2, 3, 'mean']
        """
        return self._rows

    @cached_property
    def _rows(self) -> tuple[Row, ...]:
        nobody = np.zeros(self.count, dtype=bool)
        right, wrong = (nobody, nobody) if self.right is None else (self.right, ~self.right)
        return tuple(
            _row(candidate, values, covered, right, wrong)
            for candidate, values, covered in zip(self.candidates, self.values.T, self.covered.T, strict=True)
        )


def rank(
    lens: Lens,
    examples: Iterable[Example],
    *,
    heads: bool = False,
    right: Callable[[str, Sequence[str]], bool] | None = None,
    max_new_tokens: int = 20,
    progress: Callable[[int], object] | None = None,
) -> Ranking:
    """Every pair of layers (and, with `heads`, every head of the language model at it) of `lens` on `examples`.

    The mean of all layers is a candidate too, the last of those that are no heads. Two traces for each example give all
    its maps; the crop is `boxes.search` with the adapter's window.

    Args:
        lens: the model whose layers are ranked.
        examples: questions about images, each with its box, such as those of `attnlens.evaluate`.
        heads: whether every head of the language model is a candidate, too, at every pair of layers.
        right: (answer, labels) -> bool, judges the model's first answer, for the split by right and wrong
            (`attnlens.evaluate.is_correct`); None asks for no answers.
        max_new_tokens: the most tokens of an answer.
        progress: called with the number of examples done; None calls nothing.

    Returns:
        The attention ratios and crops of every candidate on every example.

    Raises:
        AttnLensError: before anything is read, when there is no example or one without a box.

    Examples:
        >>> examples = attnlens.evaluate.pocket_examples("validation", ["small"], ["read"], count=2)
        >>> ranking = attnlens.analysis.rank(lens, examples, right=attnlens.evaluate.is_correct)
        >>> ranking.values.shape, ranking.best_layer()
        ((2, 5), 1)
    """
    given = list(examples)
    _check(given)
    measured, judged = [], []
    for number, example in enumerate(given):
        reading = lens.read(example.open())
        measured.append(_measured(lens, reading, example, heads))
        if right is not None:
            judged.append(right(reading.answer(example.question, max_new_tokens).text, example.labels))
        if progress is not None:
            progress(number + 1)
    return Ranking(
        candidates=measured[0].candidates,
        values=np.stack([one.values for one in measured]),
        covered=np.stack([one.covered for one in measured]),
        right=None if right is None else np.array(judged, dtype=bool),
        depth=lens.depth,
    )


def _check(examples: Sequence[Example]) -> None:
    if not examples:
        raise AttnLensError("There is no example to rank layers on. Give at least one, better a hundred.")
    without = [number for number, example in enumerate(examples) if example.box is None]
    if without:
        first = examples[without[0]]
        name = getattr(first, "id", without[0])
        raise AttnLensError(
            f"{len(without)} of {len(examples)} examples have no box, the first is {name!r} ({first.question!r}). "
            "An attention ratio needs the target's box (x1, y1, x2, y2), in original pixels: add it, or leave them out."
        )


class _Measured(NamedTuple):
    """One example: [candidates] each."""

    candidates: tuple[Candidate, ...]
    values: Array
    covered: NDArray[np.bool_]


def _measured(lens: Lens, reading: Reading, example: Example, heads: bool) -> _Measured:
    """Pairs of layers, connector layer by connector layer; the mean of all; then the pairs head by head."""
    question = example.question
    box = Box.from_any(example.box, reading.image.size)
    pairs, grid = relative_attention_by_layer(reading, question)
    mean = relative_attention(reading, question, "mean", connector_layer="mean")
    through: Sequence[int | None] = lens.connector_layers or [None]
    candidates = [Candidate(layer, k) for k in through for layer in lens.layers]
    maps = [pairs.reshape(-1, *grid.shape), mean.values[None]]
    each = []
    if heads:
        single, _ = relative_attention_by_layer(reading, question, heads=True)
        each = [pair._replace(head=head) for pair in candidates for head in range(single.shape[2])]
        maps.append(single.reshape(-1, *grid.shape))
    candidates += [Candidate("mean", "mean" if lens.connector_layers else None), *each]
    stack = np.concatenate(maps)
    held = [_covers(ImportanceMap(one, grid), box, reading.defaults.window) for one in stack]
    return _Measured(tuple(candidates), box_ratios(stack, grid, box), np.array(held))


def _covers(importance: ImportanceMap, box: Box, window: int | None) -> bool:
    """Whether the crop holds at least half of `box`; where no crop stands out there is none to hold it."""
    found = search(importance) if window is None else search(importance, window)
    return found[0].confident and found[0].box.covers(box)


def _row(
    candidate: Candidate, values: Array, covered: NDArray[np.bool_], right: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> Row:
    """From [examples] each."""
    known = np.isfinite(values)
    ratio, interval = _mean(values[known])
    right_ratio, right_interval = _mean(values[known & right])
    wrong_ratio, wrong_interval = _mean(values[known & wrong])
    return Row(
        candidate=candidate,
        ratio=ratio,
        interval=interval,
        covered=float(covered.mean()),
        right=right_ratio,
        right_interval=right_interval,
        wrong=wrong_ratio,
        wrong_interval=wrong_interval,
    )


def _mean(values: Array) -> tuple[float, tuple[float, float]]:
    """The mean, and its 95 % bootstrap interval, which takes two values or more."""
    if len(values) < 2:
        return float(values[0]) if len(values) else math.nan, (math.nan, math.nan)
    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, n_resamples=_RESAMPLES, batch=_BATCH, method="percentile", rng=rng)
    return float(values.mean()), (float(found.confidence_interval.low), float(found.confidence_interval.high))
