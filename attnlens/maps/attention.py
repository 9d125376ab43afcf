"""Relative attention and gradient-weighted attention (ViCrop, arXiv 2502.17422)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Reading
from attnlens.lens.trace import Array, Trace
from attnlens.maps.carried import Layer, carried, image_rows, layers_of, patches_of, span
from attnlens.maps.sinks import Sinks, left_on_grid, marked

GENERIC_QUESTION = "Write a general description of the image."
"""The paper's q': what the question's attention is measured against."""

RELEASED_SUFFIX = " Answer the question using a single word or phrase."
"""What the released code adds to the generic question too, and the paper does not show."""

EPSILON = 1e-6
"""Of a ratio's denominator, relative to its mean: it keeps a cell without generic attention from becoming infinite."""

Variant = Literal["paper", "released"]


def relative_attention(
    reading: Reading,
    question: str,
    layer: Layer = None,
    *,
    connector_layer: Layer = None,
    generic: str = GENERIC_QUESTION,
    variant: Variant = "paper",
    sinks: Sinks = "keep",
    image: int = 0,
) -> ImportanceMap:
    """A_rel(x, q) = A_si(x, q) / A_si(x, q'): attention to the image for the question, against a generic one.

    A_si is the head-mean attention of the last prompt token to the image tokens at one layer, carried to patches by
    the head-mean attention of one connector layer where the connector has attention. `layer`: a layer's number,
    "mean" for the mean of all, None for the adapter's default. `generic`: q'. `image`: which of the images read.
    `sinks="mask"` takes each layer's attention sinks (`Reading.sinks`) out of both attentions before anything is
    averaged or carried, and gives cells of which nothing is left the least ratio of the others.
    Deviation: the denominator has `EPSILON` times its own mean added; `variant="released"` divides plainly and
    appends the released code's suffix to q'. Raises `AttnLensError` for an unknown layer, image or variant, and where
    sinks are to be masked that are not known, or are all there is.
    """
    trace, reference = _question_and_generic(reading, question, generic, variant)
    asked, whole = (
        _attended(reading, question, one, layer, connector_layer, sinks, image) for one in (trace, reference)
    )
    values = _relative(asked, whole, variant)
    if trace.connector_attention is None:
        marks = marked(reading, question, sinks, (len(trace.layers), trace.attention.shape[-1]))
        values = left_on_grid(values, marks[layers_of(reading, layer), span(trace, image)], trace.layouts[image])
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
    sinks: Sinks = "keep",
    image: int = 0,
) -> ImportanceMap:
    """A~_st = A_st * max(0, dv/dA_st), and the same in the connector: attention that raises the answer's probability.

    v = log p(t*), t* the most probable next token. Heads are averaged after the product, in the paper's code and
    here. Parameters and errors as in `relative_attention`; `sinks="mask"` works on each layer's head mean of the
    product. Only the last token (or, behind a question-dependent connector, the language model) needs a backward pass.
    """
    trace = reading.trace(question, gradients=True)
    if trace.attention_gradient is None:
        raise AttnLensError("The trace holds no gradients, although they were asked for.")
    weighted = replace(trace, attention=trace.attention * np.maximum(trace.attention_gradient, 0))
    if trace.connector_attention is not None and trace.connector_gradient is not None:
        connector = trace.connector_attention * np.maximum(trace.connector_gradient, 0)
        weighted = replace(weighted, connector_attention=connector)
    values = _attended(reading, question, weighted, layer, connector_layer, sinks, image)
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


def _attended(
    reading: Reading, question: str, seen: Trace, layer: Layer, connector_layer: Layer, sinks: Sinks, image: int
) -> Array:
    """Head means at one layer pair, sinks masked, multiplied through, on one image's grid: [rows, cols]."""
    chosen, rows = layers_of(reading, layer), seen.attention.mean(axis=1)
    tokens = image_rows(reading, question, seen, rows, layers=chosen, sinks=sinks, image=image).mean(axis=0)
    return carried(reading, seen, tokens, connector_layer, image)


def _all_attended(trace: Trace, heads: bool, image: int) -> Array:
    """A_si of every pair of layers: [connector_layers, layers, rows, cols], or with heads before the rows."""
    tokens = trace.attention[..., span(trace, image)]
    if not heads:
        tokens = tokens.mean(axis=1)
    if trace.connector_attention is None:
        return trace.layouts[image].on_grid(tokens[None])
    patches = patches_of(trace, trace.connector_attention.mean(axis=1), image)
    return trace.layouts[image].on_grid(np.stack([tokens @ one for one in patches]))


def check_variant(variant: str) -> None:
    """Raises `AttnLensError` unless `variant` is one that exists."""
    if variant not in ("paper", "released"):
        raise AttnLensError(f"The variant is {variant!r}; expected 'paper' or 'released'.")
