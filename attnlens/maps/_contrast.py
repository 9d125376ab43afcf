"""What a question adds to attention: with it less without it, at the layer that it moves most (LASER, 2602.04304).

Which layer looks for what is asked depends on what is asked. The paper's Visual Activation by Query finds it for every
sample by itself, where ViCrop reads one fixed layer: no layer needs to be chosen for a model.

    maps.query_contrast(reading, "What is written on the red sign?")
"""

from __future__ import annotations

import numpy as np

from attnlens._checks import is_count
from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.lens._inputs.token_positions import REMOVED
from attnlens.lens._reading import LayerChoice, Sinks
from attnlens.lens._trace import Array
from attnlens.maps._rollout import masked, on_image

TOP = 0.5
"""The share of a layer's heads that are its top heads; the paper does not state their number."""


def query_contrast(
    reading: Reading,
    question: str,
    *,
    removed: str = REMOVED,
    top_heads: int | None = None,
    connector_layer: LayerChoice = None,
    sinks: Sinks = "keep",
    image: int = 0,
) -> ImportanceMap:
    """max(0, A(x, q) - A(x, q')) of the top heads of one layer, averaged: where attention goes because of the question.

    A is the attention of the last prompt token to the image, head by head, and q' is `removed`. Of every head at every
    layer the contrast is a map; a layer's score is the mean L2 norm of the maps of its `top_heads` heads with the
    largest, and the map is the mean of those of the layer with the highest score, the first of equals. `top_heads`:
    half of the heads, at least one, where None is given; more than there are means all. Where the connector has
    attention, both A are carried to patches by its head mean at one layer before they are subtracted, since it may read
    the question too. `sinks`: as in `relative_attention`, head by head and those of `question` in both. Two traces,
    that of q' once for all questions about an image. Raises AttnLensError for an unknown connector layer or image, and
    for a `top_heads` that is no whole number of at least 1.
    """
    if top_heads is not None and not is_count(top_heads):
        raise AttnLensError(f"top_heads is {top_heads!r}; expected a whole number of heads, at least 1.")
    # The question last: an answer decodes on from its tail.
    without = reading.image_trace(removed, image, layer="mean", connector_layer=connector_layer)
    seen = reading.image_trace(question, image, layer="mean", connector_layer=connector_layer, sinks=sinks)
    maps = [on_image(one, masked(one.attention, seen.sinks)) for one in (without, seen)]
    return ImportanceMap(strongest(maps[1] - maps[0], top_heads), seen.grid)


def strongest(difference: Array, top_heads: int | None) -> Array:
    """[layers, heads, rows, cols] -> [rows, cols]: the mean contrast of the top heads of the layer they are most of."""
    contrast = np.maximum(difference, 0)
    count = max(1, int(TOP * contrast.shape[1])) if top_heads is None else top_heads
    norms = np.sqrt(np.square(contrast, dtype=np.float64).sum(axis=(-2, -1)))
    top = np.argsort(-norms, axis=1, kind="stable")[:, :count]
    layer = int(np.take_along_axis(norms, top, axis=1).mean(axis=1).argmax())
    return np.asarray(contrast[layer, top[layer]].mean(axis=0))
