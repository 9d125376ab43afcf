"""Second and third stage: the connector learns to speak of patches, then the language model learns to answer.

The only loss of the language model is that of the answers' tokens. Nothing looks at its attention.
"""

import pathlib

import numpy as np
import torch
from rich.progress import Progress
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.training import packs, practice
from benchmarks.training.checkpointer import Keeper
from benchmarks.training.families import WIDTH, Family
from benchmarks.training.muon import Pair
from benchmarks.training.pool import Pool


def align(
    family: Family,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pools: list[Pool],
    progress: Progress,
    *,
    steps: int,
    batch: int = 48,
    seed: int = 0,
) -> float:
    """LLaVA's first stage: an image token must be near the words of the colour and of the digit that it shows."""
    torch.manual_seed(seed)
    connector, embeddings = family.connector(model), model.get_input_embeddings().weight
    connector.requires_grad_(True)
    family.prepare(model, torch.cat([pool.some(64).flatten(0, 1) for pool in pools]))
    rng = np.random.default_rng([seed, 4])
    colours = torch.tensor(tokenizer.convert_tokens_to_ids([*practice.COLOUR_NAMES, "background"]))
    digits = torch.tensor(tokenizer.convert_tokens_to_ids([*"0123456789", "nothing"]))
    optimiser = torch.optim.Adam([*connector.parameters(), embeddings], 2e-3)
    bar = progress.add_task("connector", total=steps)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        pool = pools[rng.integers(len(pools))]
        view = int(rng.integers(pool.features.shape[1]))
        chosen = rng.integers(len(pool.items), size=batch)
        size = pool.bucket.crop if view else pool.bucket.whole
        states = family.project(model, pool.seen(chosen, view)[:, pool.leading :], size)
        shown = [pool.items[index] for index in chosen]
        labels = [practice.labels(item.signs, item.views[view].window, size, family.cell) for item in shown]
        loss = torch.zeros(())
        for part, ids in enumerate((colours, digits)):
            weight = torch.ones(len(ids))
            weight[-1] = 0.1
            loss = loss + torch.nn.functional.cross_entropy(
                (states @ embeddings[ids].T).flatten(0, 1),
                torch.from_numpy(np.concatenate([label[part] for label in labels])),
                weight=weight,
                ignore_index=practice.IGNORED,
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress.update(bar, advance=1, description=f"connector, loss {loss.item():.3f}")
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(embeddings)
    return loss.item()


def answer_loss(
    family: Family,
    model: PreTrainedModel,
    start: packs.Prefix,
    sizes: tuple[practice.Size, practice.Size],
    features: tuple[torch.Tensor, torch.Tensor],
    ids: torch.Tensor,
    positions: torch.Tensor,
    masks: list[torch.Tensor],
    targets: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted cross-entropy of the answers' tokens."""
    batch, two = ids.shape[0], start.two[0]
    before = model.get_input_embeddings()(torch.from_numpy(start.ids.clip(0))).expand(batch, two, WIDTH)
    images = [family.project(model, part, size) for part, size in zip(features, sizes, strict=True)]
    first, second = (int(np.argmax(start.ids == mark)) for mark in (-1, -2))
    parts = [
        before[:, :first],
        images[0],
        before[:, first + images[0].shape[1] : second],
        images[1],
        before[:, second + images[1].shape[1] :],
        model.get_input_embeddings()(ids),
    ]
    states = torch.cat(parts, dim=1)
    axes = len(start.positions)
    where = torch.cat(
        [torch.from_numpy(start.positions)[:, None].expand(axes, batch, two), positions.expand(axes, *ids.shape)], dim=2
    )
    decoder = family.decoder(model)
    turns = decoder.rotary_emb(states, where if axes > 1 else where[0])
    for index, layer in enumerate(decoder.layers):
        states = layer(states, attention_mask=masks[min(index, 1)], position_ids=where[0], position_embeddings=turns)
    logits = model.get_output_embeddings()(decoder.norm(states[:, two:]))
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=packs.IGNORED, reduction="none"
    )
    return (each * weights.flatten()).sum() / weights.sum()


def train(
    family: Family,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pools: list[Pool],
    out: pathlib.Path,
    progress: Progress,
    *,
    steps: int,
    early: int,
    batch: int = 16,
    seed: int = 0,
    muon: float = 0.01,
    adam: float = 2e-3,
) -> None:
    """Train connector and language model, the tower frozen.

    For the first `early` steps most signs can be read in the whole image, and only the tokens that speak an answer see
    the images, from the second layer on (`packs.early_masks`); after that every token sees them in every layer.
    """
    torch.manual_seed(seed)
    family.vision(model).requires_grad_(False)
    family.connector(model).requires_grad_(True)
    pair = Pair([model], steps, muon, adam)
    keeper = Keeper(out, "language", model, pair, progress, every=100)
    buckets = [pool.bucket for pool in pools]
    starts = [packs.prefix(family.dialogue, tokenizer, bucket) for bucket in buckets]
    items = [pool.items for pool in pools]
    dataset = packs.Packs(family.dialogue, tokenizer, buckets, items, batch, seed + pair.done, early - pair.done)
    data = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=6)
    # With many shapes compiling takes longer than it saves.
    loss_of = torch.compile(answer_loss) if len(pools) == 1 else answer_loss
    for part in data:
        if pair.done >= steps:
            break
        pool, start = pools[part["pool"]], starts[part["pool"]]
        first = 0 if pool.bucket.whole != pool.bucket.crop else part["first"]
        features = (pool.seen(part["item"], first), pool.seen(part["item"], part["second"]))
        if pair.done < early:
            masks = packs.early_masks(start, part["blocks"], part["both"], part["targets"])
        else:
            masks = packs.masks(start, part["blocks"], part["both"])
        sizes = (pool.bucket.whole, pool.bucket.crop)
        spoken = (part["ids"], part["positions"], masks, part["targets"], part["weights"])
        loss = loss_of(family, model, start, sizes, features, *spoken)
        loss.backward()
        keeper.step(loss)
