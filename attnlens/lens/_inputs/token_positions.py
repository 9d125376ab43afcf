"""Where words stand in a prompt: the tokens that spell them.

A tokenizer need not keep a text as it is written. One may lower its case, another hands a hyphen or a digit back with
spaces around it, and one with few words has no token at all for the others. So words are looked for as they are written
first, then with case and such spaces left out; a word that the model cannot read is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from attnlens._checks import is_whole
from attnlens.errors import AttnLensError
from attnlens.lens._inputs.prompt import Prompt

REMOVED = "."
"""What stands in the question's place where it is removed: a prompt's template needs some text, and none is shorter."""

_LOOSE = re.compile(r" (?=[\W\d_])|(?<=[\W\d_]) ")  # a space that does not part two letters


def find_text(prompt: Prompt, tokenizer: Any, text: str) -> tuple[int, ...]:
    """The positions of the tokens that spell `text`, at its first place behind the images.

    The first, as a template's own words may follow the question; a place with the same case and spaces comes before all
    others. Raises AttnLensError for a text that does not stand there, and as `checked_words` does.
    """
    text = checked_words(tokenizer, text).strip()
    found = _first(prompt, tokenizer, text, str) or _first(prompt, tokenizer, _plain(text), _plain)
    if not found:
        raise AttnLensError(
            f"The prompt does not hold the target {text!r} behind the images. Give words that the question holds."
        )
    return found


def positions_of(prompt: Prompt, tokenizer: Any, words: str | Sequence[int]) -> tuple[int, ...]:
    """The positions of `words`, text or positions themselves, in the prompt; AttnLensError for none."""
    if isinstance(words, str):
        return find_text(prompt, tokenizer, words)
    if not isinstance(words, Sequence) or not all(map(is_whole, words)):
        raise AttnLensError(f"The words are {words!r}; expected a part of the question, or positions in its prompt.")
    if not words:
        raise AttnLensError("There are no words to look from; expected a part of the question, or positions.")
    return tuple(int(one) for one in words)


def differing_tokens(prompt: Prompt, other: Prompt) -> tuple[int, ...]:
    """Where the tokens of `prompt` stand from the first to the last in which it differs from `other`."""
    ours, theirs = prompt.ids[0].tolist(), other.ids[0].tolist()
    first = _alike(ours, theirs)
    last = len(ours) - _alike(ours[first:][::-1], theirs[first:][::-1])
    return tuple(range(first, last))


def _alike(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens are the same from the start on."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))))


def checked_words(tokenizer: Any, text: object) -> str:
    """`text`, which is to say what a target is. Raises AttnLensError unless the model can read all of it."""
    if not isinstance(text, str) or not text.strip():
        raise AttnLensError(f"The target is {text!r}; expected some words, such as 'red sign'.")
    unknown = getattr(tokenizer, "unk_token_id", None)
    strange = [word for word in text.split() if unknown in tokenizer.encode(word, add_special_tokens=False)]
    if strange:
        raise AttnLensError(
            f"The tokenizer has no token for {', '.join(map(repr, strange))} of the target {text!r}: the model cannot "
            "read it. Name the target in other words."
        )
    return text


def _first(prompt: Prompt, tokenizer: Any, wanted: str, form: Callable[[str], str]) -> tuple[int, ...]:
    """The fewest tokens whose text holds `wanted` in that form, at its first place; () for none."""
    start, ids = prompt.end_of_images, prompt.ids[0].tolist()

    def held(first: int, last: int) -> bool:
        return wanted in form(tokenizer.decode(ids[first:last]))

    if not held(start, len(ids)):
        return ()
    last = next(stop for stop in range(start + 1, len(ids) + 1) if held(start, stop))
    first = next(first for first in range(last - 1, start - 1, -1) if held(first, last))
    return tuple(range(first, last))


def _plain(text: str) -> str:
    """Without case, and without spaces that do not part two letters."""
    return _LOOSE.sub("", " ".join(text.split())).casefold()
