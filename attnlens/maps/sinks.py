"""Visual attention sinks, out of a map (VAR, arXiv 2503.03321).

Some image tokens draw attention whatever is asked, because a few dimensions of their hidden state are massive.
`Reading.sinks` tells which. Every map of attention takes `sinks="keep"`, which leaves them as they are, or "mask", by
which each gets the least of what the image's other tokens have, and stands out from nothing. (VAR itself gives part
of their attention to other tokens inside the model, to change its answer; a map needs no such thing.)
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from attnlens.errors import AttnLensError
from attnlens.lens.hidden import Marks
from attnlens.lens.layouts import Layout
from attnlens.lens.reading import Reading
from attnlens.lens.trace import Array

Sinks = Literal["keep", "mask"]


def marked(reading: Reading, question: str, sinks: Sinks, shape: tuple[int, int]) -> Marks:
    """Which image tokens to mask, bool `shape` = (layers, image_tokens), as in `Trace`: none under "keep".

    "mask" adds a pass over the prompt the first time (see `Reading.sinks`). Raises `AttnLensError` for another word,
    and where image tokens have no hidden state.
    """
    if sinks == "keep":
        return np.zeros(shape, dtype=bool)
    if sinks != "mask":
        raise AttnLensError(f"sinks is {sinks!r}; expected 'keep' or 'mask'.")
    return reading.sinks(question)


def masked(values: Array, marks: Marks) -> Array:
    """`values` [..., tokens of one image] with each marked one at the least of the unmarked ones of its row.

    `marks` is broadcast to the values: [layers, 1, tokens] for rows of every head. Raises `AttnLensError` where all of
    a row are marked: there is nothing left to look at, and a flat row would be a silent fallback.
    """
    marks = np.broadcast_to(marks, values.shape)
    if marks.all(axis=-1).any():
        raise AttnLensError(
            "Every image token is a sink at one of the layers looked at: nothing would be left of its attention. Use "
            "another layer, or sinks='keep'."
        )
    return np.where(marks, np.where(marks, np.inf, values).min(axis=-1, keepdims=True), values).astype(np.float32)


def left_on_grid(values: Array, marks: Marks, layout: Layout) -> Array:
    """A ratio [rows, cols], with each cell of which `marks` [layers, tokens of one image] leave nothing at the least of
    the others: what two masked maps have there is no attention to divide."""
    gone = np.all(marks, axis=0)
    if not gone.any():
        return values
    held, left = (layout.on_grid(tokens.astype(np.float32)) for tokens in (np.ones_like(gone), ~gone))
    empty = (held > 0) & (left == 0)
    return masked(values.ravel(), empty.ravel()).reshape(values.shape)
