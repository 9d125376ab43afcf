"""Numbers that are none are no answer and no map: the dtype and the layer are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import attnlens
from attnlens.errors import AttnLensError
from tests import tiny

QUESTION = "what is written on the red sign?"
IMAGE = tiny.images("landscape", 1)[0]
ASKS: dict[str, Callable[[Any], Any]] = {
    "answer": lambda reading: reading.answer(QUESTION, 4),
    "trace": lambda reading: reading.trace(QUESTION),
    "gradients": lambda reading: reading.trace(QUESTION, gradients=True),
    "words": lambda reading: reading.word_attention(QUESTION, "red sign"),
    "next token": lambda reading: reading.next_token(QUESTION),
    "entropy": lambda reading: reading.embedding_gradient(QUESTION),
    "pixels": lambda reading: reading.pixel_gradient(QUESTION),
    "crop": lambda reading: reading.zoom((5, 5, 60, 60)).answer(QUESTION, 2),
    "together": lambda reading: reading.next_tokens([IMAGE], QUESTION),
}


def layers_of(family: tiny.Family, model: Any) -> Any:
    inner = model.language_model if family == "instructblip" else model.model.language_model
    return (inner.model if family == "instructblip" else inner).layers


def broken(family: tiny.Family, weights: float, layer: int = 1) -> Any:
    model, processor = tiny.build(family)
    with torch.no_grad():
        layers_of(family, model)[layer].mlp.down_proj.weight[0, 0] = weights
    return attnlens.load(model=model, processor=processor).read(IMAGE)


@pytest.mark.parametrize("ask", ASKS.values(), ids=list(ASKS))
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_damaged_weights_are_named(family: tiny.Family, ask: Callable[[Any], Any]) -> None:
    reading = broken(family, float("nan"), layer=0)
    with pytest.raises(AttnLensError, match=r"in float32 gives .* not finite .*layers.0.mlp.down_proj.weight"):
        ask(reading)


def test_the_layer_in_which_it_begins_is_named() -> None:
    model, processor = tiny.build("llava")
    layers = layers_of("llava", model)
    layers[0].register_forward_hook(lambda _, __, output: output * torch.inf)
    reading = attnlens.load(model=model, processor=processor).read(IMAGE)
    with pytest.raises(AttnLensError, match=r"logits .* first in what enters layer 1 .*wider dtype"):
        reading.answer(QUESTION, 4)


def test_a_head_that_overflows_is_behind_the_last_layer() -> None:
    model, processor = tiny.build("llava")
    model.lm_head.register_forward_hook(lambda _, __, output: output * torch.inf)
    reading = attnlens.load(model=model, processor=processor).read(IMAGE)
    with pytest.raises(AttnLensError, match="in or behind the last layer"):
        reading.next_token(QUESTION)


def test_a_token_that_cannot_come_is_no_fault() -> None:
    class Without(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.head = head

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(states)
            return logits.index_fill(-1, torch.tensor([5]), -torch.inf)

    model, processor = tiny.build("llava")
    model.lm_head = Without(model.lm_head)
    reading = attnlens.load(model=model, processor=processor).read(IMAGE)
    assert reading.next_token(QUESTION)[5] == -float("inf")
    assert reading.answer(QUESTION, 2).tokens
