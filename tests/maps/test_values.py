"""Claims about object relevance from cached values: it equals the paper's recipe written plainly on a full forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlens
from attnlens import adapters, maps
from attnlens._upstream import cache_name
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.errors import AttnLensError
from attnlens.maps._values import EXISTENCE, relevance
from tests import tiny

QUESTION = "Is there a red sign in the image?"
SDPA_ONLY = ["llava", "qwen2_vl", "gemma3", "llava_next", "idefics3", "internvl", "mistral3", "glm4v", "qwen3_5"]


def plain(cosines: np.ndarray, words: list[int], columns: list[int]) -> np.ndarray:
    """METHODS 2.2, cell by cell: rows with the residual, sums over layers, products over words."""
    layers, count, tokens = cosines.shape
    product = np.ones(len(columns))
    for word in range(count):
        total = np.zeros(len(columns))
        for layer in range(layers):
            row = [max(0.0, cosines[layer, word, token]) for token in range(tokens)]
            row = [(value + (1.0 if token == words[word] else 0.0)) / 2 for token, value in enumerate(row)]
            whole = sum(row)
            total += np.array([row[column] / whole for column in columns])
        total = np.maximum(total, 1e-12)
        total /= total.sum()
        product *= total
        product /= product.sum()
    return product


@pytest.fixture(scope="module")
def reading():
    return tiny_lens("llava", adapters.find("llava")).read(sample_images()[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6), st.integers(3, 30))
def test_relevance_equals_the_plain_recipe_on_random_cosines(seed, layers, words, images):
    random = np.random.default_rng(seed)
    tokens = images + words + 5
    cosines = random.uniform(-1, 4, (layers, words, tokens))
    at, columns = list(range(images + 2, images + 2 + words)), list(range(1, 1 + images))
    np.testing.assert_allclose(relevance(cosines, tuple(at), columns), plain(cosines, at, columns), atol=1e-12)


def test_many_words_do_not_underflow():
    assert relevance(np.zeros((2, 3, 40)), (30, 31, 32), list(range(20))) == pytest.approx(np.full(20, 1 / 20))
    cosines = np.full((2, 400, 1000), 1e-3)
    cosines[:, :, 7] = 1.0
    found = relevance(cosines, tuple(range(500, 900)), list(range(100)))
    assert np.isfinite(found).all()
    assert found.argmax() == 7


def test_the_map_equals_one_made_from_the_values_of_a_full_forward():
    model, processor = tiny.build("llava", heads=4, num_key_value_heads=2)
    lens = attnlens.load(model=model, processor=processor)
    image = tiny.images("landscape", 1)[0]
    found = maps.value_similarity(lens.read(image), QUESTION, target="red sign", layers=(1, 2))
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[image], text=text, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    with torch.no_grad():
        cache: Any = model(**inputs, use_cache=True)[cache_name(model.forward)]
    target = processor.tokenizer.encode(" red sign", add_special_tokens=False)
    (start,) = (at for at in range(len(ids)) if ids[at : at + len(target)] == target)
    columns = [at for at, token in enumerate(ids) if token == model.config.image_token_id]
    words = list(range(start, start + len(target)))
    rows = []
    for layer in (1, 2):
        values = cache.layers[layer].values[0, :, :-1]  # the last prompt token is not in the cache that is read
        unit = values / values.norm(dim=-1, keepdim=True)
        rows.append(sum(head[words] @ head.T for head in unit).numpy())
    expected = plain(np.stack(rows).astype(np.float64), words, columns)
    np.testing.assert_allclose(found.values.ravel(), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("model_type", SDPA_ONLY)
def test_no_attention_matrix_is_asked_for(model_type, no_eager_attention):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    no_eager_attention(lens.model)
    found = maps.value_similarity(lens.read(sample_images()[0]), QUESTION, target="red sign")
    assert found.values.sum() == pytest.approx(1, rel=1e-3)
    assert found.values.std() > 0


def test_it_adds_no_pass_to_what_an_answer_needs():
    model, processor = tiny.build("llava")
    lens = attnlens.load(model=model, processor=processor)
    reading = lens.read(tiny.images("square", 1)[0])
    reading.answer(QUESTION)
    before = lens.meter.now()
    maps.value_similarity(reading, QUESTION, target="red sign")
    assert (lens.meter.now() - before).forwards == 0


def test_a_target_alone_is_put_into_the_existence_question():
    lens = tiny_lens("llava", adapters.find("llava"))
    reading = lens.read(sample_images()[0])
    alone = maps.value_similarity(reading, "What does it say?", target="red sign")
    asked = maps.value_similarity(reading, EXISTENCE.format(target="red sign"), target="red sign")
    assert (alone.values == asked.values).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "   "}, "expected some words"),
        ({"target": 3}, "expected some words"),
        ({"target": ["a"]}, "expected some words"),
        ({"image": 2}, "no image 2"),
        ({"image": -1}, "no image -1"),
        ({"image": "0"}, "no image '0'"),
        *(
            ({"layers": layers}, "two whole numbers in order from 0 to 2")
            for layers in [(50, 60), (0, 99), (-5, 0), (2, 1), (0.5, 1.5), (0,), (), 2, "12", (True, 2)]
        ),
    ],
)
def test_what_cannot_be_used_is_said(reading, options, message):
    with pytest.raises(AttnLensError, match=message):
        maps.value_similarity(reading, QUESTION, **{"target": "red sign", **options})


@pytest.mark.parametrize("question", [["is there a red sign?"], 3, None])
def test_a_question_that_is_no_text_is_said_although_the_target_has_one_of_its_own(reading, question):
    with pytest.raises(AttnLensError, match="expected some text"):
        maps.value_similarity(reading, question, target="red sign")


def test_layers_that_are_there_and_hold_no_values_are_said(reading, monkeypatch):
    def of_the_last(question, words):
        found = type(reading).value_similarity(reading, question, words)
        return replace(found, cosines=found.cosines[-1:], layers=found.layers[-1:])

    monkeypatch.setattr(reading, "value_similarity", of_the_last)
    with pytest.raises(AttnLensError, match="No layer from 0 to 1"):
        maps.value_similarity(reading, QUESTION, target="red sign", layers=(0, 1))


@pytest.mark.parametrize("words", [(10_000,), (-1,)])
def test_positions_that_the_cache_does_not_hold_are_said(reading, words):
    with pytest.raises(AttnLensError, match="expected positions from 0 to"):
        reading.value_similarity(QUESTION, words)


@pytest.mark.parametrize("question", ["What is written on the Pink sign?", "Where is the Walrus sign?"])
@pytest.mark.parametrize("name", ["pocket/llava", "pocket/qwen2_5_vl"])
def test_without_a_target_the_whole_question_is_it_whatever_the_tokenizer_makes_of_it(name, question):
    lens = attnlens.load(name)
    reading = lens.read(sample_images()[0])
    ids = reading._prompt(question).ids[0].tolist()
    asked = lens.tokenizer.encode(question, add_special_tokens=False)
    (start,) = (at for at in range(len(ids)) if ids[at : at + len(asked)] == asked)
    seen = reading.value_similarity(question, range(start, start + len(asked)))
    chosen = [index for index, layer in enumerate(seen.layers) if in_value_layers(lens, layer, len(seen.layers))]
    expected = plain(seen.cosines[chosen].astype(float), list(seen.words), list(seen.columns[0]))
    found = maps.value_similarity(reading, question)
    np.testing.assert_allclose(found.values.ravel(), expected, rtol=1e-4, atol=1e-7)


def in_value_layers(lens, layer, depth):
    first, last = lens.value_layers or (depth // 2, depth)
    return first <= layer <= last


def test_behind_a_connector_with_attention_there_is_no_such_map():
    model, processor = tiny.build("instructblip")
    lens = attnlens.load(model=model, processor=processor)
    with pytest.raises(AttnLensError, match="image tokens have no place"):
        maps.value_similarity(lens.read(tiny.images("square", 1)[0]), QUESTION, target="red sign")
