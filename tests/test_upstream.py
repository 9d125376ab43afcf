"""Claims about what attnlens takes from transformers beyond its public face."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationMixin, LlavaForConditionalGeneration

import attnlens
from attnlens.upstream import cache_name
from tests import tiny

QUESTION = "what color is it?"
HERE = cache_name(GenerationMixin.prepare_inputs_for_generation)


class NamesCache(LlavaForConditionalGeneration):
    """Remote code of today, for `cache`."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, **inputs):
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return super().forward(**inputs, **{HERE: cache})


class NamesPast(LlavaForConditionalGeneration):
    """Remote code from before transformers 5.24, for `past_key_values`."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **inputs):
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return super().forward(**inputs, **{HERE: past_key_values})


class PreparesPast(NamesPast):
    """The same, with its own way to go on from a cache."""

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **inputs):
        made = super().prepare_inputs_for_generation(input_ids, **{HERE: past_key_values}, **inputs)
        return {"past_key_values" if name == HERE else name: value for name, value in made.items()}


REMOTE = [NamesCache, NamesPast, PreparesPast]


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Any]:
    return tiny.build("llava")


def told(model: Any, processor: Any) -> tuple[Any, ...]:
    reading = attnlens.load(model=model, processor=processor).read(tiny.images("landscape", 1)[0])
    return reading.answer(QUESTION, 4).tokens, reading.next_token(QUESTION), reading.trace(QUESTION).attention


@pytest.mark.parametrize("kind", REMOTE, ids=lambda kind: kind.__name__)
def test_a_model_is_given_its_cache_under_the_name_that_it_takes(plain, kind):
    model, processor = plain
    remote = kind(model.config).eval()
    remote.load_state_dict(model.state_dict())
    tokens, log_probs, attention = told(remote, processor)
    expected = told(model, processor)
    assert tokens == expected[0]
    torch.testing.assert_close(torch.as_tensor(log_probs), torch.as_tensor(expected[1]))
    torch.testing.assert_close(torch.as_tensor(attention), torch.as_tensor(expected[2]))
    assert "prepare_inputs_for_generation" not in vars(remote)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (NamesCache.forward, "cache"),
        (NamesPast.forward, "past_key_values"),
        (PreparesPast.prepare_inputs_for_generation, "past_key_values"),
    ],
)
def test_the_name_is_read_off_the_signature(call, expected):
    assert cache_name(call) == expected


def test_what_names_no_cache_is_given_what_generation_expects():
    assert cache_name(lambda input_ids, **inputs: None) == HERE
