"""Several questions about one pair of images in one sequence, kept apart by a block-diagonal mask.

A sequence is `<s> USER: <image> \\n <image> \\n` and then the questions, each with its answer. Every question sees the
images and
itself. Some see only the first image, with the positions they would have in a one-image prompt: one sequence trains
both.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from attnlens.pocket import scenes
from attnlens.pocket.train import sheets, words
from attnlens.pocket.train.pool import Item, legible

PATCHES = sheets.CELLS**2
ONE = 3 + PATCHES + 1
TWO = ONE + PATCHES + 1
TEXT = 96
IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Block:
    """A question, its answer, how much the answer counts, and whether the second image is seen."""

    question: str
    answer: str
    weight: float
    both: bool


@dataclasses.dataclass
class Pack:
    """Which item and which two of its views; for each text token its id, position, block, target and weight."""

    item: int
    first: int
    second: int
    ids: np.ndarray
    positions: np.ndarray
    blocks: np.ndarray
    both: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def block(rng: np.random.Generator, item: Item, first: int, second: int) -> Block | None:
    """A question about the item that its views can be asked, or None when the draw is one that has no fair answer."""
    both = bool(rng.random() < 0.55)
    kind = rng.choice(4, p=(0.64, 0.14, 0.12, 0.10))
    if kind == 3:
        return Block(scenes.GENERIC, words.ANSWERS[item.kind], 0.2, both)
    if kind == 1 and rng.random() < 0.5:
        absent = [name for name in scenes.COLOURS if name not in {sign.colour for sign in item.signs}]
        colour = absent[rng.integers(len(absent))]
        return Block(words.phrase(rng, words.EXISTS, colour), "no", 0.5, both)
    sign = item.signs[item.focus if rng.random() < 0.5 else rng.integers(len(item.signs))]
    side, inside = legible(sign, item.views[first])
    if kind == 1:
        if 0 < inside < 0.5 or (inside == 0 and both):
            return None
        return Block(words.phrase(rng, words.EXISTS, sign.colour), "yes" if inside else "no", 0.5, both)
    if kind == 2:
        if inside < 0.6:
            return None
        x1, y1, x2, _ = item.views[first]
        a1, b1, a2, b2 = sign.box
        where = words.place_name((a1 - x1, b1 - y1, a2 - x1, b2 - y1), x2 - x1)
        return Block(words.phrase(rng, words.LOCATE, sign.colour), where, 0.4, both)
    best = side if inside > 0.75 else 0.0
    if both:
        other, inside_other = legible(sign, item.views[second])
        best = max(best, other if inside_other > 0.75 else 0.0)
    if best == 0:
        return None
    weight = 1.0 if best >= 6.5 else 0.3 if best >= 5 else 0.08
    return Block(words.phrase(rng, words.READ, sign.colour), sign.digit, weight, both)


def pack(
    rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast, items: list[Item], index: int, early: bool
) -> Pack:
    """A sequence about item `index`, filled with questions.

    Half of the `early` questions about a digit are answered before their end, at a random word from the colour's on.
    """
    item = items[index]
    views = len(item.views)
    first = 0 if rng.random() < 0.85 else int(rng.integers(1, views))
    second = int(rng.integers(1, views))
    ids, blocks = np.zeros(TEXT, np.int64), np.full(TEXT, -1)
    positions, both = np.full(TEXT, TWO), np.zeros(TEXT, bool)
    targets, weights = np.full(TEXT, IGNORED), np.zeros(TEXT, np.float32)
    filled = 0
    for number in range(12):
        asked = block(rng, item, first, second)
        if asked is None:
            continue
        question = encode(tokenizer, f"{asked.question} ASSISTANT:")
        answer = encode(tokenizer, f"{asked.answer}</s>")
        length = len(question) + len(answer) - 1
        if filled + length > TEXT:
            break
        here = slice(filled, filled + length)
        ids[here] = (question + answer)[:-1]
        start = TWO if asked.both else ONE
        positions[here], both[here], blocks[here] = np.arange(start, start + length), asked.both, number
        if early and asked.answer.isdigit() and rng.random() < 0.5:
            at = filled + int(rng.integers(_colour(tokenizer, question), len(question)))
            targets[at], weights[at] = answer[0], asked.weight
        else:
            spoken = slice(filled + len(question) - 1, filled + length)
            targets[spoken], weights[spoken] = answer, asked.weight
        filled += length
    return Pack(index, first, second, ids, positions, blocks, both, targets, weights)


_encoded: dict[str, list[int]] = {}


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    if text not in _encoded:
        _encoded[text] = tokenizer.encode(text, add_special_tokens=False)
    return _encoded[text]


def _colour(tokenizer: PreTrainedTokenizerFast, question: list[int]) -> int:
    """Where the colour's word is."""
    colours = {encode(tokenizer, name)[0] for name in scenes.COLOURS}
    return next(index for index, token in enumerate(question) if token in colours)


class Packs(torch.utils.data.IterableDataset):
    """Endless batches of packs, stacked: a dictionary of tensors [batch] or [batch, TEXT]."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, items: list[Item], batch: int, seed: int, early: int
    ) -> None:
        self.tokenizer, self.items, self.batch, self.seed, self.early = tokenizer, items, batch, seed, early
        self.plain = [index for index, item in enumerate(items) if item.plain]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng([self.seed, 3])
        done = 0
        while True:
            batch = []
            for _ in range(self.batch):
                early = done < self.early
                if early and rng.random() < 0.8:
                    index = self.plain[rng.integers(len(self.plain))]
                else:
                    index = int(rng.integers(len(self.items)))
                batch.append(pack(rng, self.tokenizer, self.items, index, early))
            yield {
                field.name: torch.from_numpy(np.stack([np.asarray(getattr(one, field.name)) for one in batch]))
                for field in dataclasses.fields(Pack)
            }
            done += 1


def masks(blocks: torch.Tensor, both: torch.Tensor) -> list[torch.Tensor]:
    """Additive attention masks [batch, 1, TWO + TEXT, TWO + TEXT] of the first layer and of the others: the same one,
    causal,
    with each question by itself."""
    return [_additive(_seen(blocks, both))] * 2


def early_masks(blocks: torch.Tensor, both: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """The same, but in the first layer the words see only words, and later only those that speak an answer see the
    images."""
    seen = _seen(blocks, both)
    seen[:, TWO:, 3:TWO] &= (targets != IGNORED)[:, :, None]
    words_only = seen.clone()
    words_only[:, TWO:, 3:TWO] = False
    return [_additive(words_only), _additive(seen)]


def _seen(blocks: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
    batch = blocks.shape[0]
    length = TWO + TEXT
    seen = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, length, length).clone()
    seen[:, TWO:, TWO:] &= blocks[:, :, None] == blocks[:, None, :]
    seen[:, TWO:, ONE:TWO] &= both[:, :, None]
    return seen


def _additive(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape).masked_fill(~seen, -1e9)[:, None]
