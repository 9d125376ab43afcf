"""Attention before each token of a given answer is that of one eager pass over the prompt with the answer behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attnlens
from attnlens.errors import AttnLensError
from tests import tiny
from tests.lens import reference

QUESTION = "what is written on the red sign?"
ANSWER = "yes, the blue one"
SHARED: tuple[tiny.Family, ...] = ("llava", "qwen2_5_vl")


def lens_of(family: tiny.Family) -> attnlens.Lens:
    model, processor = tiny.build(family)
    return attnlens.load(model=model, processor=processor)


def plain(family: tiny.Family, images: Any) -> np.ndarray[Any, Any]:
    """[layers, heads, answer tokens, image tokens], with everything that transformers itself shows."""
    model, processor = reference.reference_model(family)
    inputs = reference.prompt(family, processor, images, QUESTION)
    tokens = processor.tokenizer(ANSWER, return_tensors="pt", add_special_tokens=False)["input_ids"]
    start = inputs["input_ids"].shape[1]
    seen = torch.nonzero(inputs["input_ids"][0] == model.config.image_token_id).flatten()
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, tokens.shape[1]))
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True, use_cache=False).attentions
    before = slice(start - 1, start - 1 + tokens.shape[1])
    return torch.stack([one[0, :, before][..., seen] for one in attentions]).numpy()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("family", SHARED)
def test_rows_of_a_given_answer_are_those_of_one_eager_pass(family: tiny.Family, count: int) -> None:
    images = tiny.images("landscape", count)
    found = lens_of(family).read(images).answer_attention(QUESTION, ANSWER)
    np.testing.assert_allclose(found.attention, plain(family, images), atol=1e-5)


@pytest.mark.parametrize("family", SHARED)
def test_it_stands_beside_answers_and_traces_without_changing_them(family: tiny.Family) -> None:
    image = tiny.images("portrait", 1)[0]
    expected = lens_of(family).read(image).answer(QUESTION, 6).tokens
    reading = lens_of(family).read(image)
    found = reading.answer_attention(QUESTION, ANSWER)
    np.testing.assert_allclose(found.attention[:, :, 0], reading.trace(QUESTION).attention, atol=1e-6)
    assert reading.answer(QUESTION, 6).tokens == expected
    assert found.words == tuple(range(found.words[0], found.words[0] + found.attention.shape[2]))


@pytest.mark.parametrize("answer", ["", "  ", None, 7, ["yes"]])
def test_an_answer_without_text_is_refused(answer: Any) -> None:
    with pytest.raises(AttnLensError, match="expected some text"):
        lens_of("llava").read(tiny.images("square", 1)[0]).answer_attention(QUESTION, answer)


def test_an_answer_longer_than_the_context_is_refused() -> None:
    with pytest.raises(AttnLensError, match="context holds"):
        lens_of("llava").read(tiny.images("square", 1)[0]).answer_attention(QUESTION, "yes " * 3000)


def test_a_model_that_leaves_no_cache_says_so() -> None:
    with pytest.raises(AttnLensError, match="goes on from no KV cache"):
        lens_of("instructblip").read(tiny.images("square", 1)[0]).answer_attention(QUESTION, "yes")
