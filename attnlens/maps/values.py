"""Object relevance from cached values (FOCUS, arXiv 2506.21710, section 3.2): no attention, no gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Reading

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
    layers: tuple[int, int] | None = None,
    image: int = 0,
) -> ImportanceMap:
    """Where the image's tokens hold what `target` says: sums to 1 over the grid's cells.

    For each layer and each token t of the target, c_tj is the cosine of cached values with every token j of the prompt,
    summed over the key-value heads; the row of (c + delta_tj) / 2 is divided by its sum over all j. These rows are
    summed over the layers and divided by their sum; the maps of the target's tokens are multiplied, which leaves what
    all of them agree on, and divided by their sum. Negative cosines count as 0, and the product is taken in the
    logarithm, where the paper says neither. `question`: one that names the target, which the cache of
    `EXISTENCE` does where `target` alone is given; without `target` the whole question is it. `layers`: the first and
    the last of the layers summed over; None: the adapter's, or the last half of those that hold values (the paper's
    rule for a new model is the last 25 to 60 %). Needs no attention matrix: it runs under SDPA or flash. Raises
    AttnLensError for a target that the question does not hold, for layers that are not there, and behind a connector
    with attention.
    """
    if target is not None and target not in question:
        question = EXISTENCE.format(target=target)
    found = reading.value_similarity(question, target if target is not None else question)
    if found.layouts[image].queries is not None:
        raise AttnLensError(
            "Behind a connector with attention image tokens have no place, and their values none either. Use "
            "relative_attention or gradient_attention."
        )
    chosen = _chosen(found.layers, layers or reading.lens.value_layers)
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
