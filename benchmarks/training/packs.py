"""Several questions about one pair of images in one sequence, kept apart by a block-diagonal mask.

A sequence is `opening image close`, what a prompt of one image begins with, then `between image close`, the second
image, then the questions, each with its answer. Every question sees the images and itself. Some see only the first
image, at the positions they would have in a one-image prompt: one sequence trains both.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from attnlens.pocket import _signs
from benchmarks.training import questions, words
from benchmarks.training.pool import Bucket, Item

TEXT = 112
IGNORED = -100


@dataclass(frozen=True)
class Dialogue:
    """How a model's prompts are written: texts around the images, around a question, and after an answer."""

    opening: str
    close: str
    between: str
    question: str
    """With {question} in it."""
    end: str
    images: Callable[[Bucket], tuple[tuple[int, int], tuple[int, int]]]
    """(rows, cols) of the image tokens of the whole and of a crop."""
    planar: bool = False
    """Whether positions have three axes (time, row, column), as in m-rope."""


@dataclass(frozen=True)
class Prefix:
    """Both images of a bucket: token ids with -1 and -2 where an image goes, positions [axes, length], and where a
    question starts behind one image and behind both: (index, position)."""

    ids: np.ndarray
    positions: np.ndarray
    one: tuple[int, int]
    two: tuple[int, int]

    @property
    def opening(self) -> int:
        """How many tokens come before the first image."""
        return int(np.argmax(self.ids == -1))


def prefix(dialogue: Dialogue, tokenizer: PreTrainedTokenizerFast, bucket: Bucket) -> Prefix:
    """What comes before the questions."""
    ids: list[int] = []
    places: list[np.ndarray] = []
    at = 0

    def text(part: str) -> None:
        nonlocal at
        tokens = words.encode(tokenizer, part)
        ids.extend(tokens)
        places.append(np.tile(np.arange(at, at + len(tokens)), (3, 1)))
        at += len(tokens)

    def image(mark: int, shape: tuple[int, int]) -> None:
        nonlocal at
        rows, cols = shape
        ids.extend([mark] * (rows * cols))
        if dialogue.planar:
            row, col = (axis.ravel() for axis in np.indices(shape))
            places.append(at + np.stack([np.zeros_like(row), row, col]))
            at += max(shape)
        else:
            places.append(np.tile(np.arange(at, at + rows * cols), (3, 1)))
            at += rows * cols

    whole, crop = dialogue.images(bucket)
    text(dialogue.opening)
    image(-1, whole)
    text(dialogue.close)
    one = (len(ids), at)
    text(dialogue.between)
    image(-2, crop)
    text(dialogue.close)
    positions = np.concatenate(places, axis=1)[: 3 if dialogue.planar else 1]
    return Prefix(np.array(ids), positions, one, (len(ids), at))


@dataclass
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


def pack(
    rng: np.random.Generator,
    dialogue: Dialogue,
    tokenizer: PreTrainedTokenizerFast,
    start: Prefix,
    items: list[Item],
    index: int,
    early: bool,
    same_size: bool,
) -> Pack:
    """A sequence about item `index`, filled with questions.

    Half of the `early` questions that one word answers are answered before their end, at a random word from the one
    that is looked for on. `same_size`: whether a crop can stand in the first image's place.
    """
    item = items[index]
    views = len(item.views)
    first = 0 if not same_size or rng.random() < 0.85 else int(rng.integers(1, views))
    second = int(rng.integers(1, views))
    ids, blocks = np.zeros(TEXT, np.int64), np.full(TEXT, -1)
    positions, both = np.full(TEXT, start.two[1]), np.zeros(TEXT, bool)
    targets, weights = np.full(TEXT, IGNORED), np.zeros(TEXT, np.float32)
    filled = 0
    for number in range(14):
        asked = questions.draw(rng, item, first, second)
        if asked is None:
            continue
        question = words.encode(tokenizer, dialogue.question.format(question=asked.question))
        answer = words.encode(tokenizer, f"{asked.answer}{dialogue.end}")
        length = len(question) + len(answer) - 1
        if filled + length > TEXT:
            break
        here = slice(filled, filled + length)
        ids[here] = (question + answer)[:-1]
        begin = (start.two if asked.both else start.one)[1]
        positions[here], both[here], blocks[here] = np.arange(begin, begin + length), asked.both, number
        if early and asked.task in ("read", "colour") and rng.random() < 0.5:
            at = filled + int(rng.integers(_sought(tokenizer, question), len(question)))
            targets[at], weights[at] = answer[0], asked.weight
        else:
            spoken = slice(filled + len(question) - 1, filled + length)
            targets[spoken], weights[spoken] = answer, asked.weight
        filled += length
    return Pack(index, first, second, ids, positions, blocks, both, targets, weights)


def _sought(tokenizer: PreTrainedTokenizerFast, question: list[int]) -> int:
    """Where the word is that says which sign: its colour or its digit."""
    sought = {words.encode(tokenizer, name)[0] for name in (*_signs.COLOURS, *"0123456789")}
    return next(index for index, token in enumerate(question) if token in sought)


class Packs(torch.utils.data.IterableDataset):
    """Endless batches of packs, each from one of the pools: its number, then tensors [batch] or [batch, TEXT]."""

    def __init__(
        self,
        dialogue: Dialogue,
        tokenizer: PreTrainedTokenizerFast,
        buckets: list[Bucket],
        items: list[list[Item]],
        batch: int,
        seed: int,
        early: int,
    ) -> None:
        self.dialogue, self.tokenizer, self.buckets, self.items = dialogue, tokenizer, buckets, items
        self.batch, self.seed, self.early = batch, seed, early
        self.plain = [[index for index, item in enumerate(each) if item.plain] for each in items]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng([self.seed, 3])
        starts = [prefix(self.dialogue, self.tokenizer, bucket) for bucket in self.buckets]
        shares = np.array([len(each) for each in self.items]) / sum(len(each) for each in self.items)
        done = 0
        while True:
            number = int(rng.choice(len(self.items), p=shares))
            same_size = self.buckets[number].whole == self.buckets[number].crop
            batch = []
            for _ in range(self.batch):
                early = done < self.early
                if early and rng.random() < 0.8:
                    index = int(rng.choice(self.plain[number]))
                else:
                    index = int(rng.integers(len(self.items[number])))
                batch.append(
                    pack(
                        rng, self.dialogue, self.tokenizer, starts[number], self.items[number], index, early, same_size
                    )
                )
            stacked = {
                field.name: torch.from_numpy(np.stack([np.asarray(getattr(one, field.name)) for one in batch]))
                for field in dataclasses.fields(Pack)
            }
            yield {"pool": torch.tensor(number), **stacked}
            done += 1


def masks(start: Prefix, blocks: torch.Tensor, both: torch.Tensor) -> list[torch.Tensor]:
    """Additive attention masks [batch, 1, length, length] of the first layer and of the others: the same one, causal,
    with each question by itself."""
    return [_additive(_seen(start, blocks, both))] * 2


def early_masks(start: Prefix, blocks: torch.Tensor, both: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """The same, but in the first layer the words see only words, and later only those that speak an answer see the
    images."""
    seen = _seen(start, blocks, both)
    two = start.two[0]
    seen[:, two:, start.opening : two] &= (targets != IGNORED)[:, :, None]
    words_only = seen.clone()
    words_only[:, two:, start.opening : two] = False
    return [_additive(words_only), _additive(seen)]


def _seen(start: Prefix, blocks: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
    batch = blocks.shape[0]
    one, two = start.one[0], start.two[0]
    length = two + TEXT
    seen = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, length, length).clone()
    seen[:, two:, two:] &= blocks[:, :, None] == blocks[:, None, :]
    seen[:, two:, one:two] &= both[:, :, None]
    return seen


def _additive(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape).masked_fill(~seen, -1e9)[:, None]
