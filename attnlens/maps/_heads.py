"""The few heads that look at one thing at a time: localization heads (arXiv 2503.06287).

Most heads look at text, or at the image here and there. A head that looks at the image much, and at one place of it,
looks at what is asked about; the mean of a few such heads is the map. Which they are is a property of the model, found
once on many samples by `attnlens.analysis.localization_heads`.

    maps.head_attention(reading, "What is written on the red sign?", heads=[(2, 1), (3, 0)])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from attnlens._checks import is_whole
from attnlens.boxes._components import above_the_elbow
from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.lens._observed import LayerChoice, Sinks
from attnlens.lens._trace import Array, ImageTrace
from attnlens.maps._rollout import head_maps, masked

COUNT = 3
"""How many heads the paper averages."""

_NEIGHBOURS = np.ones((3, 3))  # a cell and the eight around it

Floats = NDArray[np.float64]


class Head(NamedTuple):
    """One head of the language model.

    Examples:
        >>> maps.Head(layer=2, head=1)
        Head(layer=2, head=1)
    """

    layer: int
    """The number of its layer, counted from 0."""
    head: int
    """Its own number along the axis `heads` of a trace, counted from 0."""


class HeadEntropy(NamedTuple):
    """How much in one piece a head looks at one image."""

    head: Head
    entropy: float
    """Its spatial entropy, in nats: 0 where all that stands out hangs together."""


def head_attention(
    reading: Reading,
    question: str,
    heads: Sequence[tuple[int, int]] | None = None,
    *,
    connector_layer: LayerChoice = None,
    sinks: Sinks = "keep",
    image: int = 0,
) -> ImportanceMap:
    """The mean attention of the last prompt token to the image, over some heads.

    Which heads look at what is asked about is a property of the model (localization heads, arXiv 2503.06287). The paper
    smooths the map by a Gaussian before it draws a box; here it is raw, and `boxes.components` smooths. Where the
    connector has attention, its head mean at one layer carries the maps to patches. One trace.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: the question about the image.
        heads: pairs of a layer's number and a head's, both counted from 0, such as
            `attnlens.analysis.localization_heads` finds; the paper's are the same for every sample. Deviation: None
            takes the `COUNT`, 3, that are most focused on this one sample, which needs no other.
        connector_layer: the number of the connector's attention layer that carries tokens to patches, counted from 0;
            "mean" for the mean of all; None for the adapter's default. Not looked at where the connector has no
            attention.
        sinks: "keep" leaves attention sinks as they are. "mask" gives each sink (`Reading.sinks`), head by head, the
            least that the image's other tokens have.
        image: which of the images read, counted from 0.

    Returns:
        The mean attention: float32 [rows, cols], 0 or more, on the image's grid, which lies in pixels of the original
            image.

    Raises:
        AttnLensError: for `heads` that are no such pairs, or none at all; for a head, a connector layer or an image
            that is not there; and where sinks are to be masked that are not known, or are all there is.

    Examples:
        >>> maps.head_attention(reading, question).attention_ratio(scene.box) > 10  # chance is 1
        True
        >>> maps.head_attention(reading, question, heads=[(1, 0), (2, 1)]).grid.shape
        (10, 10)
    """
    chosen = None if heads is None else _some(heads)
    seen = reading.image_trace(question, image, layer="mean", connector_layer=connector_layer, sinks=sinks)
    maps = head_maps(seen)
    if chosen is None:
        chosen = [one.head for one in _ranked(seen, maps)[:COUNT]]
    own = [_of(maps, seen.layers, *one) for one in chosen]
    return ImportanceMap(np.mean(own, axis=0), seen.grid)


def focused(
    reading: Reading,
    question: str,
    *,
    connector_layer: LayerChoice = None,
    sinks: Sinks = "keep",
    image: int = 0,
) -> list[HeadEntropy]:
    """The heads that look at the image enough, the lowest spatial entropy first; never none.

    Enough is an attention of the last prompt token, summed over the image's tokens, above the elbow of all heads' (see
    `boxes.components`). Of equal entropies, of which there are many at 0, the head that looks at the image more comes
    first: the paper does not say. The released code compares a head's number with the elbow's; this is the paper's
    rule. Parameters and errors as in `head_attention`.
    """
    seen = reading.image_trace(question, image, layer="mean", connector_layer=connector_layer, sinks=sinks)
    return _ranked(seen, head_maps(seen))


def _ranked(seen: ImageTrace, maps: Array) -> list[HeadEntropy]:
    tokens = masked(seen.attention, seen.sinks)
    return rank_heads(seen.layers, tokens.sum(axis=-1, dtype=np.float64), spatial_entropy(maps))


def rank_heads(layers: Sequence[int], sums: Floats, entropies: Floats) -> list[HeadEntropy]:
    """`layers`: the number of each layer; `sums`, `entropies`: float64 [layers, heads]. As `focused` says."""
    kept = np.argwhere(above_the_elbow(sums)).tolist()
    kept.sort(key=lambda one: (entropies[tuple(one)], -sums[tuple(one)]))
    return [HeadEntropy(Head(layers[layer], head), float(entropies[layer, head])) for layer, head in kept]


def spatial_entropy(maps: Array) -> Floats:
    """[..., rows, cols] -> float64 [...]: in how many pieces each map lies, as the entropy of their shares, in nats.

    The pieces are the 8-connected components of the cells above the map's mean, and the share of each is the sum of the
    map in it. Infinity where no cell is above the mean: a flat map looks nowhere.
    """
    flat = maps.reshape(-1, *maps.shape[-2:]).astype(np.float64)
    return np.array([_entropy(one) for one in flat]).reshape(maps.shape[:-2])


def _entropy(values: Floats) -> float:
    pieces, number = label(values > values.mean(), structure=_NEIGHBOURS)
    if not number:
        return np.inf
    masses = np.bincount(pieces.ravel(), weights=values.ravel())[1:]
    shares = masses / masses.sum()
    return float(-(shares * np.log(shares)).sum())


def _of(maps: Array, layers: Sequence[int], layer: int, head: int) -> Array:
    """One head's map."""
    if layer not in layers or not 0 <= head < maps.shape[1]:
        raise AttnLensError(
            f"There is no head {head} at layer {layer} with attention to see. Expected a layer of "
            f"{', '.join(map(str, layers))} and a head from 0 to {maps.shape[1] - 1}."
        )
    return np.asarray(maps[layers.index(layer), head])


def _some(heads: Sequence[tuple[int, int]]) -> list[Head]:
    """At least one, in a list, a tuple or an array."""
    pairs: object = heads.tolist() if hasattr(heads, "tolist") else heads
    if not isinstance(pairs, Sequence) or not all(map(_is_pair, pairs)):
        raise AttnLensError(
            f"heads is {heads!r}; expected pairs (layer, head) of whole numbers, such as [(2, 1), (3, 0)], or None."
        )
    if not pairs:
        raise AttnLensError("There is no head to look with: the list is empty. Give pairs (layer, head), or None.")
    return [Head(*pair) for pair in pairs]


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence | np.ndarray) and len(value) == 2 and all(map(is_whole, value))
