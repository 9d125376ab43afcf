"""Relative attention and gradient-weighted attention (ViCrop, arXiv 2502.17422)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.lens._observed import LayerChoice, Sinks
from attnlens.lens._trace import Array, ImageTrace
from attnlens.maps._rollout import left_on_grid, masked, on_image

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
    layer: LayerChoice = None,
    *,
    connector_layer: LayerChoice = None,
    generic: str = GENERIC_QUESTION,
    variant: Variant = "paper",
    sinks: Sinks = "keep",
    image: int = 0,
) -> ImportanceMap:
    """A_rel(x, q) = A_si(x, q) / A_si(x, q'): attention to the image for the question, against a generic one.

    A_si is the head-mean attention of the last prompt token to the image tokens at one layer, carried to patches by the
    head-mean attention of one connector layer where the connector has attention (ViCrop, arXiv 2502.17422).

    Deviation: the denominator has `EPSILON`, 1e-6, times its own mean added, which keeps a cell without generic
    attention from becoming infinite. The variant "released" divides plainly.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: q, the question about the image.
        layer: the number of the layer that is looked at, counted from 0; "mean" for the mean of all; None for the
            adapter's default.
        connector_layer: the number of the connector's attention layer that carries tokens to patches, counted from 0;
            "mean" for the mean of all; None for the adapter's default. Not looked at where the connector has no
            attention.
        generic: q', the question that attention is measured against.
        variant: "paper", or "released", which divides plainly and appends the released code's suffix to q': " Answer
            the question using a single word or phrase."
        sinks: "keep" leaves attention sinks as they are. "mask" takes each layer's sinks for `question`
            (`Reading.sinks`) out of both attentions before anything is averaged or carried, and gives cells of which
            nothing is left the least ratio of the others.
        image: which of the images read, counted from 0.

    Returns:
        The ratios: float32 [rows, cols] on the image's grid, which lies in pixels of the original image.

    Raises:
        AttnLensError: for an unknown layer, image or variant; where sinks are to be masked that are not known, or are
            all there is; and where the generic question draws no attention to the image at the layer looked at.

    Examples:
        >>> importance = maps.relative_attention(reading, question)
        >>> importance.grid.shape
        (10, 10)
        >>> importance.attention_ratio(scene.box) > 10  # chance is 1
        True
    """
    looked = _generic_and_question(
        reading, question, generic, variant, image, layer=layer, connector_layer=connector_layer, sinks=sinks
    )
    marks = looked[1].sinks
    whole, asked = (on_image(one, masked(one.attention.mean(axis=1), marks).mean(axis=0)) for one in looked)
    if not whole.any():
        raise AttnLensError(
            f"The generic question {generic!r} draws no attention to the image at the layer looked at, so there is "
            "nothing to divide by: a sparse model's layer may leave all image tokens out. Use another layer (layer=), "
            "another generic question, or gradient_attention."
        )
    values = _relative(asked, whole, variant)
    if looked[1].connector is None:
        values = left_on_grid(values, marks, looked[1].layout)
    return ImportanceMap(values, looked[1].grid)


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

    Attention sinks are kept.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: q, the question about the image.
        heads: whether each head of the language model has a map of its own, the connector's heads averaged; False
            averages both.
        generic: q', the question that attention is measured against.
        variant: "paper" or "released", as in `relative_attention`.
        image: which of the images read, counted from 0.

    Returns:
        Two values. The ratios: float32 [connector_layers, layers, rows, cols], or with `heads` [connector_layers,
            layers, heads, rows, cols]; `connector_layers` is 1 where the connector has no attention, and `layers` are
            those of `Trace.layers`. And the grid of the rows and columns, in pixels of the original image. At a layer
            where the generic question draws no attention to the image, ratios are infinite or NaN.

    Raises:
        AttnLensError: for an unknown image or variant.

    Examples:
        >>> ratios, grid = maps.relative_attention_by_layer(reading, question)
        >>> ratios.shape, grid.shape
        ((1, 4, 10, 10), (10, 10))
        >>> maps.relative_attention_by_layer(reading, question, heads=True)[0].shape
        (1, 4, 4, 10, 10)
    """
    looked = _generic_and_question(
        reading, question, generic, variant, image, layer="mean", connector_layer="mean", sinks="keep"
    )
    whole, asked = (_by_layer(one, heads) for one in looked)
    return _relative(asked, whole, variant), looked[1].grid


def gradient_attention(
    reading: Reading,
    question: str,
    layer: LayerChoice = None,
    *,
    connector_layer: LayerChoice = None,
    sinks: Sinks = "keep",
    image: int = 0,
) -> ImportanceMap:
    """A~_st = A_st * max(0, dv/dA_st), and the same in the connector: attention that raises the answer's probability.

    v = log p(t*), t* the most probable next token (ViCrop, arXiv 2502.17422). Heads are averaged after the product, in
    the paper's code and here. Only the last token (or, behind a question-dependent connector, the language model) needs
    a backward pass.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: the question about the image.
        layer: the number of the layer that is looked at, counted from 0; "mean" for the mean of all; None for the
            adapter's default.
        connector_layer: the number of the connector's attention layer that carries tokens to patches, counted from 0;
            "mean" for the mean of all; None for the adapter's default. Not looked at where the connector has no
            attention.
        sinks: "keep" leaves attention sinks as they are. "mask" works on each layer's head mean of the product: a sink
            (`Reading.sinks`) gets the least that the image's other tokens have.
        image: which of the images read, counted from 0.

    Returns:
        The weighted attention: float32 [rows, cols], 0 or more, on the image's grid, which lies in pixels of the
            original image.

    Raises:
        AttnLensError: for an unknown layer or image, and where sinks are to be masked that are not known, or are all
            there is.

    Examples:
        >>> importance = maps.gradient_attention(reading, question)
        >>> importance.attention_ratio(scene.box) > 10  # chance is 1
        True
    """
    seen = reading.image_trace(
        question, image, layer=layer, connector_layer=connector_layer, gradients=True, sinks=sinks
    )
    weighted = masked(_raising(seen.attention, seen.gradient).mean(axis=1), seen.sinks).mean(axis=0)
    connector = None if seen.connector is None else _raising(seen.connector, seen.connector_gradient)
    return ImportanceMap(on_image(seen, weighted, connector), seen.grid)


def _raising(attention: Array, gradient: Array | None) -> Array:
    """Attention times its gradient, where that is positive."""
    if gradient is None:
        raise AttnLensError("The trace holds no gradients, although they were asked for.")
    return np.asarray(attention * np.maximum(gradient, 0))


def _generic_and_question(
    reading: Reading,
    question: str,
    generic: str,
    variant: Variant,
    image: int,
    *,
    layer: LayerChoice,
    connector_layer: LayerChoice,
    sinks: Sinks,
) -> tuple[ImageTrace, ImageTrace]:
    """The question second: an answer decodes on from its tail. What is masked are its sinks."""
    check_variant(variant)
    generic += RELEASED_SUFFIX if variant == "released" else ""
    return (
        reading.image_trace(generic, image, layer=layer, connector_layer=connector_layer),
        reading.image_trace(question, image, layer=layer, connector_layer=connector_layer, sinks=sinks),
    )


def _relative(attended: Array, reference: Array, variant: Variant) -> Array:
    """The ratio of two [..., rows, cols], which the paper's code takes plainly."""
    mean = reference.mean(axis=(-2, -1), keepdims=True).astype(np.float64) if variant == "paper" else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return attended / (reference + np.float32(EPSILON * mean))


def _by_layer(seen: ImageTrace, heads: bool) -> Array:
    """A_si of every pair of layers: [connector_layers, layers, rows, cols], or with heads before the rows."""
    tokens = seen.attention if heads else seen.attention.mean(axis=1)
    if seen.connector is None:
        return seen.layout.on_grid(tokens[None])
    return seen.layout.on_grid(np.stack([tokens @ patches for patches in seen.connector.mean(axis=1)]))


def check_variant(variant: str) -> None:
    """Raises `AttnLensError` unless `variant` is one that exists."""
    if variant not in ("paper", "released"):
        raise AttnLensError(f"The variant is {variant!r}; expected 'paper' or 'released'.")
