"""Traces and results as plain data; a lens and a reading as what they are, a model and its memory."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attnlens
from attnlens import AttnLensError, adapters
from attnlens.conformance._report import tiny_lens
from attnlens.lens._reading import Reading
from tests import tiny

QUESTION = "what is written on the red sign?"
GRIDS = ["llava", "llava_next", "got_ocr2", "gemma4", "molmo2", "qwen2_vl", "aria", "instructblip", "mllama"]
"""Model types with views, pixels and keys of different kinds."""


def reading_of(model_type: str) -> Reading:
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    return lens.read([*tiny.images("landscape", 1), *tiny.images("portrait", 1)])


@pytest.fixture(scope="module")
def lens() -> Any:
    return attnlens.load("pocket/llava")


@pytest.mark.parametrize("model_type", GRIDS)
def test_a_trace_comes_back_from_file_pickle_and_copy_as_it_was(model_type: str, tmp_path: Path) -> None:
    reading = reading_of(model_type)
    trace = reading.trace(QUESTION, gradients=True)
    path = trace.save(tmp_path / "trace.safetensors")
    for back in (type(trace).load(path), pickle.loads(pickle.dumps(trace)), copy.deepcopy(trace)):
        for name in ("attention", "attention_gradient", "connector_attention", "connector_gradient", "input_ids"):
            np.testing.assert_array_equal(getattr(back, name), getattr(trace, name))
        for name in ("layers", "spans", "grids", "top_token", "log_prob"):
            assert getattr(back, name) == getattr(trace, name)
        for one, other in zip(back.layouts, reading.layouts, strict=True):
            weights = np.random.default_rng(0).random(len(one.cells), dtype=np.float32)
            shown = other.with_cells if trace.connector_attention is not None else other
            np.testing.assert_array_equal(one.on_grid(weights), shown.on_grid(weights))
        assert (back, hash(back)) == (trace, hash(trace))
    assert pickle.loads(pickle.dumps(reading.layouts)) == reading.layouts


def test_traces_differ_where_one_number_does(lens: Any) -> None:
    trace = lens.read(tiny.images("landscape", 1)).trace(QUESTION)
    attention = trace.attention.copy()
    attention[-1, -1, -1] += 1e-6
    assert replace(trace, attention=attention) != trace
    assert replace(trace, log_prob=0.0) != trace
    assert replace(trace, log_prob=float("nan")) == replace(trace, log_prob=float("nan"))
    assert replace(trace, spans=tuple(trace.spans)) == trace


@pytest.mark.parametrize("name", ["attention", "layers", "spans", "layouts"])
def test_a_trace_whose_parts_do_not_go_together_is_refused(lens: Any, name: str) -> None:
    trace = lens.read(tiny.images("landscape", 1)).trace(QUESTION)
    with pytest.raises(AttnLensError, match="does not go with"):
        replace(trace, **{name: getattr(trace, name)[:-1]})


def test_other_results_come_back_from_file_pickle_and_copy_as_they_were(lens: Any, tmp_path: Path) -> None:
    (image,) = tiny.images("landscape", 1)
    reading = lens.read(image)
    kept = [reading.word_attention(QUESTION, "red sign"), reading.value_similarity(QUESTION, "red sign")]
    for one in kept:
        assert type(one).load(one.save(tmp_path / "one.safetensors")) == one
        with pytest.raises(AttnLensError, match=f"holds a {type(one).__name__}, not a ImportanceMap"):
            attnlens.ImportanceMap.load(tmp_path / "one.safetensors")
    result = attnlens.ask(lens, image, QUESTION)
    answers = [reading.answer(QUESTION), result, result.cost, *result.regions, *result.boxes]
    for one in (*kept, *answers, result.importance, reading.grids[0]):
        assert pickle.loads(pickle.dumps(one)) == one
        assert copy.deepcopy(one) == one


def test_a_deep_copy_of_a_lens_answers_alike_and_is_none_the_less_its_own(lens: Any) -> None:
    (image,) = tiny.images("landscape", 1)
    original = attnlens.load("pocket/llava")
    trace, answer = original.read(image).trace(QUESTION, gradients=True), original.read(image).answer(QUESTION)
    original.model.train()
    twin = copy.deepcopy(original)
    assert twin.model.training
    read = original.read(image)
    for parameter in original.model.parameters():
        parameter.data.zero_()
    reading = twin.read(image)
    assert reading.trace(QUESTION, gradients=True) == trace
    assert reading.answer(QUESTION).text == answer.text
    assert read.trace(QUESTION) != trace  # of a model of zeros


def test_a_deep_copy_of_a_reading_is_one_on_a_lens_of_its_own(lens: Any) -> None:
    reading = lens.read(tiny.images("landscape", 1)).zoom((10, 10, 60, 60))
    twin = copy.deepcopy(reading)
    assert twin.lens is not lens
    assert twin.images == reading.images
    np.testing.assert_allclose(twin.trace(QUESTION).attention, reading.trace(QUESTION).attention, atol=1e-5)
    both = copy.deepcopy([lens, reading])
    assert both[1].lens is both[0]


def test_a_lens_and_a_reading_are_not_pickled(lens: Any) -> None:
    with pytest.raises(AttnLensError, match=r"attnlens\.load where it is used"):
        pickle.dumps(lens)
    with pytest.raises(AttnLensError, match="Read the images again"):
        pickle.dumps(lens.read(tiny.images("landscape", 1)))


def test_a_model_that_hooks_bind_to_devices_is_not_copied() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    lens = attnlens.load("pocket/llava")
    add_hook_to_module(lens.model.get_decoder(), AlignDevicesHook(torch.device("cpu")))
    with pytest.raises(AttnLensError, match="quantised or spread over devices"):
        copy.deepcopy(lens)


def test_a_trace_keeps_nothing_but_data(lens: Any) -> None:
    def parts(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [inner for one in value for inner in parts(one)]
        if hasattr(value, "__dataclass_fields__"):
            return [inner for one in fields(value) for inner in parts(getattr(value, one.name))]
        return [value]

    trace = lens.read(tiny.images("landscape", 1)).trace(QUESTION)
    assert {type(one) for one in parts(trace)} <= {np.ndarray, int, float, str, slice, type(None)}
