"""Claims about sinks, planted in tiny models that are wide enough to have some, against plain code.

The reference is one plain eager forward of another copy of the same model with the same plants, from which it reads
`output_hidden_states` and `output_attentions`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlens
from attnlens import Grid, adapters, maps
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.conformance._types import question_answerers
from attnlens.errors import AttnLensError
from attnlens.lens._layouts import Layout, View
from attnlens.lens._model.broken import broken
from attnlens.maps._rollout import left_on_grid, masked
from tests import tiny
from tests.lens.reference import prompt

QUESTION = "what is written on the red sign?"
OTHER = "Is there a blue circle in this picture?"
DIMENSION, ELSEWHERE = 7, 11
SINK, LATER, DECOY = 5, 20, 30
"""Image tokens: a sink at every layer, one from layer 2 on, and one that is massive where the first token is not."""

CROSSING = {"mllama", "idefics"}  # whose image tokens have no state
TYPES = [kind for kind in question_answerers() if kind not in CROSSING and not broken(kind)]
LAST_RUNS = {"inkling2_loop": (0, 1, 6, 7)}  # layers 1 and 2 run three times, each time from the same state on
DEEPSTACK = {"cohere_compass", "cosmos3_omni", "granite4_vision", "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe"}
"""Where visual features are added between layers, transformers records states without them."""
SOME = {"llava", "gemma3", "vipllava", "paligemma", "internvl", "mistral_large4", "lfm2_vl", "instructblip", "gemma3n"}


def planted() -> tuple[Any, Any]:
    """A LLaVA of width 512 whose first token and some image tokens carry massive dimensions."""
    model, processor = tiny.build("llava", heads=32)
    text, first = model.model.language_model, processor.tokenizer.bos_token_id

    def words(_: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[args[0] == first, DIMENSION] += 3e3
        return out

    def features(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        tokens = out.view(-1, out.shape[-1])
        tokens[SINK, DIMENSION] -= 3e3
        tokens[DECOY, ELSEWHERE] += 3e3
        return out

    def second_layer(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        if out.shape[1] > 36:  # no tail on a cache
            out[:, 4 + LATER, DIMENSION] += 3e3  # the first image token is number 4 of the prompt
        return out

    text.embed_tokens.register_forward_hook(words)
    model.model.multi_modal_projector.register_forward_hook(features)
    text.layers[1].mlp.register_forward_hook(second_layer)
    return model, processor


def planted_queries() -> tuple[Any, Any]:
    """An InstructBLIP whose first query, which is the prompt's first token, and the fourth are massive."""
    model, processor = tiny.build("instructblip", heads=32)

    def features(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, [0, 3], DIMENSION] += 3e3
        return out

    model.language_projection.register_forward_hook(features)
    return model, processor


def reading_of(made: tuple[Any, Any], count: int = 1) -> Any:
    model, processor = made
    return attnlens.load(model=model, processor=processor).read(tiny.images("landscape", count))


def forward(made: tuple[Any, Any], question: str, count: int = 1) -> dict[str, Any]:
    """States, and rows of attention with their gradients, at the image tokens, from one plain eager forward."""
    model, processor = made
    family = "instructblip" if hasattr(model, "qformer") else "llava"
    model.set_attn_implementation("eager")
    inputs = prompt(family, processor, tiny.images("landscape", count), question)
    crossing: list[torch.Tensor] = []
    for name, module in model.named_modules():
        if name.endswith("crossattention.attention"):
            module.register_forward_hook(lambda _, __, out: crossing.append(out[1]))
    out = model(**inputs, output_attentions=True, output_hidden_states=True)
    inner = getattr(out, "language_model_outputs", out)
    gradients = torch.autograd.grad(out.logits[0, -1].log_softmax(-1).max(), list(inner.attentions))
    seen = inputs["input_ids"][0] == model.config.image_token_id
    return {
        "states": [state[0].detach().numpy() for state in inner.hidden_states[: len(inner.attentions)]],
        "seen": seen.nonzero().flatten().tolist(),
        "rows": np.stack([a[0, :, -1, seen].detach().numpy() for a in inner.attentions]),
        "gradients": np.stack([g[0, :, -1, seen].numpy() for g in gradients]),
        "patches": [c[0, :, :, 1:].mean(dim=0).detach().numpy() for c in crossing],
    }


def plain_sinks(full: dict[str, Any], tau: float = 20) -> np.ndarray:
    """The definition, number by number: [layers, image_tokens]."""
    rows = []
    for states in full["states"]:
        roots = [math.sqrt(sum(x * x for x in state) / len(state)) for state in states.tolist()]
        sizes = [[abs(x) / root for x in state] for state, root in zip(states.tolist(), roots, strict=True)]
        massive = [d for d, size in enumerate(sizes[0]) if size > tau]
        rows.append([any(sizes[token][d] > tau for d in massive) for token in full["seen"]])
    return np.array(rows)


def plain_masked(row: np.ndarray, sinks: np.ndarray) -> np.ndarray:
    least = min(value for value, sink in zip(row, sinks, strict=True) if not sink)
    return np.array([least if sink else value for value, sink in zip(row, sinks, strict=True)])


def close(found: attnlens.ImportanceMap, expected: np.ndarray) -> bool:
    return float(np.abs(found.values.ravel() - expected.ravel()).max()) <= 1e-4 * float(np.abs(expected).max())


def test_sinks_are_those_of_the_hidden_states_of_one_full_forward():
    found = reading_of(planted()).sinks(QUESTION)
    assert found.dtype == bool
    assert found.tolist() == plain_sinks(forward(planted(), QUESTION)).tolist()
    assert [np.flatnonzero(layer).tolist() for layer in found] == [[SINK], [SINK], [SINK, LATER]]


@pytest.mark.parametrize("tau", [1.5, 3])
@pytest.mark.parametrize(
    "model_type", [pytest.param(kind, marks=[] if kind in SOME else [pytest.mark.slow]) for kind in TYPES]
)
def test_sinks_are_those_of_the_hidden_states_of(model_type, tau):
    """Random models have no massive dimensions: a low threshold stands in for them."""
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    reading = lens.read(sample_images()[0])
    seen = reading._prompt(QUESTION)
    with torch.no_grad():
        out = lens.model(**reading._host.inputs(seen), output_hidden_states=True, use_cache=False)
    recorded = (getattr(out, "language_model_outputs", None) or out).hidden_states
    expected = []
    for layer in lens._host.structure.layers[: 1 if model_type in DEEPSTACK else None]:
        states = recorded[LAST_RUNS.get(model_type, range(len(recorded)))[layer]].double()
        if states.shape[1] != seen.length:  # streams come first
            states = states.transpose(0, 2)
        states = states.reshape(seen.length, -1)
        sizes = (states.abs() / (states.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()).numpy()
        massive = np.flatnonzero(sizes[0] > tau)
        expected.append([any(sizes[token, d] > tau for d in massive) for token in seen.positions[0]])
    assert reading.sinks(QUESTION, tau=tau)[: len(expected)].tolist() == expected


def test_sinks_of_two_images_stand_as_their_tokens_in_a_trace():
    reading = reading_of(planted(), count=2)
    found, trace = reading.sinks(QUESTION), reading.trace(QUESTION)
    assert found.tolist() == plain_sinks(forward(planted(), QUESTION, count=2)).tolist()
    assert found.shape == (len(trace.layers), trace.attention.shape[2])
    assert found[:, trace.spans[0]].any()
    assert not found[:, trace.spans[1]].any()


def test_another_threshold_finds_others():
    reading = reading_of(planted())
    full = forward(planted(), QUESTION)
    for tau in (1.5, 22.7):
        assert reading.sinks(QUESTION, tau=tau).tolist() == plain_sinks(full, tau).tolist()
    assert reading.sinks(QUESTION, tau=1.5).sum() > reading.sinks(QUESTION).sum()
    assert not reading.sinks(QUESTION, tau=22.7).any()


def test_images_before_every_question_are_looked_at_once():
    reading = reading_of(planted())
    meter = reading.meter
    before = meter.now()
    first = reading.sinks(QUESTION)
    assert ((meter.now() - before).forwards, (meter.now() - before).prefills) == (1, 1)
    assert reading.sinks(OTHER) is first
    assert (meter.now() - before).forwards == 1


def test_image_tokens_that_read_the_question_are_looked_at_for_each():
    reading = reading_of(planted_queries())
    meter = reading.meter
    before = meter.now()
    for question in (QUESTION, OTHER, QUESTION):
        assert reading.sinks(question).tolist() == plain_sinks(forward(planted_queries(), question)).tolist()
    assert (meter.now() - before).forwards == 2


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_ratio_gives_sinks_the_least_of_the_other_ratios(layer, variant):
    suffix = " Answer the question using a single word or phrase." if variant == "released" else ""
    asked, generic = forward(planted(), QUESTION), forward(planted(), maps.GENERIC_QUESTION + suffix)
    ratio = asked["rows"][layer].mean(axis=0) / generic["rows"][layer].mean(axis=0)
    expected = plain_masked(ratio, plain_sinks(asked)[layer])
    reading = reading_of(planted())
    assert close(maps.relative_attention(reading, QUESTION, layer, sinks="mask", variant=variant), expected)
    kept = maps.relative_attention(reading, QUESTION, layer, variant=variant)
    assert close(kept, ratio)
    assert not close(kept, expected)


def test_the_mean_of_all_layers_masks_each_by_its_own_sinks():
    asked, generic = forward(planted(), QUESTION), forward(planted(), maps.GENERIC_QUESTION)
    sinks = plain_sinks(asked)
    means = []
    for full in (asked, generic):
        layers = [plain_masked(rows.mean(axis=0), own) for rows, own in zip(full["rows"], sinks, strict=True)]
        means.append(sum(layers) / len(layers))
    expected = plain_masked(means[0] / means[1], np.arange(36) == SINK)  # of the other, one layer is masked
    assert close(maps.relative_attention(reading_of(planted()), QUESTION, "mean", sinks="mask"), expected)


@pytest.mark.parametrize("layer", [1, 2, "mean"])
def test_gradient_attention_masks_each_layer_s_head_mean_of_the_product(layer):
    full = forward(planted(), QUESTION)
    products = (full["rows"] * np.maximum(full["gradients"], 0)).mean(axis=1)
    layers = [plain_masked(row, own) for row, own in zip(products, plain_sinks(full), strict=True)]
    expected = sum(layers) / len(layers) if layer == "mean" else layers[layer]
    found = maps.gradient_attention(reading_of(planted()), QUESTION, layer, sinks="mask")
    assert expected.max() > 0
    assert close(found, expected)


def test_behind_a_connector_queries_are_masked_before_they_are_carried_to_patches():
    asked, generic = (forward(planted_queries(), question) for question in (QUESTION, maps.GENERIC_QUESTION))
    sinks = plain_sinks(asked)[1]
    assert sinks.tolist() == [True, False, False, True, False, False, False, False]
    carried = [plain_masked(full["rows"][1].mean(axis=0), sinks) @ full["patches"][0] for full in (asked, generic)]
    options = {"layer": 1, "connector_layer": 0}
    found = maps.relative_attention(reading_of(planted_queries()), QUESTION, **options, sinks="mask")
    assert close(found, carried[0] / carried[1])
    assert not close(maps.relative_attention(reading_of(planted_queries()), QUESTION, **options), found.values)


@pytest.mark.parametrize("make", [maps.relative_attention, maps.gradient_attention])
def test_kept_sinks_cost_no_pass(make):
    reading = reading_of(planted())
    plain = make(reading, QUESTION)
    before = reading.meter.now()
    assert np.array_equal(make(reading, QUESTION, sinks="keep").values, plain.values)
    assert (reading.meter.now() - before).forwards == 0
    make(reading, QUESTION, sinks="mask")
    assert (reading.meter.now() - before).forwards == 1


@pytest.mark.parametrize("make", [maps.relative_attention, maps.gradient_attention])
def test_a_model_without_sinks_gives_the_same_map(make):
    reading = reading_of(tiny.build("llava", heads=32))
    assert not reading.sinks(QUESTION).any()
    assert np.array_equal(make(reading, QUESTION, sinks="mask").values, make(reading, QUESTION).values)


def test_what_sinks_may_be_is_named():
    with pytest.raises(AttnLensError, match="sinks is 'drop'; expected 'keep' or 'mask'"):
        maps.gradient_attention(reading_of(tiny.build("llava")), QUESTION, sinks="drop")


def test_nothing_is_marked_where_sinks_are_kept():
    marks = reading_of(tiny.build("llava")).image_trace(QUESTION, layer="mean").sinks
    assert marks.shape == (3, 36)
    assert not marks.any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.booleans())
def test_masked_values_are_the_least_of_the_others_of_their_row(seed, tokens, heads):
    random = np.random.default_rng(seed)
    values = random.normal(size=(3, 4, tokens)).astype(np.float32)
    marks = random.random((3, tokens)) < 0.4
    marks[:, random.integers(tokens)] = False
    values = values if heads else values[:, :1]
    before = values.copy()
    found = masked(values, marks)
    for layer in range(3):
        for head in range(values.shape[1]):
            assert np.array_equal(found[layer, head], plain_masked(values[layer, head], marks[layer]))
    assert found.dtype == np.float32
    assert np.array_equal(values, before)


def test_a_row_of_nothing_but_sinks_is_refused():
    values = np.ones((2, 3), np.float32)
    with pytest.raises(AttnLensError, match="Every image token is a sink"):
        masked(values, np.array([[True, True, True], [True, False, False]]))


def test_a_cell_that_another_view_still_shows_keeps_its_ratio():
    tiles, thumbnail = View(Grid.regular(2, 2, (100, 100))), View(Grid.regular(1, 2, (100, 100)))
    values = np.array([[4.0, 1.0], [3.0, 2.0]], np.float32)
    only_left = np.array([True, False, False, False, True, False])
    assert left_on_grid(values, only_left[None], Layout.of(tiles, thumbnail)).tolist() == [[1, 1], [3, 2]]
    shown = np.array([True, False, False, False, False, False])
    assert left_on_grid(values, shown[None], Layout.of(tiles, thumbnail)).tolist() == values.tolist()
