"""Second and third stage: the projector learns to speak of patches, then the language model learns to answer.

The only loss of the language model is that of the answers' tokens. Nothing looks at its attention.
"""

import json
import pathlib
import time

import numpy as np
import torch
from rich.progress import Progress
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from attnlens.pocket.train import packs, sheets, tower
from attnlens.pocket.train.muon import Pair
from attnlens.pocket.train.pool import Item

WIDTH, LAYERS = 128, 4


def model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The untrained model. In every layer queries and keys start alike, so that like attends to like, and outputs copy
    values."""
    special = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (("pad", "<pad>"), ("bos", "<s>"), ("eos", "</s>"))
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=352,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        pad_token_id=special["pad"],
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
    )
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower.config(),
            text_config=text,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=packs.PATCHES,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for name, parameter in llava.model.language_model.named_parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=(0.25 if "embed" in name else 0.5 / WIDTH**0.5))
        for index, layer in enumerate(llava.model.language_model.layers):
            attention = layer.self_attn
            # Not so strong that a token attends to nothing but itself; even, in the first layer, where words meet
            # words.
            torch.nn.init.normal_(attention.q_proj.weight, std=(1.0 if index else 0.3) / WIDTH**0.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.o_proj.weight.copy_(attention.v_proj.weight.T)
    return llava


def align(
    llava: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    items: list[Item],
    features: torch.Tensor,
    progress: Progress,
    *,
    steps: int = 500,
    batch: int = 48,
    seed: int = 0,
) -> float:
    """LLaVA's first stage: a patch, projected, must be near the words of the colour and of the digit that it shows."""
    projector, embeddings = llava.model.multi_modal_projector, llava.get_input_embeddings().weight
    rng = np.random.default_rng([seed, 4])
    torch.manual_seed(seed)
    with torch.no_grad():
        sample = features[rng.integers(len(features), size=256), 0].float().flatten(0, 1)
        mean, std = sample.mean(0), sample.std(0)
        torch.nn.init.normal_(projector.linear_1.weight, std=WIDTH**-0.5)
        projector.linear_1.weight /= std
        projector.linear_1.bias.copy_(-projector.linear_1.weight @ mean)
        torch.nn.init.normal_(projector.linear_2.weight, std=0.5 * WIDTH**-0.5)
    colours = torch.tensor(tokenizer.convert_tokens_to_ids([*sheets.COLOUR_NAMES, "background"]))
    digits = torch.tensor(tokenizer.convert_tokens_to_ids([*"0123456789", "nothing"]))
    optimiser = torch.optim.Adam([*projector.parameters(), embeddings], 2e-3)
    bar = progress.add_task("projector", total=steps)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        chosen, views = rng.integers(len(items), size=batch), rng.integers(features.shape[1], size=batch)
        shown = [sheets.labels(list(items[i].signs), items[i].views[v]) for i, v in zip(chosen, views, strict=True)]
        states = projector(features[chosen, views].float())
        loss = torch.zeros(())
        for part, ids in enumerate((colours, digits)):
            logits = states @ embeddings[ids].T
            targets = torch.from_numpy(np.stack([label[part] for label in shown]))
            weight = torch.ones(len(ids))
            weight[-1] = 0.1
            loss = loss + torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), weight=weight, ignore_index=sheets.IGNORED
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress.update(bar, advance=1, description=f"projector, loss {loss.item():.3f}")
    with torch.no_grad():
        llava.lm_head.weight.copy_(embeddings)
    return loss.item()


def answer_loss(
    llava: LlavaForConditionalGeneration,
    prefix: torch.Tensor,
    features: torch.Tensor,
    ids: torch.Tensor,
    positions: torch.Tensor,
    masks: list[torch.Tensor],
    targets: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted cross-entropy of the answers' tokens; `prefix` holds the ids of `<s> USER : \\n`, `features` [batch, 2,
    100, width]."""
    embed = llava.get_input_embeddings()
    batch = ids.shape[0]
    seen = llava.model.multi_modal_projector(features)
    start, line = embed(prefix[:3]).expand(batch, 3, WIDTH), embed(prefix[3:]).expand(batch, 1, WIDTH)
    sequence = torch.cat([start, seen[:, 0], line, seen[:, 1], line, embed(ids)], dim=1)
    where = torch.cat([torch.arange(packs.TWO).expand(batch, packs.TWO), positions], dim=1)
    decoder = llava.model.language_model
    turns = decoder.rotary_emb(sequence, where)
    states = sequence
    for index, layer in enumerate(decoder.layers):
        states = layer(states, attention_mask=masks[min(index, 1)], position_ids=where, position_embeddings=turns)
    states = decoder.norm(states)
    logits = llava.lm_head(states[:, packs.TWO :])
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=packs.IGNORED, reduction="none"
    )
    return (each * weights.flatten()).sum() / weights.sum()


def train(
    llava: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    items: list[Item],
    features: torch.Tensor,
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
    """Train projector and language model, the tower frozen.

    For the first `early` steps most signs can be read in the whole image, and only the tokens that speak an answer see
    the images, from the second layer on (`packs.early_masks`); after that every token sees them in every layer.
    """
    torch.manual_seed(seed)
    llava.model.vision_tower.requires_grad_(False)
    pair = Pair([llava], steps, muon, adam)
    saved = out / "language.pt"
    seconds = 0.0
    if saved.exists():
        state = torch.load(saved)
        llava.load_state_dict(state["model"])
        pair.load_state_dict(state["pair"])
        seconds = state["seconds"]
    prefix = torch.tensor(tokenizer.convert_tokens_to_ids(["<s>", "user", ":", "\n"]))
    dataset = packs.Packs(tokenizer, items, batch, seed + pair.done, early - pair.done)
    data = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=6)
    compiled = torch.compile(answer_loss)
    bar = progress.add_task("language model", total=steps, completed=pair.done)
    last = time.perf_counter()
    for part in data:
        if pair.done >= steps:
            break
        views = torch.stack([part["first"], part["second"]], dim=1)
        seen = features[part["item"][:, None], views].float()
        if pair.done < early:
            masks = packs.early_masks(part["blocks"], part["both"], part["targets"])
        else:
            masks = packs.masks(part["blocks"], part["both"])
        loss = compiled(llava, prefix, seen, part["ids"], part["positions"], masks, part["targets"], part["weights"])
        loss.backward()
        pair.step()
        progress.update(bar, advance=1, description=f"language model, loss {loss.item():.3f}")
        if pair.done % 25 == 0:
            now = time.perf_counter()
            seconds, last = seconds + now - last, now
            with (out / "language.jsonl").open("a") as log:
                log.write(
                    json.dumps({"step": pair.done, "loss": round(loss.item(), 4), "seconds": round(seconds)}) + "\n"
                )
        if pair.done % 100 == 0 or pair.done == steps:
            torch.save({"model": llava.state_dict(), "pair": pair.state_dict(), "seconds": seconds}, saved)
