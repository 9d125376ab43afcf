"""Whatever a generation config says, a reading answers greedily on a cache of its own, and a trace explains that."""

from __future__ import annotations

from typing import Any

import pytest

import attnlens
from tests import tiny
from tests.lens import reference

QUESTION = "what is written on the red sign?"
IMAGE = tiny.images("landscape", 1)


def asked(family: tiny.Family, **stated: Any) -> tuple[Any, Any]:
    model, processor = tiny.build(family)
    language_model = model.language_model if family == "instructblip" else model
    for key, value in stated.items():
        setattr(language_model.generation_config, key, value)
    return model, attnlens.load(model=model, processor=processor).read(IMAGE[0])


ELSEWISE: list[dict[str, Any]] = [
    {"cache_implementation": "static"},
    {"cache_implementation": "dynamic"},
    {"cache_implementation": "offloaded"},
    {"cache_implementation": "offloaded_static"},
    {"cache_implementation": "quantized", "cache_config": {"backend": "quanto", "nbits": 4}},
    {"use_cache": False},
    {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5},
    {"num_beams": 3, "num_return_sequences": 2},
    {"prompt_lookup_num_tokens": 3},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"max_length": 3},
    {"prefill_chunk_size": 4},
]


@pytest.mark.parametrize("stated", ELSEWISE, ids=lambda stated: ",".join(f"{k}={v}" for k, v in stated.items()))
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_answer_is_greedy_whatever_else_is_stated(family: tiny.Family, stated: dict[str, Any]) -> None:
    model, processor = tiny.build(family)
    expected = reference.generated(family, model, processor, IMAGE, QUESTION)
    model, reading = asked(family, **stated)
    config = (model.language_model if family == "instructblip" else model).generation_config
    before = config.to_dict()
    assert reading.answer(QUESTION, 8).tokens == expected
    assert reading.trace(QUESTION).top_token == expected[0]
    assert config.to_dict() == before
    assert (model.language_model if family == "instructblip" else model).generation_config is config


def likeliest(family: tiny.Family) -> int:
    return asked(family)[1].trace(QUESTION).top_token


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("key", ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "repetition_penalty"])
def test_a_trace_explains_the_token_that_the_answer_begins_with(family: tiny.Family, key: str) -> None:
    first = likeliest(family)
    value: Any = {"bad_words_ids": [[first]], "repetition_penalty": 30.0}.get(key, [first])
    model, reading = asked(family, **{key: value})
    expected = reference.generated(family, model, tiny.build(family)[1], IMAGE, QUESTION)
    trace, answer = reading.trace(QUESTION, gradients=True), reading.answer(QUESTION, 8)
    assert answer.tokens == expected
    assert trace.top_token == expected[0]
    assert trace.log_prob == pytest.approx(reading.next_token(QUESTION)[expected[0]], abs=1e-4)
    if key != "repetition_penalty":
        assert trace.top_token != first
