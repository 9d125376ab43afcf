"""The attention ratio of every layer: how much more a model looks at the target than at an equal box elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attnlens.importance import box_ratios
from attnlens.lens import Reading
from attnlens.maps._attention import relative_attention_by_layer


def attention_ratios(
    reading: Reading, question: str, box: Sequence[float], *, heads: bool = False
) -> NDArray[np.float64]:
    """Every layer pair's attention ratio (ViCrop, arXiv 2502.17422, figure 3).

    That is the sum of relative attention inside `box` over the mean of the same sum at every position of an equal-size
    box. Above 1, the layer looks there more than chance would have it. One trace for the question and one for the
    generic prompt give all of them.

    Args:
        reading: what `lens.read` returned; its first image is looked at.
        question: the question about the image.
        box: (x1, y1, x2, y2) of the target, half-open, in pixels of the original image.
        heads: False averages the heads of the language model; True gives a ratio for each of them.

    Returns:
        float64 [connector_layers, layers]; with `heads`, float64 [connector_layers, layers, heads].
            `connector_layers` is 1 where the connector has no attention, and `layers` are those of `Trace.layers`.
            Flattened, the index is the paper's combined layer m + k * layers. NaN where a map has nothing to compare
            with (`ImportanceMap.attention_ratio`).

    Raises:
        AttnLensError: for a box that does not fit the image.

    Examples:
        >>> ratios = attnlens.analysis.attention_ratios(reading, question, scene.box)
        >>> ratios.shape, int(ratios[0].argmax())  # which layer looks there most
        ((1, 4), 1)
    """
    values, grid = relative_attention_by_layer(reading, question, heads=heads)
    return box_ratios(values, grid, box)
