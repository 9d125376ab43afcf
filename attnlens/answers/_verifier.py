"""Yes or no: how sure a model is that what a question asks for is so (FOCUS's c_yes, ZoomEye's confidences)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from attnlens.answers._reprompt import RegionLike, crops_of
from attnlens.errors import AttnLensError
from attnlens.lens import Reading

YES, NO = ("Yes", "yes", "YES"), ("No", "no", "NO")
LEAST = 0.01
"""Of the probability that yes and no have together: with less, the model answers something else."""


@dataclass(frozen=True)
class Verdict:
    """A model's answer to a yes-or-no question.

    Examples:
        >>> answers.Verdict(yes=0.75, mass=0.99).confidence
        0.5
    """

    yes: float
    """p(yes) / (p(yes) + p(no)) as the answer's first token, over the case and leading-space variants of both words."""
    mass: float
    """p(yes) + p(no)."""

    @property
    def confidence(self) -> float:
        """2 (yes - 0.5), from -1 to 1: ZoomEye's measure."""
        return 2 * (self.yes - 0.5)


def verify(reading: Reading, question: str) -> Verdict:
    """What the model says of `question`, about what the reading has read.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: a question to be answered with yes or no.

    Returns:
        The verdict: how sure the model is of yes, from 0 to 1 as `yes` and from -1 to 1 as `confidence`.

    Raises:
        AttnLensError: for another answer: where yes and no together have less than a hundredth of the probability.

    Examples:
        >>> answers.verify(reading, "Is there a pink sign in the image?").yes > 0.5
        True
        >>> answers.verify(reading, "Is there a blue sign in the image?").yes > 0.5
        False
    """
    return _verdict(reading.next_token(question), question, reading.tokenizer)


def verify_crops(reading: Reading, boxes: Sequence[RegionLike], question: str, batch: int = 8) -> list[Verdict]:
    """What the model says of `question` about each of `boxes`, each crop read alone.

    Args:
        reading: what the model has read: `lens.read(image)`.
        boxes: (x1, y1, x2, y2) in pixels of the first image, or `Region`, which says of which image. Of none there is
            no verdict, and nothing is asked.
        question: a question to be answered with yes or no.
        batch: how many crops go through the model together at most, those of like prompts; at least 1.

    Returns:
        A verdict for each box, in their order.

    Raises:
        AttnLensError: for a box that is malformed or outside its image, an image that was not read, a `batch` that is
            no whole number of at least 1, and for another answer than yes or no, as `verify` does.

    Examples:
        >>> asked = "Is there a pink sign in the image?"
        >>> verdicts = answers.verify_crops(reading, [scene.box, (0, 0, 100, 100)], asked)
        >>> [round(one.yes, 1) for one in verdicts]
        [1.0, 0.0]
    """
    if not len(boxes):
        return []
    asked, tokenizer = reading.next_tokens(crops_of(reading, boxes), question, batch), reading.tokenizer
    return [_verdict(log_probs, question, tokenizer) for log_probs in asked]


def _verdict(log_probs: Any, question: str, tokenizer: Any) -> Verdict:
    yes, no = (_probability(log_probs, _first_tokens(tokenizer, words)) for words in (YES, NO))
    if not yes + no >= LEAST:
        said = tokenizer.decode([int(log_probs.argmax())])
        raise AttnLensError(
            f"The model answers {question!r} neither with yes nor with no: these have {yes + no:.1g} of the "
            f"probability, and its first token would be {said!r}. Add 'Answer Yes or No.' to the question."
        )
    return Verdict(yes / (yes + no), yes + no)


def _probability(log_probs: Any, tokens: Sequence[int]) -> float:
    return float(np.exp(log_probs[list(tokens)].astype(np.float64)).sum())


@lru_cache(maxsize=8)
def _first_tokens(tokenizer: Any, words: tuple[str, ...]) -> tuple[int, ...]:
    """The tokens that begin one of `words`, with a space before it or not, and that spell some of its letters."""
    found = set()
    for text in (variant for word in words for variant in (word, f" {word}")):
        for token in tokenizer.encode(text, add_special_tokens=False):
            if tokenizer.decode([token]).strip():
                found.add(token)
                break
    return tuple(sorted(found))
