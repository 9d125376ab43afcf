"""Words of a question that look at the image, each by itself, where a `Trace` has the last prompt token's look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnlens._storage import Stored
from attnlens.errors import AttnLensError
from attnlens.lens._inputs.prompt import Prompt
from attnlens.lens._inputs.token_positions import positions_of
from attnlens.lens._layouts import Layout
from attnlens.lens._model.structure import Structure
from attnlens.lens._trace import Array, check_axes


@dataclass(frozen=True, eq=False)
class WordAttention(Stored):
    """Attention from some tokens of a prompt to its images: from words of the question, or of a given answer.

    Examples:
        >>> seen = reading.word_attention(question, "pink sign")
        >>> seen.attention.shape, len(seen.words)
        ((4, 4, 2, 100), 2)
    """

    attention: Array
    """[layers, heads, words, image_tokens]: softmax weights; heads and image tokens as in `Trace.attention`."""
    connector_attention: Array | None
    """[connector_layers, heads, image_tokens, patches], as in `Trace`."""
    layers: tuple[int, ...]
    """The language model's layer numbers along axis 0 of `attention`."""
    words: tuple[int, ...]
    """Where the tokens of the axis `words` stand in the prompt."""
    spans: tuple[slice, ...]
    """For each image, its part of the axis `image_tokens`."""
    layouts: tuple[Layout, ...]
    """For each image, which cells of which views its tokens (or, behind a connector, its patches) are."""

    def __post_init__(self) -> None:
        check_axes(self.attention, self.layers, self.spans, self.layouts, axes=4)


def positions_after_images(
    prompt: Prompt, structure: Structure, tokenizer: Any, words: str | Sequence[int]
) -> tuple[int, ...]:
    """The positions of `words`, text or positions themselves, in the prompt.

    Raises AttnLensError for words that do not look at the images: no text does that stands before their end, and in an
    encoder-decoder the question is read by the encoder.
    """
    if structure.attends_to == "encoder":
        raise AttnLensError(
            "This model is an encoder-decoder: its encoder reads the question, and only the answer's tokens look at "
            "the image where attention is seen. Use a map of the last prompt token, such as relative_attention."
        )
    at = positions_of(prompt, tokenizer, words)
    first, last = min(at), max(at)
    if first < prompt.end_of_images:
        raise AttnLensError(
            f"The token at position {first} stands before the end of the images, at {prompt.end_of_images}, and cannot "
            "look at them. Give words of a question that comes behind the images."
        )
    if last >= prompt.length:
        raise AttnLensError(
            f"The token at position {last} stands behind the end of the prompt, which has {prompt.length} tokens."
        )
    return at
