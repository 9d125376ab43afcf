"""Claims about the entropy gradient: it equals autograd through one plain eager forward, and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attnlens
from attnlens import adapters, maps
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.conformance._types import question_answerers
from attnlens.errors import AttnLensError
from attnlens.lens._model.broken import broken
from tests import tiny

QUESTION = "What is written on the red sign?"
CROSSING = {"mllama": "cross_attention_states", "idefics": "key_value_states"}  # whose image passes through no layer
CONNECTED = {"aria", "blip-2", "idefics2", "instructblip", "instructblipvideo", "kosmos-2"}  # tokens without a place
BESIDE = {"gemma4", "inkling2", "inkling2_loop"}  # whose embeddings reach later layers beside the first one too
TYPES = [*(kind for kind in question_answerers() if not broken(kind)), "florence2"]
SOME = {"llava", "qwen2_vl", "gemma3", "idefics3", "paligemma", "mistral3", "qwen3_5", "unlimited_ocr", "florence2"}
SOME |= {"llava_next", "chameleon", "mllama", "instructblip", "qwen3_vl", "gemma3n"}


def reference(model: Any, inputs: dict[str, Any], tokens: tuple[int, ...]) -> np.ndarray:
    """|dH / d(first hidden state)|, with every parameter in the graph, from what transformers gives back."""
    model.requires_grad_(True)
    kind = model.config.model_type
    offset: list[torch.Tensor] = []

    def add(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        offset.append(torch.zeros_like(args[0], requires_grad=True))
        return (args[0] + offset[0], *args[1:])

    def look(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        offset[:] = [kwargs[CROSSING[kind]]]  # a tensor of the graph, the same at every layer

    with torch.enable_grad():
        if kind in BESIDE:
            model.model.language_model.layers[0].register_forward_pre_hook(add)
        if kind in CROSSING:
            for name, module in model.named_modules():
                if name.endswith(".cross_attn"):
                    module.register_forward_pre_hook(look, with_kwargs=True)
        out = model(**inputs, output_hidden_states=True, use_cache=False)
        inner = getattr(out, "language_model_outputs", None) or out
        states = getattr(inner, "encoder_hidden_states", None) or inner.hidden_states
        p = torch.softmax(out.logits[0, -1].double(), dim=-1)
        p = p[p > 0]
        (gradient,) = torch.autograd.grad(-(p * p.log()).sum(), offset or [states[0]])
    if kind in CROSSING:  # [tiles, patches, width]
        rows = gradient.reshape(-1, gradient.shape[-1])
        return rows.double().norm(dim=-1).numpy()
    if gradient.shape[1] == inputs["input_ids"].shape[1]:  # [1, tokens, width], or [1, tokens, streams, width]
        rows = gradient[0]
    else:  # [streams, 1, tokens, width]
        rows = gradient[:, 0].transpose(0, 1)
    return np.array([float(rows[token].double().square().sum().sqrt()) for token in tokens])


@pytest.mark.parametrize(
    "model_type", [pytest.param(kind, marks=[] if kind in SOME else [pytest.mark.slow]) for kind in TYPES]
)
def test_it_equals_autograd_through_one_plain_forward_of(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    reading = lens.read(sample_images()[0])
    (found,) = reading.embedding_gradient(QUESTION)
    prompt = reading._prompt(QUESTION)
    expected = reference(lens.model, reading._host.inputs(prompt), prompt.positions[0])
    assert found.dtype == np.float32
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
    if model_type in CONNECTED:
        with pytest.raises(AttnLensError, match="have no place"):
            maps.entropy_gradient(reading, QUESTION)
        return
    made = maps.entropy_gradient(reading, QUESTION)
    assert np.array_equal(made.values, reading.layouts[0].on_grid(found))
    assert made.values.std() > 0


def test_it_equals_finite_differences():
    """The entropy when one channel of one image token's embedding is moved, channel after channel."""
    model, processor = tiny.build("llava")
    lens = attnlens.load(model=model.double(), processor=processor)
    reading = lens.read(tiny.images("landscape", 1)[0])
    (found,) = reading.embedding_gradient(QUESTION)
    inputs = reading._host.inputs(reading._prompt(QUESTION))
    token, step = 13, 3e-2  # layers norm in float32, whose rounding a smaller step would show
    moved = {"channel": 0, "by": 0.0}

    def move(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out.view(-1, out.shape[-1])[token, moved["channel"]] += moved["by"]
        return out

    def entropy() -> float:
        with torch.no_grad():
            p = torch.softmax(model(**inputs).logits[0, -1], dim=-1)
        return float(-(p * p.log()).sum())

    handle = model.model.multi_modal_projector.register_forward_hook(move)
    slopes = []
    for channel in range(model.config.text_config.hidden_size):
        ends = []
        for by in (-step, step):
            moved.update(channel=channel, by=by)
            ends.append(entropy())
        slopes.append((ends[1] - ends[0]) / (2 * step))
    handle.remove()
    assert found[token] == pytest.approx(np.linalg.norm(slopes), rel=2e-3)


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "gemma3", "idefics3", "qwen3_5", "paligemma"])
def test_no_attention_matrix_is_asked_for(model_type, no_eager_attention):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    no_eager_attention(lens.model)
    assert maps.entropy_gradient(lens.read(sample_images()[0]), QUESTION).values.std() > 0


def test_it_costs_one_forward_and_one_backward():
    lens = tiny_lens("llava", adapters.find("llava"))
    reading = lens.read(sample_images()[0])
    before = lens.meter.now()
    maps.entropy_gradient(reading, QUESTION)
    cost = lens.meter.now() - before
    assert (cost.prefills, cost.forwards, cost.backwards) == (1, 1, 1)
    assert cost.image_tokens == reading.layouts[0].tokens


def test_the_map_of_the_second_image_is_that_of_its_tokens():
    lens = tiny_lens("qwen2_vl", adapters.find("qwen2_5_vl"))
    images = sample_images()
    reading = lens.read(images)
    first, second = reading.embedding_gradient(QUESTION)
    prompt = reading._prompt(QUESTION)
    expected = reference(lens.model, reading._host.inputs(prompt), prompt.positions[1])
    np.testing.assert_allclose(second, expected, atol=1e-4 * expected.max())
    made = maps.entropy_gradient(reading, QUESTION, image=1)
    assert made.grid.image_size == images[1].size
    assert np.array_equal(made.values.ravel(), second)
    assert first.size == made.values.size or first.sum() != second.sum()


def test_an_answer_is_what_it_was_before():
    lens = tiny_lens("llava", adapters.find("llava"))
    image = sample_images()[0]
    plain = lens.read(image).answer(QUESTION, max_new_tokens=5)
    reading = lens.read(image)
    maps.entropy_gradient(reading, QUESTION)
    assert reading.answer(QUESTION, max_new_tokens=5).tokens == plain.tokens


def test_an_image_that_was_not_read_is_named():
    lens = tiny_lens("llava", adapters.find("llava"))
    for image in (1, -1):
        with pytest.raises(AttnLensError, match=f"no image {image}: the reading holds 1"):
            maps.entropy_gradient(lens.read(sample_images()[0]), QUESTION, image=image)
