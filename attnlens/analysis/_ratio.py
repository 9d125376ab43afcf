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
    """float64 [connector_layers, layers]: every layer pair's attention ratio (ViCrop, arXiv 2502.17422, figure 3).

    That is the sum of relative attention inside `box` (original pixels) over the mean of the same sum at every position
    of an equal-size box. Heads are averaged; with `heads`, [connector_layers, layers, heads], one ratio for each head
    of the language model. connector_layers is 1 where the connector has no attention; `layers` are those of
    `Trace.layers`; flattened, the index is the paper's combined layer m + k * layers. NaN where a map has nothing to
    compare with (`ImportanceMap.attention_ratio`). One trace for the question and one for the generic prompt give all
    of them. Raises AttnLensError for a box that does not fit the image.

        ratios = attention_ratios(lens.read(image), "What is written on the red sign?", (120, 40, 180, 90))
        ratios.shape, ratios[0].argmax()        # (1, 4), and which layer looks there most
    """
    values, grid = relative_attention_by_layer(reading, question, heads=heads)
    return box_ratios(values, grid, box)
