"""Claims about attention that SDPA cannot compute: it is exact, and no matrix of all queries and keys is kept of it.

A PaliGemma on Gemma 2, whose scores are soft-capped; an Inkling, with a bias for every pair of query and key; and the
eager functions of more models, by themselves.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from attnlens import adapters
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.lens._capture import attention
from attnlens.lens._lens import Lens

QUESTION = "What is written on the red sign?"
SOFTCAP = 0.7  # far below the scores of a tiny model, so that it changes every row
CHUNK = 7  # several chunks, and a last one that is not full
ROUNDING = 1e-5  # of values up to 1, in float32: a matrix product of a few rows is summed in another order than of all


def soft_capped() -> Lens:
    spec = adapters.for_model_type("paligemma")
    text = {"model_type": "gemma2", "attn_logit_softcapping": SOFTCAP}
    config = {**spec.tiny.config, "text_config": text}
    return tiny_lens("paligemma", spec.model_copy(update={"tiny": spec.tiny.model_copy(update={"config": config})}))


def biased() -> Lens:
    spec = adapters.for_model_type("inkling_mm_model")
    one_pass = spec.language_model.model_copy(update={"strategy": "one_pass"})
    return tiny_lens("inkling_mm_model", spec.model_copy(update={"language_model": one_pass}))


MODELS = {"soft-capped": soft_capped, "biased": biased}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))


def full_pass(lens: Lens) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """(weights [1, heads, queries, keys] of each layer, their gradients, logits), from transformers alone."""
    reading = lens.read(sample_images()[0])
    lens.model.set_attn_implementation("eager")
    output = lens.model(**lens._host.inputs(reading._prompt(QUESTION)), output_attentions=True)
    log_prob = output.logits[0, -1].float().log_softmax(-1).max()
    gradients = torch.autograd.grad(log_prob, output.attentions)
    return [weights.detach() for weights in output.attentions], list(gradients), output.logits.detach()


@contextmanager
def spied(module: nn.Module) -> Iterator[list[int]]:
    """How many queries the eager function of `module`'s file is given, call by call."""
    home, given = sys.modules[type(module).__module__], []
    own = home.eager_attention_forward

    def spy(module: nn.Module, query: Tensor, *arguments: Any, **kwargs: Any) -> Any:
        given.append(query.shape[2])
        return own(module, query, *arguments, **kwargs)

    home.eager_attention_forward = spy
    try:
        yield given
    finally:
        home.eager_attention_forward = own


@every_model
@pytest.mark.parametrize("chunk", [CHUNK, 1, attention._CHUNK])
def test_rows_and_gradients_are_those_of_one_full_eager_pass(make, chunk, monkeypatch):
    monkeypatch.setattr(attention, "_CHUNK", chunk)
    lens = make()
    reading = lens.read(sample_images()[0])
    trace = reading.trace(QUESTION, gradients=True)
    weights, gradients, logits = full_pass(lens)
    columns = reading._columns(reading._prompt(QUESTION))
    rows = torch.stack([layer[0, :, -1, columns] for layer in weights]).numpy()
    row_gradients = torch.stack([layer[0, :, -1, columns] for layer in gradients]).numpy()
    assert np.abs(row_gradients).max() > 0
    assert np.abs(trace.attention - rows).max() <= ROUNDING
    assert np.abs(trace.attention_gradient - row_gradients).max() <= 1e-4 * np.abs(row_gradients).max()
    assert trace.log_prob == pytest.approx(float(logits[0, -1].log_softmax(-1).max()), abs=1e-4)


@every_model
def test_rows_of_words_are_those_of_one_full_eager_pass(make, monkeypatch):
    monkeypatch.setattr(attention, "_CHUNK", CHUNK)
    lens = make()
    reading = lens.read(sample_images()[0])
    found = reading.word_attention(QUESTION, "red sign")
    columns = reading._columns(reading._prompt(QUESTION))
    for layer, got in zip(full_pass(lens)[0], found.attention, strict=True):
        assert np.abs(got - layer[0][:, list(found.words)][..., columns].numpy()).max() <= ROUNDING


def test_the_soft_cap_of_these_tests_changes_the_rows():
    lens = soft_capped()
    capped = lens.read(sample_images()[0]).trace(QUESTION).attention
    for path, module in lens.model.named_modules():
        if path.endswith("self_attn") and hasattr(module, "attn_logit_softcapping"):
            module.attn_logit_softcapping = None
    assert np.abs(lens.read(sample_images()[0]).trace(QUESTION).attention - capped).max() > 100 * ROUNDING


@every_model
@pytest.mark.parametrize("gradients", [False, True])
def test_eager_code_gets_a_chunk_of_queries_at_a_time_and_the_last_by_itself(make, gradients, monkeypatch):
    monkeypatch.setattr(attention, "_CHUNK", CHUNK)
    lens = make()
    reading = lens.read(sample_images()[0])
    sites = lens._host.structure.attention
    with spied(lens.model.get_submodule(sites[0].path)) as given:
        reading.trace(QUESTION, gradients=gradients)
    assert max(given) == CHUNK
    others = reading._prompt(QUESTION).length - 1
    again = len(sites) - 1 if gradients else 0  # on the way back, down to the rows of the lowest layer, once more
    assert given.count(CHUNK) == (len(sites) + again) * (others // CHUNK)
    assert sum(given) == len(sites) * (others + 1) + again * others


def test_the_graph_keeps_one_row_of_weights_a_layer(monkeypatch):
    monkeypatch.setattr(attention, "_CHUNK", CHUNK)
    lens = soft_capped()
    reading = lens.read(sample_images()[0])
    keys = reading._prompt(QUESTION).length
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        reading.trace(QUESTION, gradients=True)
    weights = [shape for shape in kept if len(shape) == 4 and shape[1] > 1 and shape[-1] == keys]
    assert {shape[-2] for shape in weights} == {1}


HEADS, QUERIES, KEYS, WIDTH = 4, 16, 21, 8
ARGUMENTS = {
    "gemma2": {"softcap": SOFTCAP},
    "gpt_oss": {"s_aux": torch.linspace(-1, 1, HEADS)},  # one sink for each head
    "inkling": {"position_bias": torch.linspace(-2, 2, HEADS * QUERIES * KEYS).view(1, HEADS, QUERIES, KEYS)},
    "inkling2": {  # one sink for each query
        "position_bias": torch.linspace(-2, 2, HEADS * QUERIES * KEYS).view(1, HEADS, QUERIES, KEYS),
        "sinks": torch.linspace(-3, 3, HEADS * QUERIES).view(1, HEADS, QUERIES, 1),
    },
}


@pytest.mark.parametrize("family", ARGUMENTS)
def test_chunks_of_a_model_s_eager_function_are_its_one_call(family, monkeypatch):
    monkeypatch.setattr(attention, "_CHUNK", CHUNK)
    home = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    module = type("Attention", (nn.Module,), {"__module__": home.__name__})().eval()
    module.num_key_value_groups, module.sinks = 2, ARGUMENTS[family].get("s_aux")
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, HEADS, QUERIES, WIDTH, generator=draw)
    key, value = (torch.randn(1, HEADS // 2, KEYS, WIDTH, generator=draw) for _ in range(2))
    seen = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(KEYS - QUERIES)[None, None]
    arguments = {"scaling": 0.5, **ARGUMENTS[family]}
    output, weights = AttentionInterface()[attention.ROWS](module, query, key, value, seen, **arguments)
    hidden = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    whole, all_weights = home.eager_attention_forward(module, query, key, value, hidden, **arguments)
    torch.testing.assert_close(output, whole, atol=ROUNDING, rtol=0)
    torch.testing.assert_close(weights, all_weights[:, :, -1:], atol=ROUNDING, rtol=0)
