"""What one look at the model gives: attention and gradients for one prompt position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnlens.geometry import Grid
from attnlens.lens.layouts import Layout

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Trace:
    """Attention from the last prompt token, where the answer starts, to the image (ViCrop: A_st, A_ti).

    With several images, the tokens of all of them stand one after the other along `image_tokens`, and `spans` says
    which belong to which.
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
    """The language model's layer numbers along axis 0 of `attention`."""
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

    @property
    def grids(self) -> tuple[Grid, ...]:
        """For each image, where its tokens (or, behind a connector, its patches) lie in the original image."""
        return tuple(layout.grid for layout in self.layouts)

    @property
    def grid(self) -> Grid:
        """The first image's grid."""
        return self.grids[0]
