"""The input gradient (ViCrop's pure-grad, arXiv 2502.17422)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, median_filter

from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.maps._attention import GENERIC_QUESTION, RELEASED_SUFFIX, Variant, check_variant

SIGMA, RADIUS = 0.8, 1
"""The high-pass filter subtracts a 3 x 3 Gaussian; its sigma is the default of the released code's library."""


def input_gradient(
    reading: Reading,
    question: str,
    *,
    generic: str = GENERIC_QUESTION,
    variant: Variant = "paper",
    image: int = 0,
) -> ImportanceMap:
    """G = |dv/dx| (L2 over channels) on edges only, averaged over each token's pixels; v = log p(t*).

    t* is the most probable next token (ViCrop's pure-grad, arXiv 2502.17422). Edges are pixels whose high-pass
    brightness, after a median filter, exceeds the image's median. A forward and a backward of the whole model (variant
    "released": two).

    Deviation: edges are found on the pixels the model was given, not on a squashed copy, so that mask and gradient
    align. Where the model sees an image in several views, this is the map of the first, that of the tiles.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: the question about the image.
        generic: the generic question whose gradient the variant "released" divides by; "paper" does not ask it.
        variant: "paper": one gradient, 3 x 3 median. "released": the gradient's norm divided by that for `generic`
            (plus the released code's suffix), 7 x 7 median.
        image: which of the images read, counted from 0.

    Returns:
        The mean gradient of each token's pixels: float32 [rows, cols] on the image's grid, which lies in pixels of the
            original image.

    Raises:
        AttnLensError: for an unknown variant or image, and where the pixels reach the model through codes.

    Examples:
        >>> importance = maps.input_gradient(reading, question)
        >>> importance.attention_ratio(scene.box) > 10  # chance is 1
        True
    """
    check_variant(variant)
    reading.image_at(image)  # or an error
    gradient = _norm(reading.pixel_gradient(question)[image])
    if variant == "released":
        with np.errstate(divide="ignore", invalid="ignore"):
            gradient = gradient / _norm(reading.pixel_gradient(generic + RELEASED_SUFFIX)[image])
    canvas = reading.canvases(centred=True)[image]
    masked = gradient * _edges(canvas, 3 if variant == "paper" else 7)
    grid = reading.grids[image]
    return ImportanceMap(_pooled(masked, grid.rows, grid.cols), grid)


def _norm(gradient: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.linalg.norm(gradient, axis=0).astype(np.float32)


def _edges(canvas: NDArray[np.float32], median: int) -> NDArray[np.bool_]:
    """True on edges, [height, width]."""
    high = canvas - gaussian_filter(canvas, sigma=(0, SIGMA, SIGMA), radius=(0, RADIUS, RADIUS), mode="mirror")
    brightness = median_filter(np.linalg.norm(high, axis=0), size=median)
    return np.asarray(brightness > np.median(brightness))


def _pooled(values: NDArray[np.float32], rows: int, cols: int) -> NDArray[np.float32]:
    """Means over equal blocks, whose edges are rounded to whole pixels: [height, width] -> [rows, cols]."""
    y, x = (
        np.round(np.arange(n + 1) * side / n).astype(int) for n, side in zip((rows, cols), values.shape, strict=True)
    )
    sums = np.add.reduceat(np.add.reduceat(values, y[:-1], axis=0), x[:-1], axis=1)
    return np.asarray(sums / np.outer(np.diff(y), np.diff(x)), dtype=np.float32)
