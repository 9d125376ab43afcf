"""What the words of a target look at, each by itself, less what any instruction looks at (HiDe, arXiv 2510.00054).

The last prompt token speaks for the whole question; a word of it speaks for itself, so that what is asked about is
others apart from how it is asked. Attention that every token pays, to sinks and to whatever is salient, is in the map
of the instruction's words too, and goes with it.

    maps.word_attention(reading, "What is written on the red sign?", target="red sign")
"""

from __future__ import annotations

from math import inf
from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from attnlens._checks import is_whole
from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.lens._inputs.prompt import checked_question
from attnlens.lens._inputs.token_positions import REMOVED, checked_words
from attnlens.lens._observed import LayerChoice, Sinks
from attnlens.lens._trace import Array
from attnlens.maps._rollout import masked, on_image

SEARCH = "Search the following entities in the images: {target}"
"""The paper's prompt, before whose entities the instruction stands."""
INSTRUCTION = 8
"""How many of the prompt's first words the paper takes for the instruction's."""
SIGMA = 1 / 12
"""Of the Gaussian, in longer sides of the map: the paper's 3 cells, for an image of 36 x 36 of them."""

Floats = NDArray[np.float64]


def word_attention(
    reading: Reading,
    question: str,
    *,
    target: str | None = None,
    layer: LayerChoice = None,
    connector_layer: LayerChoice = None,
    instruction: int | None = None,
    sigma: float | None = None,
    sinks: Sinks = "keep",
    image: int = 0,
) -> ImportanceMap:
    """Where the tokens of `target` look and those of the instruction do not: 0 to 1 over the grid's cells.

    For each token the head-mean attention to the image at one layer is smoothed and scaled to 0..1. The mean of the
    instruction's maps is subtracted from each of the target's, what is below 0 becomes 0, and the rest is scaled to
    0..1 again. The map is the largest of the target's tokens' in each cell: what is above a threshold in it is what is
    above it for any token, of which the paper (HiDe, arXiv 2510.00054) takes the union.

    At its edges a map is mirrored before it is smoothed, and a flat map counts as 0, which the paper leaves open.

    Deviation: where the released code gives each token to the one image that it looks at most, each image has a map of
    its own; and the question's tokens are counted from its own first, not from the image's last.

    Args:
        reading: what the model has read: `lens.read(image)`.
        question: a question that holds the target. Where it does not, `SEARCH` with the target in it is asked instead.
        target: words for what is looked for, such as "red sign". None: the whole question stands in the target's place
            in `SEARCH`, as in the paper where no entity is found.
        layer: the number of the layer that is looked at, counted from 0; "mean" for the mean of all; None for the
            adapter's default. The paper reads layer 14 of 28 of Qwen2.5-VL-7B, and the mean of all of Qwen3-VL.
        connector_layer: the number of the connector's attention layer that carries tokens to patches, counted from 0;
            "mean" for the mean of all; None for the adapter's default. Not looked at where the connector has no
            attention.
        instruction: how many of the question's first tokens are the instruction's; those of the target among them are
            left out. 0 subtracts nothing. None: the paper's 8, or 0 behind a connector with attention.
        sigma: of the smoothing Gaussian, in cells; 0 for no smoothing. None: a twelfth of the map's longer side, as the
            paper's 3 cells would blur a coarse map to nothing.
        sinks: "keep" leaves attention sinks as they are. "mask" gives each sink of a layer (`Reading.sinks`), in every
            token's head mean, the least that the image's other tokens have.
        image: which of the images read, counted from 0.

    Returns:
        The attention that is the target's own: float32 [rows, cols], 0 to 1, on the image's grid, which lies in pixels
            of the original image.

    Raises:
        AttnLensError: for a target that is no text or that the tokenizer has no token for, for an instruction without
            tokens, for an unknown layer or image, where sinks are to be masked that are not known, or are all there is,
            and where `Reading.word_attention` does.

    Examples:
        >>> importance = maps.word_attention(reading, question, target="pink sign")
        >>> importance.grid.shape, float(importance.values.max())
        ((10, 10), 1.0)
        >>> importance.attention_ratio(scene.box) > 1  # chance
        True
    """
    if instruction is None:
        instruction = INSTRUCTION if reading.tokens_have_places else 0
    _check(instruction, sigma)
    held = spelled(reading, question, target)
    asked = question if held else SEARCH.format(target=target or question)
    if held:
        words = reading.token_positions(asked, target)
    else:
        words = reading.token_positions(asked, unlike=SEARCH.format(target=REMOVED))
    others = _instruction(reading.token_positions(asked), words, instruction)
    seen = reading.image_word_attention(
        asked, (*words, *others), image, layer=layer, connector_layer=connector_layer, sinks=sinks
    )
    maps = on_image(seen, masked(seen.attention.mean(axis=1), seen.sinks).mean(axis=0))
    sigma = SIGMA * max(maps.shape[1:]) if sigma is None else sigma
    values = decoupled(maps[: len(words)], maps[len(words) :], sigma)
    return ImportanceMap(values, seen.grid)


def decoupled(words: Array, instruction: Array, sigma: float) -> Array:
    """[words, rows, cols], [instruction words, rows, cols] -> [rows, cols], as `word_attention` says; in cells."""
    kept = _scaled(_smooth(words, sigma))
    if len(instruction):
        kept = _scaled(np.maximum(kept - _scaled(_smooth(instruction, sigma)).mean(axis=0), 0))
    return np.asarray(kept.max(axis=0), dtype=np.float32)


def spelled(reading: Reading, question: str, target: str | None) -> bool:
    """Whether the question names the target itself. Raises AttnLensError for what is no text, or cannot be read."""
    asked = checked_question(question)
    return target is not None and checked_words(reading.tokenizer, target) in asked


def _instruction(question: tuple[int, ...], words: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The first `count` tokens of the question, less the target's."""
    others = tuple(position for position in question[:count] if position not in words)
    if count and not others:
        raise AttnLensError(
            f"The first {min(count, len(question))} tokens of the question are all the target's: no instruction is "
            "left to subtract. Ask a question that only holds the target, or use instruction=0."
        )
    return others


def _smooth(maps: Array, sigma: float) -> Floats:
    return np.asarray(gaussian_filter(maps.astype(np.float64), (0, sigma, sigma), mode="reflect"))


def _scaled(maps: Floats) -> Floats:
    """Each of [maps, rows, cols] from 0 at its minimum to 1 at its maximum; 0 where it is flat."""
    low, high = maps.min(axis=(-2, -1), keepdims=True), maps.max(axis=(-2, -1), keepdims=True)
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=high > low)


def _check(instruction: int, sigma: object) -> None:
    if not is_whole(instruction) or instruction < 0:
        raise AttnLensError(f"instruction is {instruction!r}; expected a whole number of tokens, 0 for none.")
    if sigma is not None and not (isinstance(sigma, Real) and 0 <= float(sigma) < inf):
        raise AttnLensError(f"sigma is {sigma!r}; expected a number of cells, 0 for no smoothing.")
