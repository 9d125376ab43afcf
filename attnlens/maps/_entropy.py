"""The entropy gradient (Entropy-Gradient Grounding, arXiv 2604.08456): one backward pass, no attention.

What the model is in doubt about moves its first answer token's entropy; the image tokens that move it most are those
to look at again.

>>> importance = attnlens.maps.entropy_gradient(lens.read(image), "What is written on the red sign?")
>>> importance.values.shape == importance.grid.shape
True
"""

from __future__ import annotations

from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading


def entropy_gradient(reading: Reading, question: str, *, image: int = 0) -> ImportanceMap:
    """|dH / d(visual embedding)| (L2 over channels) of every image token; H is the first answer token's entropy.

    The embedding is a token's state as it enters the first layer of the language model; in a language model that looks
    at the image by cross-attention, the feature that all its layers are given. Where visual features reach later layers
    beside it (Qwen3-VL's deepstack, Gemma 4's per-layer inputs), the gradient does not count what these do.

    The map is raw: the paper (Entropy-Gradient Grounding, arXiv 2604.08456) smooths it (sigma 1.5), cuts it at the
    elbow and takes connected components, which is `attnlens.boxes.components`. One forward and one backward of the
    whole prompt, under SDPA or flash.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: the question about the image.
        image: which of the images read, counted from 0.

    Returns:
        The norms: float32 [rows, cols], 0 or more, on the image's grid, which lies in pixels of the original image.

    Raises:
        AttnLensError: for an image that was not read, and behind a connector with attention, where image tokens have no
            place.

    Examples:
        >>> importance = maps.entropy_gradient(reading, question)
        >>> importance.attention_ratio(scene.box) > 10  # chance is 1
        True
    """
    reading.image_at(image)  # or an error
    if not reading.tokens_have_places:
        raise AttnLensError(
            "Behind a connector with attention image tokens have no place, and their gradients none either. Use "
            "relative_attention, gradient_attention or input_gradient."
        )
    layout = reading.layouts[image]
    return ImportanceMap(layout.on_grid(reading.embedding_gradient(question)[image]), layout.grid)
