"""What attnlens captures is what one plain eager forward of the whole prompt shows, and it changes no answer.

The reference (reference.py) runs on another copy of the same model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attnlens
from tests import tiny
from tests.lens.reference import Array, Reference, generated, reference, reference_model

TOLERANCE = 1e-4
QUESTION = "what is written on the red sign?"
OTHER = "Is there a blue circle in this picture? Answer with Yes or No."
BOX = (21, 13, 66, 52)
IMAGES: dict[str, Callable[[], list[Image.Image]]] = {
    "landscape": lambda: tiny.images("landscape", 1),
    "portrait": lambda: tiny.images("portrait", 1),
    "two landscapes": lambda: tiny.images("landscape", 2),
    "two portraits": lambda: tiny.images("portrait", 2),
    "portrait and landscape": lambda: [*tiny.images("portrait", 1), *tiny.images("landscape", 1)],
}
every_family = pytest.mark.parametrize("family", tiny.FAMILIES)
every_image = pytest.mark.parametrize("images", [make() for make in IMAGES.values()], ids=list(IMAGES))


def assert_close(got: Any, expected: Array, what: str) -> None:
    """Equal within 1e-4 of the largest value, in shape and in type; the reference itself is no constant."""
    assert isinstance(got, np.ndarray), what
    assert got.dtype == np.float32, what
    assert got.shape == expected.shape, what
    assert expected.std() > 0, what
    error = np.abs(got.astype(np.float64) - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE, f"{what}: relative error {error:.1e}"


def assert_trace_is(trace: Any, expected: Reference) -> None:
    assert list(trace.input_ids) == expected.ids
    assert trace.top_token == expected.top_token
    assert trace.log_prob == pytest.approx(expected.log_prob, rel=TOLERANCE)
    assert_close(trace.attention, expected.attention, "attention")
    assert_close(trace.attention_gradient, expected.attention_gradient, "attention_gradient")
    if expected.connector is None or expected.connector_gradient is None:
        assert trace.connector_attention is None
        assert trace.connector_gradient is None
    else:
        assert_close(trace.connector_attention, expected.connector, "connector_attention")
        assert_close(trace.connector_gradient, expected.connector_gradient, "connector_gradient")


@functools.cache
def lens_of(family: tiny.Family) -> Any:
    model, processor = tiny.build(family)
    return attnlens.load(model=model, processor=processor, adapter=family)


def fresh_lens(family: tiny.Family) -> tuple[Any, Any]:
    """(lens, model), of a model that no other test has touched."""
    model, processor = tiny.build(family)
    return attnlens.load(model=model, processor=processor, adapter=family), model


@every_family
@every_image
def test_a_trace_equals_one_full_eager_forward(family: tiny.Family, images: list[Image.Image]) -> None:
    trace = lens_of(family).read(images).trace(QUESTION, gradients=True)
    assert_trace_is(trace, reference(family, images, QUESTION))
    assert trace.layers == (0, 1, 2)
    assert len(trace.grids) == len(images)
    assert [grid.image_size for grid in trace.grids] == [image.size for image in images]


@every_family
@every_image
def test_a_pixel_gradient_equals_that_of_one_full_forward(family: tiny.Family, images: list[Image.Image]) -> None:
    gradients = lens_of(family).read(images).pixel_gradient(QUESTION)
    expected = reference(family, images, QUESTION).pixel_gradient
    assert isinstance(gradients, tuple)
    assert len(gradients) == len(images)
    for number, (got, true) in enumerate(zip(gradients, expected, strict=True)):
        assert_close(got, true, f"pixel gradient of image {number}")


@every_family
@every_image
def test_an_answer_equals_that_of_generate(family: tiny.Family, images: list[Image.Image]) -> None:
    answer = lens_of(family).read(images).answer(QUESTION, max_new_tokens=8)
    model, processor = reference_model(family)
    assert tuple(answer.tokens) == generated(family, model, processor, images, QUESTION)


@every_family
@pytest.mark.parametrize("kind", ["landscape", "portrait"])
def test_an_answer_with_a_crop_equals_that_of_generate_on_both_images(family: tiny.Family, kind: tiny.Kind) -> None:
    image = tiny.images(kind, 1)[0]
    reading = lens_of(family).read(image)
    reading.trace(QUESTION, gradients=True)
    zoomed = reading.zoom(BOX)
    model, processor = reference_model(family)
    assert tuple(zoomed.answer(QUESTION, max_new_tokens=8).tokens) == generated(
        family, model, processor, [image, image.crop(BOX)], QUESTION
    )
    assert tuple(reading.answer(QUESTION, max_new_tokens=8).tokens) == generated(
        family, model, processor, [image], QUESTION
    )


@every_family
@pytest.mark.parametrize("kind", ["landscape", "portrait"])
def test_a_trace_with_a_crop_equals_one_full_forward_on_both_images(family: tiny.Family, kind: tiny.Kind) -> None:
    image = tiny.images(kind, 1)[0]
    zoomed = lens_of(family).read(image).zoom(BOX)
    expected = reference(family, [image, image.crop(BOX)], QUESTION)
    assert_trace_is(zoomed.trace(QUESTION, gradients=True), expected)
    for got, true in zip(zoomed.pixel_gradient(QUESTION), expected.pixel_gradient, strict=True):
        assert_close(got, true, "pixel gradient")


@every_family
def test_a_crop_of_a_crop_reads_three_images(family: tiny.Family) -> None:
    image = tiny.images("landscape", 1)[0]
    zoomed = lens_of(family).read(image).zoom(BOX).zoom((60, 5, 140, 90))
    images = [image, image.crop(BOX), image.crop((60, 5, 140, 90))]
    assert_trace_is(zoomed.trace(QUESTION, gradients=True), reference(family, images, QUESTION))


Step = Callable[[Any], Any]
ORDERS: dict[str, list[Step]] = {
    "trace first": [
        lambda reading: reading.trace(QUESTION, gradients=True),
        lambda reading: reading.answer(QUESTION, max_new_tokens=8),
    ],
    "answer first": [
        lambda reading: reading.answer(QUESTION, max_new_tokens=8),
        lambda reading: reading.trace(QUESTION),
    ],
    "crop and pixels first": [
        lambda reading: reading.zoom(BOX).answer(QUESTION, max_new_tokens=8),
        lambda reading: reading.pixel_gradient(QUESTION),
        lambda reading: reading.answer(OTHER, max_new_tokens=8),
    ],
    "the same question first, without gradients": [lambda reading: reading.trace(OTHER)],
    "a long question first": [lambda reading: reading.answer(QUESTION * 5, max_new_tokens=3)],
}


@every_family
@pytest.mark.parametrize("steps", ORDERS.values(), ids=list(ORDERS))
def test_what_was_asked_before_changes_nothing(family: tiny.Family, steps: list[Step]) -> None:
    images = tiny.images("landscape", 1)
    reading = lens_of(family).read(images)
    for step in steps:
        step(reading)
    expected = reference(family, images, OTHER)
    assert_trace_is(reading.trace(OTHER, gradients=True), expected)
    model, processor = reference_model(family)
    assert tuple(reading.answer(OTHER, max_new_tokens=8).tokens) == generated(family, model, processor, images, OTHER)
    assert_close(reading.pixel_gradient(OTHER)[0], expected.pixel_gradient[0], "pixel gradient")


@every_family
def test_two_readings_of_one_model_do_not_mix(family: tiny.Family) -> None:
    lens = lens_of(family)
    landscape, portrait = tiny.images("landscape", 1), tiny.images("portrait", 1)
    first, second = lens.read(landscape), lens.read(portrait)
    second.answer(QUESTION, max_new_tokens=4)
    assert_trace_is(first.trace(QUESTION, gradients=True), reference(family, landscape, QUESTION))
    assert_trace_is(second.trace(QUESTION, gradients=True), reference(family, portrait, QUESTION))


@every_family
def test_an_answer_ends_where_generate_ends(family: tiny.Family) -> None:
    lens, model = fresh_lens(family)
    images = tiny.images("landscape", 1)
    generator = model.language_model if family == "instructblip" else model
    whole = generated(family, model, lens.processor, images, QUESTION)
    last = next(number for number in range(1, 8) if whole[number] not in whole[:number])
    generator.generation_config.eos_token_id = whole[last]
    expected = generated(family, model, lens.processor, images, QUESTION)
    assert expected == whole[: last + 1]
    assert tuple(lens.read(images).answer(QUESTION, max_new_tokens=8).tokens) == expected


def _state(model: torch.nn.Module) -> dict[str, Any]:
    """All that a user could find changed."""
    modules = dict(model.named_modules())
    return {
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "grad": {name: parameter.grad for name, parameter in model.named_parameters()},
        "training": {name: module.training for name, module in modules.items()},
        "attention": {
            name: module.config._attn_implementation for name, module in modules.items() if hasattr(module, "config")
        },
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules.items()},
        "classes": {name: type(module) for name, module in modules.items()},
        "generation": str(getattr(model, "generation_config", None)),
        "config": str(getattr(model, "config", None)),
    }


@every_family
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_user_s_model_is_left_as_it_was(family: tiny.Family, implementation: str) -> None:
    model, processor = tiny.build(family)
    model.set_attn_implementation(implementation)
    frozen = [parameter for number, parameter in enumerate(model.parameters()) if number % 3 == 0]
    for parameter in frozen:
        parameter.requires_grad_(False)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    images = tiny.images("landscape", 1)
    answer = generated(family, model, processor, images, QUESTION)
    before = _state(model)

    reading = attnlens.load(model=model, processor=processor, adapter=family).read(images)
    reading.trace(QUESTION, gradients=True)
    reading.answer(OTHER, max_new_tokens=4)
    reading.pixel_gradient(QUESTION)
    reading.zoom(BOX).trace(QUESTION, gradients=True)

    after = _state(model)
    for key, value in before.items():
        assert after[key] == value, key
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert generated(family, model, processor, images, QUESTION) == answer
    assert torch.is_grad_enabled()


@every_family
@pytest.mark.parametrize("surroundings", ["frozen parameters", "no_grad", "eager model"])
def test_gradients_are_exact_whatever_the_user_has_set(family: tiny.Family, surroundings: str) -> None:
    lens, model = fresh_lens(family)
    if surroundings == "frozen parameters":
        model.requires_grad_(False)
    if surroundings == "eager model":
        model.set_attn_implementation("eager")
    images = tiny.images("portrait", 1)
    expected = reference(family, images, QUESTION)
    with torch.set_grad_enabled(surroundings != "no_grad"):
        reading = lens.read(images)
        trace, gradient = reading.trace(QUESTION, gradients=True), reading.pixel_gradient(QUESTION)
    assert_trace_is(trace, expected)
    assert_close(gradient[0], expected.pixel_gradient[0], "pixel gradient")


@every_family
def test_a_trace_without_gradients_has_none(family: tiny.Family) -> None:
    trace = lens_of(family).read(tiny.images("square", 1)).trace(QUESTION)
    assert trace.attention_gradient is None
    assert trace.connector_gradient is None
    assert_close(trace.attention, reference(family, tiny.images("square", 1), QUESTION).attention, "attention")


@every_family
def test_a_model_saved_in_a_folder_shows_the_same(family: tiny.Family, tmp_path: Any) -> None:
    lens = attnlens.load(tiny.save(family, tmp_path))
    images = tiny.images("landscape", 1)
    assert_trace_is(lens.read(images).trace(QUESTION, gradients=True), reference(family, images, QUESTION))
