"""What one image has of a trace: everything that a map of attention is made of, at the layers that it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from attnlens._checks import is_whole
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts import Layout
from attnlens.lens._trace import Array, Trace
from attnlens.lens._words import WordAttention

T = TypeVar("T")


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
    seen: Trace | WordAttention,
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

    gradient = seen.attention_gradient if isinstance(seen, Trace) else None
    own = seen.attention[layers][..., tokens]
    return ImageTrace(
        attention=own,
        gradient=None if gradient is None else gradient[layers][..., tokens],
        connector=of_connector(seen.connector_attention),
        connector_gradient=of_connector(seen.connector_gradient) if isinstance(seen, Trace) else None,
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
