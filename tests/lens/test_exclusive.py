"""A look changes nothing: not what it shows, whatever the model's mode, nor the model, whoever looks beside it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import attnlens
from attnlens.errors import AttnLensError
from attnlens.lens._model.exclusive import exclusive
from attnlens.maps import relative_attention
from tests import tiny
from tests.lens import reference

QUESTION = "what is written on the red sign?"
IMAGE = tiny.images("landscape", 1)


class Dropped(nn.Module):
    """A linear layer with dropout before it, as under LoRA."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear, self.dropout = linear, nn.Dropout(0.5)

    def forward(self, states: torch.Tensor) -> Any:
        return self.linear(self.dropout(states))


def with_dropout(family: tiny.Family) -> tuple[Any, Any]:
    model, processor = tiny.build(family)
    for module in list(model.modules()):
        if hasattr(module, "q_proj") and hasattr(module, "o_proj"):
            module.q_proj, module.attention_dropout = Dropped(module.q_proj), 0.5
    return model, processor


def looks(lens: attnlens.Lens) -> dict[str, Any]:
    """Everything that a reading can be asked for, as arrays."""
    reading = lens.read(IMAGE[0])
    trace = reading.trace(QUESTION, gradients=True)
    return {
        "attention": trace.attention,
        "gradients": trace.attention_gradient,
        "words": reading.word_attention(QUESTION, "red sign").attention,
        "tokens": np.array(reading.answer(QUESTION, 5).tokens),
        "next": reading.next_token(QUESTION),
        "entropy": reading.embedding_gradient(QUESTION)[0],
        "pixels": reading.pixel_gradient(QUESTION)[0],
        "zoomed": reading.zoom((10, 10, 60, 60)).next_token(QUESTION),
        "together": lens.next_tokens(IMAGE, QUESTION),
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_in_training_mode_shows_what_it_shows_in_evaluation_and_stays_in_training(family: tiny.Family) -> None:
    model, processor = with_dropout(family)
    expected = looks(attnlens.load(model=model.eval(), processor=processor))
    model.train()
    parts = list(model.modules())
    parts[3].eval()  # a user's own mixture
    before = [part.training for part in parts]
    assert_same(looks(attnlens.load(model=model, processor=processor)), expected)
    assert [part.training for part in parts] == before


def test_dropout_would_change_what_is_seen() -> None:
    """The test above sees it: without evaluation mode, two maps differ."""
    model, processor = with_dropout("llava")
    inputs = reference.prompt("llava", processor, IMAGE, QUESTION)
    model.train()
    first, second = (model(**inputs).logits for _ in range(2))
    assert float((first - second).detach().abs().max()) > 0.1


def test_gradient_checkpointing_changes_nothing() -> None:
    model, processor = tiny.build("llava")
    expected = looks(attnlens.load(model=model, processor=processor))
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()  # since 5.24, and before
    assert_same(looks(attnlens.load(model=model.train(), processor=processor)), expected)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_under_inference_mode_everything_is_as_outside(family: tiny.Family) -> None:
    lens = attnlens.load(**dict(zip(("model", "processor"), tiny.build(family), strict=True)))
    expected = looks(lens)
    with torch.inference_mode():
        found = looks(lens)
        reading = lens.read(IMAGE[0])
        reading.answer(QUESTION)
    assert_same(found, expected)
    np.testing.assert_allclose(reading.trace(QUESTION, gradients=True).attention_gradient, expected["gradients"], 1e-4)


def test_a_model_made_under_inference_mode_shows_its_rows_and_says_that_it_has_no_gradients() -> None:
    with torch.inference_mode():
        model, processor = tiny.build("llava")
    reading = attnlens.load(model=model, processor=processor).read(IMAGE[0])
    expected = reference.reference("llava", IMAGE, QUESTION).attention
    np.testing.assert_allclose(reading.trace(QUESTION).attention, expected, atol=1e-5)
    with pytest.raises(AttnLensError, match=r"No gradient passes .* torch.inference_mode"):
        reading.trace(QUESTION, gradients=True)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:.*quantized")
def test_torchs_quantised_layers_give_rows_and_no_gradients() -> None:
    model, processor = tiny.build("llava")
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    reading = attnlens.load(model=model, processor=processor).read(IMAGE[0])
    assert np.isfinite(reading.trace(QUESTION).attention).all()
    for ask in (lambda: reading.trace(QUESTION, gradients=True), lambda: reading.embedding_gradient(QUESTION)):
        with pytest.raises(AttnLensError, match=r"No gradient passes .*quantized"):
            ask()


def test_a_compiled_model_is_looked_into_as_it_is_written() -> None:
    model, processor = tiny.build("llava")
    expected = looks(attnlens.load(model=model, processor=processor))
    runs = []
    model.model.language_model.compile(backend=lambda graph, _: runs.append(graph) or graph.forward)
    compiled = model.model.language_model._compiled_call_impl
    assert_same(looks(attnlens.load(model=model, processor=processor)), expected)
    assert not runs
    assert model.model.language_model._compiled_call_impl is compiled


def attentions(model: Any) -> list[Any]:
    """The attention implementations of all its parts, and whether anything else of ours is left in them."""
    parts = [part.config._attn_implementation for part in model.modules() if hasattr(part, "config")]
    return [*parts, *(parameter.requires_grad for parameter in model.parameters()), model.training]


ASKS: list[Callable[[Any], Any]] = [
    lambda reading: reading.trace(QUESTION, gradients=True).attention_gradient,
    lambda reading: relative_attention(reading, QUESTION).values,
    lambda reading: reading.word_attention(QUESTION, "red sign").attention,
    lambda reading: np.array(reading.answer(QUESTION, 4).tokens),
    lambda reading: reading.zoom((5, 5, 50, 50)).next_token(QUESTION),
]


@pytest.mark.parametrize("lenses", ["one lens", "two lenses on one model", "two models"])
def test_threads_see_what_one_sees_and_leave_the_models_as_they_were(lenses: str) -> None:
    models = [tiny.build("llava") for _ in range(2 if lenses == "two models" else 1)]
    made = [attnlens.load(model=model, processor=processor) for model, processor in models]
    if lenses == "two lenses on one model":
        made.append(attnlens.load(model=models[0][0], processor=copy.deepcopy(models[0][1])))
    expected = [ask(made[0].read(IMAGE[0])) for ask in ASKS]
    before = [attentions(model) for model, _ in models]
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(5):
            which = (number + turn) % len(ASKS)
            try:
                found = ASKS[which](made[number % len(made)].read(IMAGE[0]))
                np.testing.assert_allclose(found, expected[which], rtol=1e-4, atol=1e-6)
            except Exception as error:  # noqa: BLE001 - all are told of below
                wrong.append(f"{which}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [attentions(model) for model, _ in models] == before


def test_one_reading_answers_several_threads() -> None:
    model, processor = tiny.build("llava")
    reading = attnlens.load(model=model, processor=processor).read(IMAGE[0])
    questions = [f"is there a {colour} circle?" for colour in ("red", "blue", "green", "white")]
    expected = {one: reading.trace(one).attention for one in questions}
    found: dict[str, Any] = {}
    shared = attnlens.load(model=model, processor=processor).read(IMAGE[0])
    threads = [
        threading.Thread(target=lambda one=one: found.update({one: shared.trace(one).attention})) for one in questions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(found, expected)


def test_what_each_thread_does_is_counted_for_itself() -> None:
    model, processor = tiny.build("llava")
    lens = attnlens.load(model=model, processor=processor)
    costs: list[Any] = []

    def work() -> None:
        with lens.meter.measure() as stretch:
            lens.read(IMAGE[0]).trace(QUESTION)
        costs.append(stretch.cost)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(cost.prefills, cost.forwards) for cost in costs] == [(1, 2)] * 4


def test_a_look_that_fails_leaves_the_model_as_it_was() -> None:
    model, processor = tiny.build("llava")
    lens = attnlens.load(model=model.train(), processor=processor)
    reading, before = lens.read(IMAGE[0]), attentions(model)
    handle = model.lm_head.register_forward_hook(lambda *_: (_ for _ in ()).throw(MemoryError("full")))
    for ask in ASKS:
        with pytest.raises(MemoryError, match="full"):
            ask(reading)
    handle.remove()
    assert attentions(model) == before
    assert np.isfinite(reading.trace(QUESTION).attention).all()


def test_a_lock_does_not_keep_its_model_alive() -> None:
    import gc
    import weakref

    model = nn.Linear(1, 1)
    with exclusive(model):
        pass
    there = weakref.ref(model)
    del model
    gc.collect()
    assert there() is None
