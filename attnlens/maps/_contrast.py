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
from attnlens.lens._observed import LayerChoice, Sinks
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

    A is the attention of the last prompt token to the image, head by head, and q' is `removed` (LASER, arXiv
    2602.04304). Of every head at every layer the contrast is a map. A layer's score is the mean L2 norm of the maps of
    its `top_heads` heads with the largest; the result is the mean of those of the layer with the highest score, the
    first of equals.

    Where the connector has attention, both A are carried to patches by its head mean at one layer before they are
    subtracted, since it may read the question too. Two traces, that of q' once for all questions about an image.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: q, the question about the image.
        removed: q', what stands in the question's place where it is removed. It holds some text, as a prompt's template
            needs some.
        top_heads: how many heads of a layer count, those with the largest contrast. None: half of the heads, at least
            one; the paper does not state their number. More than there are means all.
        connector_layer: the number of the connector's attention layer that carries tokens to patches, counted from 0;
            "mean" for the mean of all; None for the adapter's default. Not looked at where the connector has no
            attention.
        sinks: "keep" leaves attention sinks as they are. "mask" gives each sink for `question` (`Reading.sinks`), head
            by head and in both A, the least that the image's other tokens have.
        image: which of the images read, counted from 0.

    Returns:
        The mean contrast: float32 [rows, cols], 0 or more, on the image's grid, which lies in pixels of the original
            image.

    Raises:
        AttnLensError: for an unknown connector layer or image; for a `top_heads` that is no whole number of at least 1;
            for a `removed` without text; and where sinks are to be masked that are not known, or are all there is.

    Examples:
        >>> importance = maps.query_contrast(reading, question)
        >>> importance.attention_ratio(scene.box) > 10  # chance is 1
        True
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
