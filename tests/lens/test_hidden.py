"""Claims about sinks and entropy on plain numbers, and about what a look at hidden states leaves behind."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlens
from attnlens import adapters
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.errors import AttnLensError
from attnlens.lens._capture import hidden_states
from tests import tiny

QUESTION = "what is written on the red sign?"


def plain_sinks(states: list[list[float]], tau: float) -> list[bool]:
    """The definition, number by number."""
    sizes = []
    for state in states:
        root = math.sqrt(sum(x * x for x in state) / len(state) + 1e-6)
        sizes.append([abs(x) / root for x in state])
    massive = [d for d in range(len(states[0])) if sizes[0][d] > tau]
    return [bool(massive) and max(size[d] for d in massive) > tau for size in sizes]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.floats(1.2, 4), st.floats(0, 1))
def test_sinks_are_as_defined_on_random_states(seed, tau, share):
    random = torch.Generator().manual_seed(seed)
    states = torch.randn(12, 24, generator=random)
    states[torch.rand(12, generator=random) < share, 5] *= 30
    states[torch.rand(12, generator=random) < share / 2, 17] *= -30
    assert hidden_states.are_sinks(states, tau).tolist() == plain_sinks(states.tolist(), tau)


def test_only_the_dimensions_of_the_first_token_count():
    states = torch.ones(4, 500)
    states[0, 7] = states[1, 7] = -3e3
    states[2, 8] = 3e3  # as massive, elsewhere
    assert hidden_states.are_sinks(states).tolist() == [True, True, False, False]
    states[0] = 1
    assert not hidden_states.are_sinks(states).any()


def test_a_narrow_model_has_no_sinks_at_the_paper_s_threshold():
    states = torch.zeros(2, 399)
    states[:, 0] = 1e6
    assert not hidden_states.are_sinks(states).any()
    assert hidden_states.are_sinks(torch.cat([states, torch.zeros(2, 2)], dim=1)).all()


def test_a_token_that_cannot_come_leaves_the_entropy_and_its_gradient_as_they_are():
    logits = torch.randn(20, generator=torch.Generator().manual_seed(0))
    barred = torch.cat([logits, torch.full((3,), -math.inf), torch.full((3,), torch.finfo(torch.float32).min)])
    found = []
    for one in (logits, barred):
        leaf = one.clone().requires_grad_()
        entropy = hidden_states._entropy(leaf)
        found.append((float(entropy.detach()), torch.autograd.grad(entropy, leaf)[0]))
    p = [math.exp(x) for x in logits.tolist()]
    assert found[0][0] == pytest.approx(-sum(x / sum(p) * math.log(x / sum(p)) for x in p), rel=1e-5)
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    torch.testing.assert_close(found[1][1][:20], found[0][1])
    assert (found[1][1][20:] == 0).all()


@pytest.mark.parametrize("look", ["embedding_gradient", "sinks"])
def test_nothing_of_the_model_is_changed(look):
    model, processor = tiny.build("llava")

    def hooks():
        return [(len(part._forward_pre_hooks), len(part._forward_hooks)) for part in model.modules()]

    parameters = list(model.parameters())
    for parameter in parameters[::2]:
        parameter.requires_grad_(False)
    reading = attnlens.load(model=model, processor=processor).read(tiny.images("square", 1)[0])
    reading.answer(QUESTION, max_new_tokens=1)  # transformers hooks its own recorders on at the first pass
    before, hooked = [parameter.requires_grad for parameter in parameters], hooks()
    getattr(reading, look)(QUESTION)
    assert [parameter.requires_grad for parameter in parameters] == before
    assert all(parameter.grad is None for parameter in parameters)
    assert hooks() == hooked


def test_hooks_are_taken_off_when_the_pass_fails():
    model, processor = tiny.build("llava")
    reading = attnlens.load(model=model, processor=processor).read(tiny.images("square", 1)[0])

    def fails(*_):
        raise ZeroDivisionError("planted")

    handle = model.model.language_model.layers[1].register_forward_hook(fails)
    with pytest.raises(ZeroDivisionError, match="planted"):
        reading.embedding_gradient(QUESTION)
    handle.remove()
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("trained", [True, False])
def test_the_vision_tower_runs_without_a_graph(trained):
    model, processor = tiny.build("llava")
    model.requires_grad_(trained)
    reading = attnlens.load(model=model, processor=processor).read(tiny.images("square", 1)[0])
    graphs = []
    for part in (model.model.vision_tower, model.model.multi_modal_projector, model.model.language_model.layers[0]):
        part.register_forward_hook(lambda _, __, out: graphs.append(_tensor(out).requires_grad))
    reading.embedding_gradient(QUESTION)
    assert graphs == [False, False, True]


def _tensor(out):
    out = getattr(out, "last_hidden_state", out)
    return out[0] if isinstance(out, tuple) else out


def test_an_attention_module_outside_any_list_of_layers_is_refused():
    lens = tiny_lens("llava", adapters.find("llava"))
    with pytest.raises(AttnLensError, match="No list of layers lies on the path 'model.vision_tower'"):
        hidden_states._layer_of(lens.model, "model.vision_tower")


def test_states_in_which_no_axis_is_the_prompt_s_are_refused():
    with pytest.raises(AttnLensError, match=r"shape \(1, 7, 16\), and the prompt has 9 tokens"):
        hidden_states._by_token(torch.zeros(1, 7, 16), 9)


@pytest.mark.parametrize("model_type", ["mllama", "idefics"])
def test_an_image_that_passes_through_no_layer_has_no_sinks_to_tell(model_type):
    reading = tiny_lens(model_type, adapters.for_model_type(model_type)).read(sample_images()[0])
    with pytest.raises(AttnLensError, match="Use sinks='keep'"):
        reading.sinks(QUESTION)
