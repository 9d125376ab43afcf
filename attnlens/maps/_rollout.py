"""From attention to image tokens to maps on an image's grid: what every map made of attention does last.

Some image tokens draw attention whatever is asked, because a few dimensions of their hidden state are massive: visual
attention sinks (VAR, arXiv 2503.03321). `Reading.sinks` tells which. Every map of attention takes `sinks="keep"`, which
leaves them as they are, or "mask", by which each gets the least of what the image's other tokens have, and stands out
from nothing. (VAR itself gives part of their attention to other tokens inside the model, to change its answer; a map
needs no such thing.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnlens.errors import AttnLensError
from attnlens.lens._layouts import Layout
from attnlens.lens._trace import Array, ImageTrace

Marks = NDArray[np.bool_]


def on_image(seen: ImageTrace, tokens: Array, connector: Array | None = None) -> Array:
    """[..., tokens of the image] -> [..., rows, cols] of its grid.

    Where the connector has attention, its mean over heads and layers carries them to patches (ViCrop's A_si).
    `connector`: in the place of its attention, [connector_layers, heads, tokens, patches].
    """
    weights = seen.connector if connector is None else connector
    if weights is not None:
        tokens = tokens @ weights.mean(axis=1).mean(axis=0)
    return seen.layout.on_grid(tokens)


def head_maps(seen: ImageTrace) -> Array:
    """[layers, heads, rows, cols]: what each head of the language model looks at in the image, sinks masked."""
    return on_image(seen, masked(seen.attention, seen.sinks))


def masked(rows: Array, marks: Marks) -> Array:
    """[layers, ..., tokens] with each token that is marked at its layer at the least of the unmarked ones of its row.

    `marks`: [layers, tokens]. Raises `AttnLensError` where all of a row are marked: there is nothing left to look at,
    and a flat row would be a silent fallback.
    """
    if not marks.any():
        return rows
    marks = np.broadcast_to(np.expand_dims(marks, tuple(range(1, rows.ndim - 1))), rows.shape)
    if marks.all(axis=-1).any():
        raise AttnLensError(
            "Every image token is a sink at one of the layers looked at: nothing would be left of its attention. Use "
            "another layer, or sinks='keep'."
        )
    return np.where(marks, np.where(marks, np.inf, rows).min(axis=-1, keepdims=True), rows).astype(np.float32)


def left_on_grid(values: Array, marks: Marks, layout: Layout) -> Array:
    """A ratio [rows, cols], with each cell of which `marks` [layers, tokens of one image] leave nothing at the least of
    the others: what two masked maps have there is no attention to divide."""
    gone = np.all(marks, axis=0)
    if not gone.any():
        return values
    held, left = (layout.on_grid(tokens.astype(np.float32)) for tokens in (np.ones_like(gone), ~gone))
    empty = (held > 0) & (left == 0)
    return masked(values.reshape(1, -1), empty.reshape(1, -1)).reshape(values.shape)
