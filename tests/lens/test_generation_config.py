"""Whatever a generation config says, a reading answers greedily on a cache of its own, and a trace explains that."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import WatermarkingConfig

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
    {"max_cache_len": 8},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"num_beams": 2, "force_words_ids": [[3]]},
    {"dola_layers": "high"},
    {"low_memory": True, "length_penalty": 2.0, "early_stopping": True},
    {"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.2, "is_assistant": True},
    {"assistant_early_exit": 1},
    {"output_attentions": True},
    {"output_hidden_states": True, "output_scores": True},
    {"return_dict_in_generate": False, "output_logits": False},
    {"min_p": 0.9, "typical_p": 0.3, "epsilon_cutoff": 0.2, "eta_cutoff": 0.2, "top_h": 0.3},
    {"pad_token_id": 7},
    {"remove_invalid_values": True},
    {"renormalize_logits": True},
    {"token_healing": False},
    {"disable_compile": False},
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


WORDS: list[dict[str, Any]] = [
    {"no_repeat_ngram_size": 1},
    {"encoder_repetition_penalty": 3.0},
    {"sequence_bias": [[[11], 20.0]]},
    {"exponential_decay_length_penalty": [1, 1.5]},
    {"min_new_tokens": 5, "eos_token_id": 0},
    {"min_length": 400},
    {"forced_eos_token_id": 9},
    {"watermarking_config": WatermarkingConfig(bias=50.0)},
    {"eos_token_id": list(range(0, 400, 3))},
    {"stop_strings": ["e", "a", "o"]},
    {"max_time": 0.0},
    {"guidance_scale": 1.5},
]


@pytest.mark.parametrize("stated", WORDS, ids=lambda stated: ",".join(stated))
def test_what_is_stated_of_tokens_holds(stated: dict[str, Any]) -> None:
    """The answer is that of `generate` on the whole prompt; `stop_strings` needs the tokenizer there, too."""
    model, reading = asked("llava", **stated)
    processor = tiny.build("llava")[1]
    inputs = reference.prompt("llava", processor, IMAGE, QUESTION)
    start = inputs["input_ids"].shape[1]
    told = model.generate(**inputs, do_sample=False, max_new_tokens=8, tokenizer=processor.tokenizer)[0, start:]
    answer = reading.answer(QUESTION, 8)
    assert answer.tokens == tuple(told.tolist())
    assert reading.trace(QUESTION).top_token == answer.tokens[0]


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
