"""What one look at the model gives: attention and gradients for one prompt position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnlens._storage import Stored
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts import Layout

Array = NDArray[np.float32]


def check_axes(
    attention: Array, layers: Sequence[int], spans: Sequence[slice], layouts: Sequence[Layout], axes: int = 3
) -> None:
    """Raises AttnLensError unless `layers` and `spans` are of the first and the last of `axes` axes of `attention`."""
    ends = [0, *(span.stop for span in spans)]
    fit = [span.start == end for span, end in zip(spans, ends, strict=False)]
    shape = attention.shape
    if (
        len(shape) != axes
        or (shape[0], shape[-1]) != (len(layers), ends[-1])
        or len(spans) != len(layouts)
        or not all(fit)
    ):
        raise AttnLensError(
            f"Attention of the shape {shape} does not go with {len(layers)} layers, and spans to {ends[1:]} of "
            f"{len(layouts)} images; expected {axes} axes, [layers, heads, ..., image_tokens]."
        )


@dataclass(frozen=True, eq=False)
class Trace(Stored):
    """Attention from the last prompt token, where the answer starts, to the image (ViCrop: A_st, A_ti).

    With several images, the tokens of all of them stand one after the other along `image_tokens`, and `spans` says
    which belong to which.

    Example:
        >>> seen = reading.trace(question)
        >>> seen.attention.shape, seen.layers, seen.spans, seen.grid.shape
        ((4, 4, 100), (0, 1, 2, 3), (slice(0, 100, None),), (10, 10))
    """

    attention: Array
    """[layers, heads, image_tokens]: softmax weights; what is missing to 1 went to text.

    Where layers differ in their number of heads, those of the smaller ones stand several times.
    """
    attention_gradient: Array | None
    """The same shape: d log p(top_token) / d attention. None unless gradients were asked for."""
    connector_attention: Array | None
    """[connector_layers, heads, image_tokens, patches]: what each image token read of its image's patches (CLS left
    out). None where the connector has no attention."""
    connector_gradient: Array | None
    """The same shape: d log p(top_token) / d connector_attention."""
    layers: tuple[int, ...]
    """The language model's layer numbers along axis 0 of `attention`.

    Of a looped model's layers the last run is seen.
    """
    spans: tuple[slice, ...]
    """For each image, its part of the axis `image_tokens`."""
    layouts: tuple[Layout, ...]
    """For each image, which cells of which views its tokens (or, behind a connector, its patches) are."""
    top_token: int
    """The id of the most probable next token, t* = argmax z."""
    log_prob: float
    """log p(top_token)."""
    input_ids: NDArray[np.int64]
    """[tokens]: the whole prompt as the model saw it, image tokens included."""

    def __post_init__(self) -> None:
        check_axes(self.attention, self.layers, self.spans, self.layouts)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """For each image, where its tokens (or, behind a connector, its patches) lie in the original image."""
        return tuple(layout.grid for layout in self.layouts)

    @property
    def grid(self) -> Grid:
        """The first image's grid."""
        return self.grids[0]
