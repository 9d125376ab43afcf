"""Yes or no: how sure a model is that what a question asks for is so (FOCUS's c_yes, ZoomEye's confidences)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.images import crop
from attnlens.lens.reading import Reading

YES, NO = ("Yes", "yes", "YES"), ("No", "no", "NO")
LEAST = 0.01
"""Of the probability that yes and no have together: with less, the model answers something else."""


@dataclass(frozen=True)
class Verdict:
    """A model's answer to a yes-or-no question."""

    yes: float
    """p(yes) / (p(yes) + p(no)) as the answer's first token, over the case and leading-space variants of both words."""
    mass: float
    """p(yes) + p(no)."""

    @property
    def confidence(self) -> float:
        """2 (yes - 0.5), from -1 to 1: ZoomEye's measure."""
        return 2 * (self.yes - 0.5)


def verify(reading: Reading, question: str) -> Verdict:
    """What the model says of `question`, about what the reading has read. Raises AttnLensError for another answer.

    verify(lens.read(image), "Is there a red sign in the image?").yes       # 0.93
    """
    log_probs = reading.next_token(question)
    yes, no = (_probability(log_probs, _first_tokens(reading.lens.tokenizer, words)) for words in (YES, NO))
    if not yes + no >= LEAST:
        said = reading.lens.tokenizer.decode([int(log_probs.argmax())])
        raise AttnLensError(
            f"The model answers {question!r} neither with yes nor with no: these have {yes + no:.1g} of the "
            f"probability, and its first token would be {said!r}. Add 'Answer Yes or No.' to the question."
        )
    return Verdict(yes / (yes + no), yes + no)


def verify_crops(reading: Reading, boxes: Sequence[Box], question: str) -> list[Verdict]:
    """The same about each of `boxes`, (x1, y1, x2, y2) in pixels of the first image, each crop read alone."""
    size = reading.image.size
    crops = (crop(reading.image, Box.from_any(box, size)) for box in boxes)
    return [verify(reading.lens.read(one), question) for one in crops]


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
