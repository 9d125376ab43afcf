"""What cannot be used is said, early and with what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers.models.llama.modeling_llama import LlamaAttention

import attnlens
from attnlens.adapters import AdapterSpec
from attnlens.errors import AttnLensError
from attnlens.lens._capture.tracer import Site
from attnlens.maps import relative_attention
from tests import tiny

QUESTION = "what is written on the red sign?"


def spec(**changes: Any) -> AdapterSpec:
    return AdapterSpec.from_mapping({"model_types": ["llava"], "grid": {"kind": "square"}, **changes})


def lens_of(adapter: Any = "llava", **options: Any) -> Any:
    model, processor = tiny.build("llava", **options)
    return attnlens.load(model=model, processor=processor, adapter=adapter)


@pytest.mark.parametrize("question", ["", "   ", None, 7, ["what is it?"]])
def test_a_question_without_text_is_refused(question: Any) -> None:
    with pytest.raises(AttnLensError, match="expected some text"):
        lens_of().read(tiny.images("square", 1)[0]).trace(question)


def test_a_question_that_holds_the_image_token_is_refused() -> None:
    with pytest.raises(AttnLensError, match="stands for an image"):
        lens_of().read(tiny.images("square", 1)[0]).trace("what is <image> this?")


def test_a_prompt_over_the_context_length_is_refused_before_the_model_runs() -> None:
    lens = lens_of(max_position_embeddings=100)
    reading = lens.read(tiny.images("square", 1)[0])
    with pytest.raises(AttnLensError, match="context holds 100"):
        reading.trace("what is it? " * 50)
    with pytest.raises(AttnLensError, match="context holds 100.*new tokens"):
        reading.answer("what is it?", max_new_tokens=90)


def test_an_image_that_alone_is_over_the_context_length_is_refused() -> None:
    with pytest.raises(AttnLensError, match="context holds 40"):
        lens_of(max_position_embeddings=40).read(tiny.images("square", 1)[0])


@pytest.mark.parametrize("count", [0, -1, "x", None, 1.5, True])
def test_a_number_of_new_tokens_that_is_none_is_refused(count: Any) -> None:
    lens = lens_of()
    with pytest.raises(AttnLensError, match=f"max_new_tokens is {count!r}"):
        lens.read(tiny.images("square", 1)[0]).answer(QUESTION, max_new_tokens=count)
    with pytest.raises(AttnLensError, match=f"max_new_tokens is {count!r}"):
        lens.generate_text("what is it?", max_new_tokens=count)


@pytest.mark.parametrize("number", ["0", None, 1.0, True, -1, 1])
def test_an_image_that_was_not_read_is_refused(number: Any) -> None:
    reading = lens_of().read(tiny.images("square", 1)[0])
    with pytest.raises(AttnLensError, match=f"no image {number!r}"):
        reading.image_at(number)
    with pytest.raises(AttnLensError, match=f"no image {number!r}"):
        relative_attention(reading, QUESTION, image=number)


def test_an_empty_list_of_images_is_refused() -> None:
    with pytest.raises(AttnLensError, match="at least one"):
        lens_of().read([])


def test_an_unknown_model_names_what_would_work() -> None:
    with pytest.raises(AttnLensError, match="pocket/llava"):
        attnlens.load("no-such-folder/no-such-model")
    with pytest.raises(AttnLensError, match="llava"):
        attnlens.load("pocket/gpt")


def test_load_needs_a_name_or_objects_and_not_both() -> None:
    model, processor = tiny.build("llava")
    for arguments in ({}, {"model": model, "name": "pocket/llava"}, {"model": model}):
        with pytest.raises(AttnLensError, match="processor|either"):
            attnlens.load(**arguments)
    assert attnlens.load(model=model, processor=processor).spec.name == "llava"


def test_an_unknown_dtype_is_refused() -> None:
    model, processor = tiny.build("llava")
    with pytest.raises(AttnLensError, match="float33"):
        attnlens.load(model=model, processor=processor, dtype="float33")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connector": {"attention": "model.qformer.layer.*.attention"}}, "no module of the model has such a path"),
        ({"language_model": {"level": "inner", "path": "model.languge_model"}}, "model.language_model"),
        ({"language_model": {"attention": "model.language_model.layer.*.self_attn"}}, r"layers\.\*\.self_attn"),
        ({"image_token_id": {"config": "image_tokn_id"}}, "no 'image_tokn_id'"),
        ({"image_token_id": 5}, "no image token"),
        ({"prompt": {"template": "USER: {question} ASSISTANT:"}}, "refused the prompt"),
    ],
)
def test_an_adapter_that_does_not_fit_the_model_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnLensError, match=message):
        lens_of(spec(**changes)).read(tiny.images("square", 1)[0])


def test_a_grid_that_the_image_processor_s_output_does_not_fit_is_refused() -> None:
    misspelt = {"kind": "square", "key": "pixel_value"}
    with pytest.raises(AttnLensError, match="pixel_value'"):
        lens_of(spec(grid=misspelt)).read(tiny.images("square", 1)[0])


def test_a_grid_kind_that_the_image_processor_s_steps_do_not_fit_is_refused() -> None:
    with pytest.raises(AttnLensError, match="do_center_crop.*choose another grid kind"):
        lens_of(spec(grid={"kind": "thw", "merge": 2, "patch": 14})).read(tiny.images("square", 1)[0])


def test_a_grid_with_another_number_of_cells_than_the_prompt_has_image_tokens_is_refused() -> None:
    with pytest.raises(AttnLensError, match="gives 37 tokens.*holds 36 image tokens"):
        lens_of(spec(grid={"kind": "square", "after": 1})).read(tiny.images("square", 1)[0])


def test_an_image_token_that_the_tokenizer_does_not_know_is_named() -> None:
    with pytest.raises(AttnLensError, match="<picture>.*does not know"):
        lens_of(spec(image_token_id={"token": "<picture>"}))


def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's attention, as code that ignores the attention interface would be."""
    plain = LlamaAttention.forward
    monkeypatch.setattr(LlamaAttention, "forward", lambda *a, **k: (plain(*a, **k)[0], None))


def test_attention_that_comes_back_as_none_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    without_weights(monkeypatch)
    reading = lens_of().read(tiny.images("square", 1)[0])
    with pytest.raises(AttnLensError, match="came back as None"):
        reading.trace(QUESTION)


def test_a_failed_trace_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    image = tiny.images("square", 1)[0]
    expected = lens_of().read(image).answer(QUESTION).tokens
    without_weights(monkeypatch)
    lens = lens_of()
    reading = lens.read(image)
    before = lens.model.config.text_config._attn_implementation
    with pytest.raises(AttnLensError, match="came back as None"):
        reading.trace(QUESTION, gradients=True)
    assert lens.model.config.text_config._attn_implementation == before
    assert all(parameter.requires_grad for parameter in lens.model.parameters())
    assert reading.answer(QUESTION).tokens == expected


def test_a_module_that_never_runs_is_named() -> None:
    lens = lens_of()
    lens._host.structure = replace(lens._host.structure, attention=(Site("model.multi_modal_projector"),))
    with pytest.raises(AttnLensError, match="multi_modal_projector"):
        lens.read(tiny.images("square", 1)[0]).trace(QUESTION)


def test_an_image_that_the_processor_cannot_take_is_named_with_its_size() -> None:
    model, processor = tiny.build("qwen2_5_vl")
    lens = attnlens.load(model=model, processor=processor)
    with pytest.raises(AttnLensError, match="20000 x 20 px.*aspect ratio.*crop or resize"):
        lens.read(tiny.images("square", 1)[0].resize((20000, 20)))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (20, 3000)])
def test_an_image_of_an_odd_shape_is_answered_about(family: tiny.Family, size: tuple[int, int]) -> None:
    model, processor = tiny.build(family)
    lens = attnlens.load(model=model, processor=processor)
    result = attnlens.ask(lens, tiny.images("square", 1)[0].resize(size), QUESTION, max_new_tokens=2)
    assert result.importance.to_pixels().shape == (size[1], size[0])
    assert all(0 <= b.x1 < b.x2 <= size[0] and 0 <= b.y1 < b.y2 <= size[1] for b in result.boxes)
