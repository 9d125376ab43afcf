"""Object relevance from cached values (FOCUS, arXiv 2506.21710, section 3.2): no attention, no gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attnlens._checks import is_whole
from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.maps._words import spelled

EXISTENCE = "Is there a {target} in the image?"
"""The paper's question, whose cache is read."""
FLOOR = 1e-12
"""Of a word's relevance, where its cosines with an image token are 0 or less."""

Array = NDArray[np.float64]


def value_similarity(
    reading: Reading,
    question: str,
    *,
    target: str | None = None,
    layers: Sequence[int] | None = None,
    image: int = 0,
) -> ImportanceMap:
    """Where the image's tokens hold what `target` says: sums to 1 over the grid's cells.

    For each layer and each token t of the target, c_tj is the cosine of cached values with every token j in the cache,
    summed over the key-value heads; the row of (c + delta_tj) / 2 is divided by its sum over all j. These rows are
    summed over the layers and divided by their sum; the maps of the target's tokens are multiplied, which leaves what
    all of them agree on, and divided by their sum (FOCUS, arXiv 2506.21710, section 3.2).

    It needs no attention matrix and no gradient: it runs under SDPA or flash.

    Deviation: a question's cache holds N - 1 of the prompt's N tokens, all but the last, which answers and traces go on
    from; so a row is divided by its sum over N - 1, where the paper's is over all N. That token is of no image, so that
    only how much layers weigh beside each other can differ.

    Deviation: negative cosines count as 0, and the product is taken in the logarithm, where the paper says neither.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: a question that names the target, whose cache is read. Where it does not name it, the cache of
            `EXISTENCE` with the target in it is read.
        target: words for what is looked for, such as "red sign". None: the whole question is the target.
        layers: the numbers of the first and the last of the layers summed over, counted from 0; those between them that
            hold values count. None: the adapter's, or the last half of those that hold values (the paper's rule for a
            new model is the last 25 to 60 %).
        image: which of the images read, counted from 0.

    Returns:
        The object relevance: float32 [rows, cols], 0 or more, on the image's grid, which lies in pixels of the original
            image.

    Raises:
        AttnLensError: for a target that is no text or that the tokenizer has no token for, for an image or layers that
            are not there, for a model that leaves no KV cache, and behind a connector with attention.

    Examples:
        >>> importance = maps.value_similarity(reading, question, target="pink sign")
        >>> importance.grid.shape, round(float(importance.values.sum()), 3)
        ((10, 10), 1.0)
    """
    reading.image_at(image)  # or an error
    wanted = reading.value_layers if layers is None else _checked(layers, reading.depth - 1)
    held = spelled(reading, question, target)
    if target is None:
        found = reading.value_similarity(question, reading.token_positions(question))
    else:
        found = reading.value_similarity(question if held else EXISTENCE.format(target=target), target)
    if found.layouts[image].queries is not None:
        raise AttnLensError(
            "Behind a connector with attention image tokens have no place, and their values none either. Use "
            "relative_attention or gradient_attention."
        )
    chosen = _chosen(found.layers, wanted)
    rows = relevance(found.cosines[chosen].astype(np.float64), found.words, list(found.columns[image]))
    on_grid = found.layouts[image].on_grid(rows.astype(np.float32))
    return ImportanceMap(on_grid / on_grid.sum(), found.layouts[image].grid)


def relevance(cosines: Array, words: tuple[int, ...], columns: list[int]) -> Array:
    """[layers, words, tokens] -> [image tokens]: the consensus of the words' maps, which sums to 1."""
    cosines = np.maximum(cosines, 0)
    own = np.zeros_like(cosines)
    own[:, range(len(words)), list(words)] = 1
    rows = (cosines + own) / 2
    rows /= rows.sum(axis=-1, keepdims=True)
    # A word that is like no image token at all says nothing, instead of silencing the others.
    maps = np.maximum(rows[..., columns].sum(axis=0), FLOOR)
    logarithms = np.log(maps / maps.sum(axis=-1, keepdims=True)).sum(axis=0)
    product = np.exp(logarithms - logarithms.max())
    return product / product.sum()


def _checked(layers: Sequence[int], last: int) -> tuple[int, int]:
    """The first and the last layer, in a model whose last layer is `last`."""
    pair = isinstance(layers, Sequence) and len(layers) == 2 and all(map(is_whole, layers))
    if not pair or not 0 <= layers[0] <= layers[1] <= last:
        raise AttnLensError(
            f"layers is {layers!r}; expected the first and the last layer whose values to take, two whole numbers in "
            f"order from 0 to {last}, such as (0, {last})."
        )
    return layers[0], layers[1]


def _chosen(known: tuple[int, ...], layers: tuple[int, int] | None) -> list[int]:
    """Indices of the layers from the first to the last wanted; the last half where nothing is."""
    if layers is None:
        return list(range(len(known) // 2, len(known)))
    found = [index for index, layer in enumerate(known) if layers[0] <= layer <= layers[1]]
    if not found:
        raise AttnLensError(
            f"No layer from {layers[0]} to {layers[1]} holds values; expected layers of {known[0]} to {known[-1]}."
        )
    return found
