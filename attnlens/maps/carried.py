"""From attention to image tokens to maps on an image's grid: what every map made of attention does last."""

from __future__ import annotations

from typing import Literal

import numpy as np

from attnlens.lens.reading import Reading, numbered
from attnlens.lens.trace import Array, Trace
from attnlens.lens.words import WordAttention
from attnlens.maps.sinks import Sinks, marked, masked

Layer = int | Literal["mean"] | None


def head_maps(
    reading: Reading, question: str, trace: Trace, *, connector_layer: Layer, sinks: Sinks, image: int
) -> Array:
    """[layers, heads, rows, cols]: what each head of the language model looks at in one image."""
    tokens = image_rows(reading, question, trace, trace.attention, sinks=sinks, image=image)
    return carried(reading, trace, tokens, connector_layer, image)


def image_rows(
    reading: Reading,
    question: str,
    seen: Trace | WordAttention,
    rows: Array,
    *,
    layers: slice = slice(None),
    sinks: Sinks,
    image: int,
) -> Array:
    """[layers, ..., image_tokens] of `seen` -> [chosen layers, ..., tokens of one image], each layer's sinks masked."""
    own = span(seen, image)
    marks = marked(reading, question, sinks, (len(rows), rows.shape[-1]))[layers, own]
    return masked(rows[layers][..., own], np.expand_dims(marks, tuple(range(1, rows.ndim - 1))))


def carried(
    reading: Reading,
    seen: Trace | WordAttention,
    tokens: Array,
    connector_layer: Layer,
    image: int,
) -> Array:
    """[..., tokens of one image] -> [..., rows, cols] of its grid.

    Where the connector has attention, its head mean at one layer carries them to patches (ViCrop's A_si).
    """
    if seen.connector_attention is not None:
        mean = at(seen.connector_attention.mean(axis=1), reading.lens.connector_layer(connector_layer))
        tokens = tokens @ patches_of(seen, mean, image)
    return seen.layouts[image].on_grid(tokens)


def patches_of(seen: Trace | WordAttention, values: Array, image: int) -> Array:
    """[..., image_tokens, patches] -> that image's tokens and patches."""
    return values[..., span(seen, image), : len(seen.layouts[image].cells)]


def span(seen: Trace | WordAttention, image: int) -> slice:
    """That image's part of the image tokens. Raises AttnLensError where there is none."""
    return numbered(seen.spans, image)


def layers_of(reading: Reading, layer: Layer) -> slice:
    """That layer's part of the layers of a trace, or all of them for the mean."""
    index = reading.lens.layer(layer)
    return slice(None) if index is None else slice(index, index + 1)


def at(values: Array, index: int | None) -> Array:
    """One layer, or the mean of all."""
    return values.mean(axis=0) if index is None else values[index]
