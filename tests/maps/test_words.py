"""Claims about the attention of words: rows equal those of a full eager pass, at no more cost than the rows asked for,
and HiDe's map is its recipe written plainly."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import attnlens
from attnlens import adapters, maps
from attnlens.adapters._schema import AdapterSpec
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.conformance._types import question_answerers
from attnlens.errors import AttnLensError
from attnlens.lens._capture.attention import implementation
from attnlens.lens._model.broken import broken
from attnlens.maps._words import decoupled
from attnlens.pocket import scenes
from tests import tiny

QUESTION = "What is written on the red sign?"
TARGET = "red sign"
TYPES = [kind for kind in question_answerers() if not broken(kind)]
SOME = {  # a type for each way in which rows come about
    "llava": "shared",
    "gemma3": "shared",  # sliding windows, image tokens that see each other
    "llava_next": "shared",
    "qwen2_5_vl": "shared",  # m-rope
    "qwen3_5": "replay",  # a recurrent state
    "inkling2": "replay",  # a bias for every pair of positions
    "paligemma": "one_pass",  # image tokens see the question
    "idefics2": "one_pass",  # a connector with attention
    "kosmos-2": "one_pass",  # which shares the language model's config
    "instructblip": "one_pass",  # which reads the question, before an inner language model
    "mllama": "one_pass",  # cross-attention
}
T5 = {"text_config": {"model_type": "t5", "decoder_start_token_id": 0}, "use_decoder_only_language_model": False}


def changed(model_type: str, **parts: dict[str, Any]) -> AdapterSpec:
    spec = adapters.for_model_type(model_type)
    new = {key: getattr(spec, key).model_copy(update=value) for key, value in parts.items()}
    return spec.model_copy(update=new)


def full_rows(reading: Any, words: tuple[int, ...]) -> np.ndarray:
    """[layers, heads, words, image_tokens], from every matrix of one eager pass over the whole prompt."""
    lens, seen, prompt = reading, {}, reading._prompt(QUESTION)

    def keep(site: Any) -> Any:
        return lambda _, __, output: seen.update({site: output[site.output]})

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(implementation([lens.model], "eager"))
        for site in lens._host.structure.attention:
            handle = lens.model.get_submodule(site.path).register_forward_hook(keep(site))
            stack.callback(handle.remove)
        lens.model(**reading._host.inputs(prompt), output_attentions=True)
    columns = reading._columns(prompt)
    rows = [seen[site][0][:, list(words)][..., columns].float().numpy() for site in lens._host.structure.attention]
    heads = math.lcm(*map(len, rows))
    return np.stack([row.repeat(heads // len(row), axis=0) for row in rows])


def assert_exact(reading: Any) -> None:
    found = reading.word_attention(QUESTION, TARGET)
    expected = full_rows(reading, found.words)
    assert found.attention.dtype == np.float32
    assert found.attention.shape == expected.shape
    assert expected.max() > 0.01
    assert np.abs(found.attention - expected).max() <= 5e-5


@pytest.mark.parametrize(
    "model_type", [pytest.param(kind, marks=[] if kind in SOME else [pytest.mark.slow]) for kind in TYPES]
)
def test_rows_of_words_equal_those_of_a_full_eager_pass(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    assert SOME.get(model_type, lens._host.structure.strategy) == lens._host.structure.strategy
    first, second = sample_images()
    assert_exact(lens.read(first))
    asked = lens.read([first, second])
    asked.answer(QUESTION, max_new_tokens=1)
    assert_exact(asked)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_rows_of_words_equal_those_that_transformers_hands_out(family):
    model, processor = tiny.build(family)
    lens = attnlens.load(model=model, processor=processor, adapter=family)
    reading = lens.read(tiny.images("landscape", 1)).zoom((10, 10, 80, 70))
    words = reading._prompt(QUESTION).length - np.array([9, 4, 6, 4])  # in any order, one twice
    found = reading.word_attention(QUESTION, words.tolist())
    inputs = reading._host.inputs(reading._prompt(QUESTION))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(**inputs, output_attentions=True)
    attentions = (out.language_model_outputs if family == "instructblip" else out).attentions
    image_tokens = (inputs["input_ids"][0] == model.config.image_token_id).numpy()
    expected = np.stack([layer[0].numpy()[:, words][..., image_tokens] for layer in attentions])
    np.testing.assert_allclose(found.attention, expected, atol=1e-5)
    assert found.words == tuple(words)
    assert found.layers == (0, 1, 2)
    assert [span.stop - span.start for span in found.spans] == [expected.shape[-1] // 2] * 2 or family == "qwen2_5_vl"


@pytest.mark.parametrize("model_type", ["llava", "paligemma", "mllama"])
def test_the_strategy_eager_shows_the_same_rows(model_type):
    assert_exact(
        tiny_lens(model_type, changed(model_type, language_model={"strategy": "eager"})).read(sample_images()[0])
    )


def test_the_connector_s_attention_is_that_of_the_trace():
    lens = tiny_lens("instructblip", adapters.find("instructblip"))
    reading = lens.read(sample_images()[0])
    found, trace = reading.word_attention(QUESTION, TARGET), reading.trace(QUESTION)
    np.testing.assert_allclose(found.connector_attention, trace.connector_attention, atol=1e-6)
    assert found.spans == trace.spans


@pytest.mark.parametrize("model_type", ["llava", "gemma3", "paligemma", "mllama", "qwen3_5"])
def test_only_the_rows_asked_for_are_computed_in_the_open(model_type, monkeypatch):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    reading = lens.read(sample_images()[0])
    module = lens.model.get_submodule(lens._host.structure.attention[0].path)
    code = type(module).__module__
    plain, rows = vars(__import__("sys").modules[code])["eager_attention_forward"], []

    def counting(module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(query.shape[2])
        return plain(module, query, *args, **kwargs)

    monkeypatch.setattr(f"{code}.eager_attention_forward", counting)
    found = reading.word_attention(QUESTION, TARGET)
    assert set(rows) <= {1, len(found.words)}
    assert len(found.words) in rows


@pytest.mark.parametrize(("model_type", "shared"), [("llava", True), ("gemma3", True), ("paligemma", False)])
def test_one_short_pass_gives_them_where_the_images_are_read_already(model_type, shared):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    reading = lens.read(sample_images()[0])
    reading.answer(QUESTION, max_new_tokens=1)
    before = lens.meter.now()
    reading.word_attention(QUESTION, TARGET)
    spent = lens.meter.now() - before
    tokens = len(reading._prompt(QUESTION).positions[0])
    assert (spent.forwards, spent.image_tokens, spent.backwards) == (1, 0 if shared else tokens, 0)


@pytest.mark.parametrize("model_type", ["llava", "qwen3_5", "instructblip"])
def test_the_model_and_the_reading_are_left_as_they_were(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    reading, fresh = (lens.read(sample_images()[0]) for _ in range(2))
    expected = fresh.answer(QUESTION, max_new_tokens=6).tokens, fresh.trace(QUESTION).attention
    before = {part: part.config._attn_implementation for part in lens.model.modules() if hasattr(part, "config")}
    reading.word_attention(QUESTION, TARGET)
    assert {part: part.config._attn_implementation for part in before} == before
    assert reading.answer(QUESTION, max_new_tokens=6).tokens == expected[0]
    np.testing.assert_allclose(reading.trace(QUESTION).attention, expected[1], atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((0,), "stands before the end of the images"),
        ((10_000,), "stands behind the end of the prompt"),
        ((), "no words"),
        ("green sign", "does not hold the target"),
        (3, "part of the question, or positions"),
        (["a"], "part of the question, or positions"),
    ],
)
def test_words_that_do_not_look_at_the_images_are_refused(words, message):
    reading = tiny_lens("llava", adapters.find("llava")).read(sample_images()[0])
    with pytest.raises(AttnLensError, match=message):
        reading.word_attention(QUESTION, words)


def test_a_question_before_the_image_does_not_look_at_it():
    spec = changed("llava", prompt={"template": "{question} {images} Answer:", "image": "<image>"})
    reading = tiny_lens("llava", spec).read(sample_images()[0])
    with pytest.raises(AttnLensError, match="behind the images"):
        reading.word_attention(QUESTION, TARGET)


@pytest.mark.parametrize("model_type", ["blip-2", "instructblip"])
def test_an_encoder_decoder_s_question_stands_in_its_encoder(model_type):
    lens = tiny_lens(model_type, changed(model_type, tiny={"config": T5}))
    with pytest.raises(AttnLensError, match="encoder"):
        lens.read(sample_images()[0]).word_attention(QUESTION, TARGET)


# HiDe's map.


def scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else values * 0


def plain(words: np.ndarray, instruction: np.ndarray, sigma: float) -> np.ndarray:
    """METHODS 3.2, word by word, cell by cell."""
    noise = sum(scaled(gaussian_filter(one, sigma)) for one in instruction) / max(len(instruction), 1)
    found = np.zeros(words.shape[1:])
    for word in words:
        left = scaled(gaussian_filter(word, sigma)) - noise
        for row in range(left.shape[0]):
            for col in range(left.shape[1]):
                left[row, col] = max(0, left[row, col])
        found = np.maximum(found, scaled(left))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 5), st.sampled_from([0.0, 0.7, 3.0]))
def test_decoupled_equals_the_plain_recipe_on_random_maps(seed, words, instruction, sigma):
    random = np.random.default_rng(seed)
    shown, told = (random.exponential(size=(count, 7, 9)) for count in (words, instruction))
    np.testing.assert_allclose(decoupled(shown, told, sigma), plain(shown, told, sigma), atol=1e-6)


def test_what_every_word_looks_at_is_taken_out():
    sink, target = np.zeros((2, 9, 9))
    sink[0, 0], target[6, 3] = 5, 1
    found = decoupled(np.stack([sink + target]), np.stack([sink, sink]), sigma=0)
    assert found[0, 0] == 0
    assert np.unravel_index(found.argmax(), found.shape) == (6, 3)


def test_a_threshold_keeps_what_it_keeps_of_any_word():
    random = np.random.default_rng(3)
    words, instruction = random.exponential(size=(3, 8, 8)), random.exponential(size=(2, 8, 8))
    each = [decoupled(word[None], instruction, 1.0) >= 0.7 for word in words]
    assert ((decoupled(words, instruction, 1.0) >= 0.7) == np.logical_or.reduce(each)).all()


def test_maps_that_are_flat_leave_nothing():
    assert not decoupled(np.ones((2, 4, 4)), np.zeros((0, 4, 4)), 1.0).any()


def lens_of(family: tiny.Family) -> Any:
    model, processor = tiny.build(family)
    return attnlens.load(model=model, processor=processor, adapter=family)


def tokens_of(lens: Any, text: str) -> list[int]:
    return lens.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("layer", [1, "mean"])
def test_the_map_is_made_of_the_target_s_rows_less_those_of_the_first_words(layer):
    lens = lens_of("llava")
    reading = lens.read(tiny.images("landscape", 1))
    question = "what is written on the red sign in this picture?"
    found = maps.word_attention(reading, question, target=TARGET, layer=layer, instruction=6, sigma=1)
    ids = reading._prompt(question).ids[0].tolist()
    start = reading._prompt(question).end_of_images + len(tokens_of(lens, "\n"))  # the template's own
    target = tokens_of(lens, " red sign")
    at = next(i for i in range(start, len(ids)) if ids[i : i + len(target)] == target)
    words, told = list(range(at, at + len(target))), list(range(start, start + 6))
    assert not set(words) & set(told)
    rows = full_rows_of(reading, question)
    rows = (rows.mean(axis=0) if layer == "mean" else rows[layer]).mean(axis=0).reshape(-1, 6, 6)
    expected = plain(rows[words].astype(float), rows[told].astype(float), 1)
    np.testing.assert_allclose(found.values, expected, atol=1e-4)


def full_rows_of(reading: Any, question: str) -> np.ndarray:
    """[layers, heads, tokens, image_tokens] of a LLaVA, by transformers."""
    model, prompt = reading.model, reading._prompt(question)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(**reading._host.inputs(prompt), output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    return np.stack([layer[0][..., list(prompt.positions[0])].numpy() for layer in attentions])


def test_the_target_s_own_tokens_are_no_instruction():
    lens = lens_of("llava")
    reading = lens.read(tiny.images("square", 1))
    question = "the red sign is where?"
    start = reading._prompt(question).end_of_images + len(tokens_of(lens, "\n"))
    words, first = reading.word_attention(question, TARGET).words, range(start, start + 4)
    assert set(words) & set(first)
    rows = full_rows_of(reading, question)[1].mean(axis=0).reshape(-1, 6, 6).astype(float)
    expected = plain(rows[list(words)], rows[[at for at in first if at not in words]], 1)
    found = maps.word_attention(reading, question, target=TARGET, layer=1, instruction=4, sigma=1)
    np.testing.assert_allclose(found.values, expected, atol=1e-4)


def test_a_target_that_the_question_does_not_hold_is_searched_for():
    reading = lens_of("llava").read(tiny.images("square", 1))
    alone = maps.word_attention(reading, "Where?", target=TARGET, layer=1)
    asked = maps.word_attention(reading, maps.SEARCH.format(target=TARGET), target=TARGET, layer=1)
    np.testing.assert_array_equal(alone.values, asked.values)


@pytest.mark.parametrize("question", ["Where?", "Where is the walrus?"])
def test_a_target_that_the_tokenizer_has_no_token_for_is_said(question):
    reading = attnlens.load("pocket/llava").read(tiny.images("square", 1))
    with pytest.raises(AttnLensError, match="no token for 'walrus'"):
        maps.word_attention(reading, question, target="walrus")


def test_without_a_target_the_whole_question_is_searched_for():
    reading = lens_of("llava").read(tiny.images("square", 1))
    found = maps.word_attention(reading, QUESTION, layer=1)
    asked = maps.word_attention(reading, "Where?", target=QUESTION, layer=1)
    np.testing.assert_array_equal(found.values, asked.values)
    assert found.values.max() == 1


def test_no_instruction_subtracts_nothing():
    reading = lens_of("llava").read(tiny.images("square", 1))
    rows = reading.word_attention(QUESTION, TARGET).attention[1].mean(axis=0).reshape(-1, 6, 6).astype(float)
    found = maps.word_attention(reading, QUESTION, target=TARGET, layer=1, instruction=0, sigma=0)
    np.testing.assert_allclose(found.values, plain(rows, rows[:0], 0), atol=1e-5)


def test_behind_a_connector_the_rows_are_carried_to_patches():
    reading = tiny_lens("instructblip", adapters.find("instructblip")).read(sample_images()[0])
    seen = reading.word_attention(QUESTION, TARGET)
    rows = seen.attention[2].mean(axis=0) @ seen.connector_attention[0].mean(axis=0)
    found = maps.word_attention(
        reading, QUESTION, target=TARGET, layer=2, connector_layer=0, instruction=0, sigma=1, image=0
    )
    rows = rows.reshape(-1, *found.grid.shape).astype(float)
    np.testing.assert_allclose(found.values, plain(rows, rows[:0], 1), atol=1e-4)


@pytest.mark.parametrize("model_type", [pytest.param(k, marks=[] if k in SOME else [pytest.mark.slow]) for k in TYPES])
def test_the_map_can_be_made_of_every_type(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    images = sample_images()
    found = maps.word_attention(lens.read(images), QUESTION, target=TARGET, sigma=0.5, image=1)
    assert found.grid.image_size == images[1].size
    assert found.values.min() >= 0
    assert found.values.max() == (1 if found.values.size > 2 else 0)  # of two cells the instruction takes both


def test_a_trained_model_s_words_look_at_the_target():
    lens = attnlens.load("pocket/qwen2_5_vl")
    ratios = []
    for seed in range(8):
        scene = scenes.scene_in_bin(seed, "small", split="validation", task="read")
        target = scene.question.removeprefix("What is written on the ").removesuffix("?")
        found = maps.word_attention(lens.read(scene.image), scene.question, target=target, sigma=1)
        ratios.append(found.attention_ratio(scene.box))
    assert np.median(ratios) > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "   "}, "expected some words"),
        ({"target": QUESTION}, "all the target's"),
        ({"target": TARGET, "instruction": -1}, "instruction is -1"),
        ({"target": TARGET, "sigma": -1.0}, "sigma is -1.0"),
        ({"target": TARGET, "sigma": math.inf}, "sigma is inf"),
        ({"target": TARGET, "layer": 99}, "no layer 99"),
        ({"target": TARGET, "image": 2}, "no image 2"),
        *(({"target": TARGET, "image": image}, "no image") for image in ["0", None, 0.0, True, -1]),
        ({"target": 3}, "expected some words"),
        ({"target": ["a"]}, "expected some words"),
        ({"target": TARGET, "instruction": True}, "instruction is True"),
        ({"target": TARGET, "sinks": "drop"}, "expected 'keep'"),
    ],
)
def test_what_cannot_be_used_is_said(options, message):
    reading = tiny_lens("llava", adapters.find("llava")).read(sample_images()[0])
    with pytest.raises(AttnLensError, match=message):
        maps.word_attention(reading, QUESTION, **options)
