"""Relative attention and gradient-weighted attention (ViCrop, arXiv 2502.17422)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Reading
from attnlens.lens.trace import Trace

GENERIC_QUESTION = "Write a general description of the image."
"""The paper's q': what the question's attention is measured against."""

RELEASED_SUFFIX = " Answer the question using a single word or phrase."
"""What the released code adds to the generic question too, and the paper does not show."""

EPSILON = 1e-6
"""Of a ratio's denominator, relative to its mean: it keeps a cell without generic attention from becoming infinite."""

Variant = Literal["paper", "released"]
Layer = int | Literal["mean"] | None
Array = NDArray[np.float32]


def relative_attention(
    reading: Reading,
    question: str,
    layer: Layer = None,
    *,
    connector_layer: Layer = None,
    generic: str = GENERIC_QUESTION,
    variant: Variant = "paper",
    image: int = 0,
) -> ImportanceMap:
    """A_rel(x, q) = A_si(x, q) / A_si(x, q'): attention to the image for the question, against a generic one.

    A_si is the head-mean attention of the last prompt token to the image tokens at one layer, carried to patches by
    the head-mean attention of one connector layer where the connector has attention. `layer`: a layer's number,
    "mean" for the mean of all, None for the adapter's default. `generic`: q'. `image`: which of the images read.
    Deviation: the denominator has `EPSILON` times its own mean added; `variant="released"` divides plainly and
    appends the released code's suffix to q'. Raises `AttnLensError` for an unknown layer, image or variant.
    """
    trace, reference = _question_and_generic(reading, question, generic, variant)
    options = (layer, connector_layer, image)
    values = _relative(_attended(reading, trace, *options), _attended(reading, reference, *options), variant)
    return ImportanceMap(values, trace.grids[image])


def relative_attention_by_layer(
    reading: Reading,
    question: str,
    *,
    heads: bool = False,
    generic: str = GENERIC_QUESTION,
    variant: Variant = "paper",
    image: int = 0,
) -> tuple[Array, Grid]:
    """A_rel at every pair of layers, from the same two traces as one map of `relative_attention`; and where it lies.

    float32 [connector_layers, layers, rows, cols], connector_layers being 1 where the connector has no attention; with
    `heads` [connector_layers, layers, heads, rows, cols], one for each head of the language model, the connector's
    heads averaged. `layers` are those of `Trace.layers`. Other parameters and errors as in `relative_attention`.
    """
    trace, reference = _question_and_generic(reading, question, generic, variant)
    values = _relative(_all_attended(trace, heads, image), _all_attended(reference, heads, image), variant)
    return values, trace.grids[image]


def gradient_attention(
    reading: Reading,
    question: str,
    layer: Layer = None,
    *,
    connector_layer: Layer = None,
    image: int = 0,
) -> ImportanceMap:
    """A~_st = A_st * max(0, dv/dA_st), and the same in the connector: attention that raises the answer's probability.

    v = log p(t*), t* the most probable next token. Heads are averaged after the product, in the paper's code and
    here. Parameters and errors as in `relative_attention`. Only the last token (or, behind a question-dependent
    connector, the language model) needs a backward pass.
    """
    trace = reading.trace(question, gradients=True)
    if trace.attention_gradient is None:
        raise AttnLensError("The trace holds no gradients, although they were asked for.")
    weighted = trace.attention * np.maximum(trace.attention_gradient, 0)
    connector = trace.connector_attention
    if connector is not None and trace.connector_gradient is not None:
        connector = connector * np.maximum(trace.connector_gradient, 0)
    values = _carried(reading, trace, weighted, connector, layer, connector_layer, image)
    return ImportanceMap(values, trace.grids[image])


def _question_and_generic(reading: Reading, question: str, generic: str, variant: Variant) -> tuple[Trace, Trace]:
    check_variant(variant)
    reference = reading.trace(generic + RELEASED_SUFFIX if variant == "released" else generic)
    return reading.trace(question), reference  # the question second: an answer decodes on from its tail


def _relative(attended: Array, reference: Array, variant: Variant) -> Array:
    """The ratio of two [..., rows, cols], which the paper's code takes plainly."""
    mean = reference.mean(axis=(-2, -1), keepdims=True).astype(np.float64) if variant == "paper" else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return attended / (reference + np.float32(EPSILON * mean))


def _attended(reading: Reading, trace: Trace, layer: Layer, connector_layer: Layer, image: int) -> Array:
    return _carried(reading, trace, trace.attention, trace.connector_attention, layer, connector_layer, image)


def _all_attended(trace: Trace, heads: bool, image: int) -> Array:
    """A_si of every pair of layers: [connector_layers, layers, rows, cols], or with heads before the rows."""
    span = _span(trace, image)
    tokens = trace.attention[..., span]
    if not heads:
        tokens = tokens.mean(axis=1)
    if trace.connector_attention is None:
        return trace.layouts[image].on_grid(tokens[None])
    patches = _patches_of(trace, trace.connector_attention.mean(axis=1), image)
    return trace.layouts[image].on_grid(np.stack([tokens @ one for one in patches]))


def _carried(
    reading: Reading,
    trace: Trace,
    rows: Array,
    connector: Array | None,
    layer: Layer,
    connector_layer: Layer,
    image: int,
) -> Array:
    """Head means at one layer pair, multiplied through, on one image's grid: [rows, cols]."""
    span = _span(trace, image)
    tokens = _at(rows.mean(axis=1), reading.lens.layer(layer))[span]
    if connector is not None:
        patches = _at(connector.mean(axis=1), reading.lens.connector_layer(connector_layer))
        tokens = tokens @ _patches_of(trace, patches, image)
    return trace.layouts[image].on_grid(tokens)


def _patches_of(trace: Trace, values: Array, image: int) -> Array:
    """[..., image_tokens, patches] -> that image's tokens and patches."""
    return values[..., _span(trace, image), : len(trace.layouts[image].cells)]


def _span(trace: Trace, image: int) -> slice:
    """That image's part of the image tokens."""
    if not 0 <= image < len(trace.spans):
        raise AttnLensError(f"There is no image {image}: the reading holds {len(trace.spans)}, counted from 0.")
    return trace.spans[image]


def _at(values: Array, index: int | None) -> Array:
    """One layer, or the mean of all."""
    return values.mean(axis=0) if index is None else values[index]


def check_variant(variant: str) -> None:
    """Raises `AttnLensError` unless `variant` is one that exists."""
    if variant not in ("paper", "released"):
        raise AttnLensError(f"The variant is {variant!r}; expected 'paper' or 'released'.")
