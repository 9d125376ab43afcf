"""The pocket model whose image tokens depend on the question: InstructBLIP's Q-Former and its language model.

Two stages. First the Q-Former alone: every query, projected, must be near the word that answers the question
(`read_out`). Then the language model, which gets the queries of one image or of two before the question (`train`). The
only loss is that of the answers' words; nothing looks at attention.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import torch
from rich.progress import Progress
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from benchmarks.training import families, language, questions, towers, words
from benchmarks.training.checkpointer import Keeper
from benchmarks.training.families import HEADS, WIDTH
from benchmarks.training.muon import Pair
from benchmarks.training.pool import Pool

QUERIES = 32
QFORMER_LAYERS = 4
PROMPT = "Question: {question} Short answer:"
IGNORED = -100
FIRST_WORDS = {"read": 0.5, "colour": 0.2, "exists": 0.16, "larger": 0.07, "left": 0.07}
"""How often each kind of question is drawn while only the first word of an answer counts."""


def tokenizers() -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """The language model's, and the Q-Former's: the same words. The processor gives the first one its `<image>`."""
    return words.tokenizer(), words.tokenizer()


def model(tokenizer: PreTrainedTokenizerFast) -> InstructBlipForConditionalGeneration:
    """The untrained model."""
    rope = {"rope_type": "default", "rope_theta": 1e6}
    blip = InstructBlipForConditionalGeneration(
        InstructBlipConfig(
            vision_config=towers.make_blip().config.to_dict(),
            qformer_config={
                "vocab_size": len(tokenizer),
                "hidden_size": WIDTH,
                "intermediate_size": 2 * WIDTH,
                "num_hidden_layers": QFORMER_LAYERS,
                "num_attention_heads": HEADS,
                "cross_attention_frequency": 2,
                "encoder_hidden_size": WIDTH,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                "max_position_embeddings": 256,
                "pad_token_id": tokenizer.pad_token_id,
            },
            text_config=LlamaConfig(**families.text_config(tokenizer), rope_parameters=rope).to_dict(),
            num_query_tokens=QUERIES,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    decoder = blip.language_model.model
    families.start(decoder)
    return blip


@torch.no_grad()
def prepare(blip: InstructBlipForConditionalGeneration, features: torch.Tensor, near: torch.Tensor) -> None:
    """The Q-Former's start: a query that has met a word attends to patches that show what the word says.

    `features` [patches, 128] are the tower's of many patches. `near` [128, 128] carries a patch, less its mean, to a
    place near the words of what it shows (`align`), where the Q-Former's words start, too.
    """
    words_of = blip.get_input_embeddings().weight
    qformer = blip.qformer
    qformer.embeddings.word_embeddings.weight.copy_(words_of)
    torch.nn.init.normal_(qformer.embeddings.position_embeddings.weight, std=0.02)
    torch.nn.init.normal_(blip.query_tokens, std=0.1)
    mean = features.mean(0)
    for layer in qformer.encoder.layer:
        own = layer.attention
        torch.nn.init.normal_(own.attention.query.weight, std=0.3 / WIDTH**0.5)
        own.attention.key.weight.copy_(own.attention.query.weight)
        torch.nn.init.normal_(own.attention.value.weight, std=1 / WIDTH**0.5)
        own.output.dense.weight.copy_(own.attention.value.weight.T)
        for part in (layer.intermediate, layer.intermediate_query):
            torch.nn.init.normal_(part.dense.weight, std=1 / WIDTH**0.5)
        for part in (layer.output, layer.output_query):
            torch.nn.init.normal_(part.dense.weight, std=0.1 / WIDTH**0.5)
        if layer.has_cross_attention:
            cross = layer.crossattention
            torch.nn.init.normal_(cross.attention.query.weight, std=1 / WIDTH**0.5)
            cross.attention.key.weight.copy_(cross.attention.query.weight @ near)
            torch.nn.init.normal_(cross.attention.value.weight, std=1 / WIDTH**0.5)
            cross.output.dense.weight.copy_(cross.attention.value.weight.T)
            cross.attention.value.weight.copy_(cross.attention.value.weight @ near)
            for map_ in (cross.attention.key, cross.attention.value):
                map_.bias.copy_(-map_.weight @ mean)
    blip.language_projection.weight.copy_(torch.eye(WIDTH))
    blip.language_projection.bias.zero_()


def align(
    blip: InstructBlipForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pool: Pool,
    progress: Progress,
    *,
    steps: int,
    seed: int = 0,
) -> None:
    """Words and a linear map of patches that lie near each other; Q-Former and language model start with them."""
    near = torch.nn.Linear(WIDTH, WIDTH)
    sample = pool.some(256)[:, 1:].flatten(0, 1)
    with torch.no_grad():
        torch.nn.init.normal_(near.weight, std=0.3 * WIDTH**-0.5)
        near.bias.copy_(-near.weight @ sample.mean(0))
    family = families.Family(
        dialogue=families.FAMILIES["llava"].dialogue,
        tokenizer=lambda: tokenizer,
        model=lambda _: blip,
        vision=lambda model: model.vision_model,
        connector=lambda _: near,
        decoder=lambda model: model.language_model.model,
        project=lambda _, features, __: near(features),
        cell=families.FAMILIES["llava"].cell,
        prepare=lambda _, __: None,
    )
    language.align(family, blip, tokenizer, [pool], progress, steps=steps, seed=seed)
    prepare(blip, sample, near.weight.detach())


class Questions(torch.utils.data.IterableDataset):
    """Endless batches of single questions: item, views, ids for the Q-Former, ids and targets for the language model.

    Texts are padded on the right; `length` is how many ids of the Q-Former's text count.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        pool: Pool,
        batch: int,
        seed: int,
        shares: dict[str, float],
        plain: float,
    ) -> None:
        self.tokenizer, self.items, self.batch, self.seed = tokenizer, pool.items, batch, seed
        self.shares, self.plain = shares, plain
        self.easy = [index for index, item in enumerate(pool.items) if item.plain]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng([self.seed, 5])
        pad = self.tokenizer.pad_token_id
        while True:
            drawn = [self._one(rng) for _ in range(self.batch)]
            read = [asked[3] for asked in drawn]
            spoken = [asked[4] for asked in drawn]
            width, length = (
                max(map(len, read)),
                max(len(ask) + len(answer) for ask, answer in zip(read, spoken, strict=True)),
            )
            ids = np.full((self.batch, length - 1), pad)
            targets = np.full((self.batch, length - 1), IGNORED)
            for row, (ask, answer) in enumerate(zip(read, spoken, strict=True)):
                ids[row, : len(ask) + len(answer) - 1] = (ask + answer)[:-1]
                targets[row, len(ask) - 1 : len(ask) + len(answer) - 1] = answer
            yield {
                "item": torch.tensor([asked[0] for asked in drawn]),
                "first": torch.tensor([asked[1] for asked in drawn]),
                "second": torch.tensor([asked[2] for asked in drawn]),
                "both": torch.tensor([asked[5].both for asked in drawn]),
                "weight": torch.tensor([asked[5].weight for asked in drawn], dtype=torch.float32),
                "read": torch.tensor([ask + [pad] * (width - len(ask)) for ask in read]),
                "length": torch.tensor([len(ask) for ask in read]),
                "ids": torch.from_numpy(ids),
                "targets": torch.from_numpy(targets),
            }

    def _one(self, rng: np.random.Generator) -> tuple[int, int, int, list[int], list[int], questions.Asked]:
        while True:
            easy = rng.random() < self.plain
            index = int(rng.choice(self.easy)) if easy else int(rng.integers(len(self.items)))
            item = self.items[index]
            first = 0 if rng.random() < 0.75 else int(rng.integers(1, len(item.views)))
            second = int(rng.integers(1, len(item.views)))
            asked = questions.draw(rng, item, first, second, self.shares)
            if asked is not None:
                ask = words.encode(self.tokenizer, f"<s>{PROMPT.format(question=asked.question)}")
                answer = words.encode(self.tokenizer, f"{asked.answer}</s>")
                return index, first, second, ask, answer, asked


def queried(
    blip: InstructBlipForConditionalGeneration, features: torch.Tensor, read: torch.Tensor, length: torch.Tensor
) -> torch.Tensor:
    """What the Q-Former makes of patches [batch, 101, 128] for texts: projected queries [batch, 32, 128]."""
    batch, width = read.shape
    counts = torch.arange(QUERIES + width) < (QUERIES + length)[:, None]
    mask = torch.zeros(batch, 1, 1, QUERIES + width).masked_fill(~counts[:, None, None], -1e9)
    queries = blip.query_tokens.expand(batch, -1, -1)
    states = blip.qformer.embeddings(input_ids=read, query_embeds=queries)
    for layer in blip.qformer.encoder.layer:
        states = layer(states, mask, features, None, QUERIES)
    return blip.language_projection(states[:, :QUERIES])


def read_out_loss(
    blip: InstructBlipForConditionalGeneration, features: torch.Tensor, part: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Cross-entropy of the answer's first word at every query, from the first image alone."""
    logits = queried(blip, features, part["read"], part["length"]) @ blip.get_input_embeddings().weight.T
    answers = part["targets"].gather(1, part["length"][:, None] - 1)
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), answers.expand(-1, QUERIES).flatten(), reduction="none"
    )
    weight = part["weight"] * ~part["both"]
    return (each.view(len(logits), QUERIES).mean(1) * weight).sum() / weight.sum()


def answer_loss(
    blip: InstructBlipForConditionalGeneration,
    features: tuple[torch.Tensor, torch.Tensor],
    part: dict[str, torch.Tensor],
    early: bool,
) -> torch.Tensor:
    """Cross-entropy of the answers, behind the queries of one image or of both.

    With `early`, the words see only words: but those that speak an answer, which see the queries from the second layer
    on.
    """
    batch, text = part["ids"].shape
    images = [queried(blip, feature, part["read"], part["length"]) for feature in features]
    states = torch.cat([*images, blip.get_input_embeddings()(part["ids"])], dim=1)
    length = 2 * QUERIES + text
    seen = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, length, length).clone()
    # A prompt of one image has no second one: its words follow the first directly.
    seen[:, 2 * QUERIES :, QUERIES : 2 * QUERIES] &= part["both"][:, None, None]
    skipped = torch.where(part["both"], 0, QUERIES)[:, None]
    where = torch.arange(length).expand(batch, length) - torch.where(torch.arange(length) >= 2 * QUERIES, skipped, 0)
    first = seen
    if early:
        seen[:, 2 * QUERIES :, : 2 * QUERIES] &= (part["targets"] != IGNORED)[:, :, None]
        first = seen.clone()
        first[:, 2 * QUERIES :, : 2 * QUERIES] = False
    masks = [torch.zeros(one.shape).masked_fill(~one, -1e9)[:, None] for one in (first, seen)]
    decoder = blip.language_model.model
    turns = decoder.rotary_emb(states, where)
    for index, layer in enumerate(decoder.layers):
        states = layer(states, attention_mask=masks[min(index, 1)], position_ids=where, position_embeddings=turns)
    logits = blip.language_model.lm_head(decoder.norm(states[:, 2 * QUERIES :]))
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), part["targets"].flatten(), ignore_index=IGNORED, reduction="none"
    )
    weight = part["weight"][:, None].expand(batch, text) * (part["targets"] != IGNORED)
    return (each.view(batch, text) * weight).sum() / weight.sum()


def train(
    blip: InstructBlipForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pool: Pool,
    out: pathlib.Path,
    progress: Progress,
    *,
    read_out: int,
    early: int,
    steps: int,
    batch: int = 64,
    seed: int = 0,
    muon: float = 0.01,
    adam: float = 2e-3,
) -> None:
    """`read_out` steps of the Q-Former alone, then `steps` of both, the first `early` of them with the words blind.

    The tower is frozen. Resumes from `out / "language.pt"`.
    """
    torch.manual_seed(seed)
    blip.vision_model.requires_grad_(False)
    pair = Pair([blip], read_out + steps, muon, adam)
    keeper = Keeper(out, "language", blip, pair, progress, every=100)
    while pair.done < read_out + steps:
        alone = pair.done < read_out
        until = read_out if alone else read_out + steps
        shares = FIRST_WORDS if alone else questions.SHARES
        drawn = Questions(tokenizer, pool, batch, seed + pair.done, shares, plain=0.6 if alone else 0.2)
        data = torch.utils.data.DataLoader(drawn, batch_size=None, num_workers=1, prefetch_factor=6)
        for part in data:
            if pair.done >= until:
                break
            first = pool.seen(part["item"], part["first"])
            if alone:
                loss = read_out_loss(blip, first, part)
            else:
                second = pool.seen(part["item"], part["second"])
                loss = answer_loss(blip, (first, second), part, pair.done < read_out + early)
            loss.backward()
            keeper.step(loss)
