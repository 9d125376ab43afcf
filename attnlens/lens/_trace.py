"""What one look at the model gives: attention and gradients for one prompt position, and what one image has of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from attnlens._checks import is_whole
from attnlens._storage import Stored
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts import Layout

T = TypeVar("T")
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

    Examples:
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


class Seen(Protocol):
    """What a `Trace` and a `WordAttention` have in common."""

    @property
    def attention(self) -> Array: ...
    @property
    def connector_attention(self) -> Array | None: ...
    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def spans(self) -> tuple[slice, ...]: ...
    @property
    def layouts(self) -> tuple[Layout, ...]: ...


@dataclass(frozen=True, eq=False)
class ImageTrace:
    """A part of a `Trace`, or of a `WordAttention`, whose rows then have an axis of words."""

    attention: Array
    """[layers, heads, (words,) tokens of the image]."""
    gradient: Array | None
    """The same shape, where gradients were asked for."""
    connector: Array | None
    """[connector_layers, heads, tokens, patches of the image]; None where the connector has no attention."""
    connector_gradient: Array | None
    """The same shape, where gradients were asked for."""
    sinks: NDArray[np.bool_]
    """[layers, tokens]: which of the tokens are to be masked."""
    layers: tuple[int, ...]
    """The layer numbers along axis 0 of `attention`."""
    layout: Layout
    """Which cells the tokens (or, behind a connector, the patches) are."""

    @property
    def grid(self) -> Grid:
        """Where the map of the image lies."""
        return self.layout.grid


def image_trace(
    seen: Seen,
    image: int,
    layer: int | None,
    connector_layer: int | None,
    sinks: NDArray[np.bool_] | None,
) -> ImageTrace:
    """The part of `seen` that is of the image of that number.

    `layer`, `connector_layer`: an index along the axis of layers; None: all of them. `sinks`: bool [layers,
    image_tokens], those of all images. Raises AttnLensError where there is no such image.
    """
    tokens = pick_image(seen.spans, image)
    layers, connector_layers = _one_or_all(layer), _one_or_all(connector_layer)
    layout = seen.layouts[image]
    patches = slice(len(layout.cells))

    def of_connector(weights: Array | None) -> Array | None:
        return None if weights is None else weights[connector_layers, :, tokens, patches]

    gradient = getattr(seen, "attention_gradient", None)
    own = seen.attention[layers][..., tokens]
    return ImageTrace(
        attention=own,
        gradient=None if gradient is None else gradient[layers][..., tokens],
        connector=of_connector(seen.connector_attention),
        connector_gradient=of_connector(getattr(seen, "connector_gradient", None)),
        sinks=np.zeros((len(own), own.shape[-1]), dtype=bool) if sinks is None else sinks[layers, tokens],
        layers=seen.layers[layers],
        layout=layout,
    )


def pick_image(values: Sequence[T], number: int) -> T:
    """What `values`, one for each image read, has for the image of that number. Raises `AttnLensError` for no image."""
    if not is_whole(number) or not 0 <= number < len(values):
        raise AttnLensError(f"There is no image {number!r}: the reading holds {len(values)}, counted from 0.")
    return values[number]


def _one_or_all(index: int | None) -> slice:
    return slice(None) if index is None else slice(index, index + 1)
