"""Claims about the checks: they pass for what is true, for every kind of grid and strategy, and each can fail."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from attnlens import adapters
from attnlens.adapters._explain import models_in
from attnlens.adapters._schema import AdapterSpec, GridSpec
from attnlens.conformance import CHECKS, check_all, check_model, check_tiny
from attnlens.conformance._checks import QUESTION, findings
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.conformance._table import document, markdown, read
from attnlens.conformance._tiny.model import tiny_config, tiny_model
from attnlens.conformance._types import NOT_ASKED, image_text_types, question_answerers
from attnlens.errors import AttnLensError
from attnlens.lens._lens import Lens
from attnlens.lens._model.broken import KNOWN_BROKEN, broken
from attnlens.lens._model.generator import Generator
from attnlens.lens._pixels import Pixels
from attnlens.lens._reading import Reading
from tests.test_docs import ROOT

ONE_OF_EACH = {
    "llava": ("square", "shared"),
    "paligemma": ("square", "one_pass"),
    "qwen2_vl": ("thw", "shared"),
    "qwen3_5": ("thw", "replay"),
    "mistral3": ("sizes", "shared"),
    "inkling_mm_model": ("rows", "replay"),
    "lfm2_vl": ("shapes", "replay"),
    "gemma4": ("positions", "shared"),
    "blip-2": ("latents", "one_pass"),
    "mllama": ("cross", "one_pass"),
    "idefics3": ("tiles", "shared"),
    "llava_next": ("anyres", "shared"),
    "minicpmv4_6": ("slices", "replay"),
    "deepseek_ocr2": ("local_global", "shared"),
    "molmo2": ("crops", "shared"),
    "fuyu": ("unpadded", "shared"),
    "florence2": ("square", "one_pass"),
}


def failed(spec: AdapterSpec, model_type: str) -> set[str]:
    return {finding.check for finding in check_tiny(model_type, spec).findings if finding.passed is False}


def changed(name: str, **facts: Any) -> AdapterSpec:
    """A bundled adapter with other facts."""
    known = adapters.find(name).model_dump(exclude_unset=True)
    for key, value in facts.items():
        known[key] = {**known.get(key, {}), **value} if isinstance(value, dict) else value
    return AdapterSpec.from_mapping(known)


@pytest.mark.parametrize("model_type", ONE_OF_EACH)
def test_the_checks_pass_for_one_type_of_each_grid_and_strategy(model_type):
    report = check_tiny(model_type)
    assert [finding for finding in report.findings if finding.passed is False] == []
    assert (report.grid, report.strategy) == ONE_OF_EACH[model_type]
    assert {finding.check for finding in report.findings} == set(CHECKS)


@pytest.mark.parametrize("model_type", ["gemma3", "exaone4_5"])
def test_sliding_layers_are_checked_where_they_see_a_part_of_the_image(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    trace = lens.read(sample_images()[0]).trace(QUESTION)
    kinds = lens.model.config.get_text_config().layer_types
    for layer, weights in zip(trace.layers, trace.attention, strict=True):
        seen = weights.max(axis=0) > 0
        assert seen.any()
        assert seen.all() == (kinds[layer] == "full_attention")


def test_every_grid_kind_has_its_type_among_the_fast_ones():
    kinds = {kind.model_fields["kind"].annotation.__args__[0] for kind in models_in(GridSpec)}
    assert {grid for grid, _ in ONE_OF_EACH.values()} == kinds


@pytest.mark.slow
def test_at_least_eighty_of_the_question_answering_types_pass_and_the_page_says_which():
    found = {report.model_type: report.passed for report in check_all(question_answerers(), jobs=2)}
    page = read(ROOT / "docs" / "models" / "checks.json")
    listed = {one["model_type"]: one["passed"] for one in page["reports"]}
    own = page["versions"]["transformers"]
    alike = {kind for kind in found.keys() & listed.keys() if not broken(kind) and not broken(kind, own)}
    assert {kind: found[kind] for kind in alike} == {kind: listed[kind] for kind in alike}
    assert len(alike) >= len(listed) - len(KNOWN_BROKEN) - 3  # as many types as came with the newest minor version
    assert sum(found.values()) >= 80


def test_every_question_answering_type_has_an_adapter():
    handled = {kind for name in adapters.available() for kind in adapters.find(name).model_types}
    assert set(question_answerers()) <= handled
    assert set(NOT_ASKED) <= set(image_text_types())


def test_the_page_of_supported_models_is_what_its_findings_say():
    assert (ROOT / "docs" / "models.md").read_text() == markdown(read(ROOT / "docs" / "models" / "checks.json"))


def test_the_page_names_the_adapter_and_the_grid_that_the_library_has():
    for one in read(ROOT / "docs" / "models" / "checks.json")["reports"]:
        spec = adapters.for_model_type(one["model_type"])
        assert (one["adapter"], one["grid"]) == (spec.name, spec.grid.kind)


def test_the_page_names_what_transformers_itself_breaks():
    text = (ROOT / "docs" / "models.md").read_text()
    for model_type, (versions, reason) in KNOWN_BROKEN.items():
        assert f"`{model_type}`, by transformers {', '.join(versions)}: {reason}" in text


@pytest.mark.parametrize("model_type", sorted(KNOWN_BROKEN))
def test_what_transformers_breaks_fails_its_plain_forward_there_and_passes_elsewhere(model_type):
    spec = adapters.for_model_type(model_type)
    report = check_tiny(model_type, spec)
    if (reason := broken(model_type)) is None:
        assert [finding for finding in report.findings if finding.passed is False] == []
        return
    (finding,) = report.findings
    assert (finding.passed, reason in finding.detail) == (False, True)
    with pytest.raises(AttributeError), torch.no_grad():
        tiny_model(tiny_config(model_type, spec.tiny.config))(input_ids=torch.tensor([[300, 301, 302]]))


SPARSE = ["dots3_note", "hy_v4_vl", "minimax_m3_vl", "mistral_large4", "qwen4_exp"]


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(kind, marks=[] if kind == "mistral_large4" else [pytest.mark.slow])
        for kind in SPARSE
        if kind in image_text_types()
    ],
)
def test_keys_that_a_sparse_indexer_leaves_out_have_no_weight_and_the_rest_are_exact(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    trace = lens.read(sample_images()[0]).trace(QUESTION)
    seen = trace.attention.max(axis=1) > 0
    assert seen.any()
    assert not seen.all()
    assert passed(lens, "rows") is True
    assert passed(lens, "two images") is True


T5 = {"model_type": "t5", "decoder_start_token_id": 0}


@pytest.mark.parametrize(("name", "model_type"), [("blip_2", "blip-2"), ("instructblip", "instructblip")])
def test_an_encoder_decoder_behind_a_known_connector_passes_with_the_same_adapter(name, model_type):
    settings = {"config": {"text_config": T5, "use_decoder_only_language_model": False}}
    lens = tiny_lens(model_type, changed(name, tiny=settings))
    assert lens._host.structure.attends_to == "encoder"
    assert lens._host.structure.attention  # found by what transformers records: the adapter names none
    found = {finding.check: finding.passed for finding in findings(lens, sample_images())}
    assert set(found) == set(CHECKS)
    assert {check for check, passed in found.items() if passed is not True} <= {"places", "canvas"}
    assert False not in found.values()


def test_a_llava_with_a_pixtral_tower_passes_with_the_adapter_that_is_named():
    report = check_tiny("llava", "llava_pixtral")
    assert (report.adapter, report.grid) == ("llava_pixtral", "sizes")
    assert report.passed
    assert {"rows", "places"} <= {finding.check for finding in report.findings if finding.passed}


def test_a_bundled_checkpoint_passes_with_its_own_processor():
    report = check_model("pocket/llava")
    assert [finding for finding in report.findings if finding.passed is False] == []


def test_a_wrong_merge_factor_fails_on_the_number_of_tokens():
    assert "tokens" in failed(changed("qwen_vl", grid={"merge": 1}), "qwen2_vl")


def test_a_shared_prefix_fails_where_the_prefix_looks_ahead():
    found = failed(changed("paligemma", language_model={"strategy": "shared"}), "paligemma")
    assert {"rows", "gradients", "two images"} <= found


def test_patches_in_another_order_fail_on_the_canvas_although_the_tokens_are_right():
    assert failed(changed("hunyuan_vl", grid={"blocks": True}), "hunyuan_vl") == {"canvas"}


def test_a_thumbnail_on_the_wrong_side_fails_on_places_although_the_number_of_tokens_is_right():
    found = failed(changed("internvl", grid={"thumbnail": "first"}), "internvl")
    assert "places" in found
    assert "tokens" not in found


def test_appending_a_crop_fails_where_the_image_tokens_of_one_pass_see_each_other():
    assert failed(changed("molmo2", language_model={"appends_images": True}), "molmo2") == {"crop"}


def test_images_whose_patches_are_not_numbered_on_fail_on_two_images():
    assert failed(changed("molmo2", prompt={"patch_numbers": None}), "molmo2") == {"two images"}


def test_attention_modules_of_the_vision_tower_fail():
    wrong = {"attention": "model.vision_tower.encoder.layers.*.self_attn"}
    assert failed(changed("llava", language_model=wrong), "llava")


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        ("rows", lambda trace: dataclasses.replace(trace, attention=trace.attention * 1.01)),
        ("sums", lambda trace: dataclasses.replace(trace, attention=trace.attention * 50)),
        ("sums", lambda trace: dataclasses.replace(trace, attention=trace.attention * 0)),
        (
            "gradients",
            lambda trace: (
                trace
                if trace.attention_gradient is None
                else dataclasses.replace(trace, attention_gradient=-trace.attention_gradient)
            ),
        ),
    ],
)
def test_a_spoilt_trace_fails(check, spoil, monkeypatch):
    real = Reading.trace
    monkeypatch.setattr(Reading, "trace", lambda *args, **options: spoil(real(*args, **options)))
    lens = tiny_lens("llava", adapters.find("llava"))
    assert passed(lens, check) is False
    monkeypatch.undo()
    assert passed(lens, check) is True


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_pixel_gradient_that_is_zero_or_not_finite_fails(value, monkeypatch):
    lens = tiny_lens("llava", adapters.find("llava"))
    assert passed(lens, "pixel gradient") is True
    real = Pixels.raw_gradient
    monkeypatch.setattr(Pixels, "raw_gradient", lambda *args: tuple(torch.full_like(one, value) for one in real(*args)))
    assert passed(lens, "pixel gradient") is False


def test_a_missing_gradient_fails(monkeypatch):
    real = Reading.trace
    monkeypatch.setattr(Reading, "trace", lambda self, question, gradients=False: real(self, question))
    lens = tiny_lens("llava", adapters.find("llava"))
    assert passed(lens, "gradients") is False
    assert passed(lens, "rows") is True


def test_a_spoilt_connector_fails_rows_and_gradients(monkeypatch):
    lens = tiny_lens("blip-2", adapters.find("blip_2"))
    assert (passed(lens, "rows"), passed(lens, "gradients")) == (True, True)
    real = Reading.trace

    def spoilt(*args, **options):
        trace = real(*args, **options)
        flipped = {
            name: None if (value := getattr(trace, name)) is None else value[..., ::-1]
            for name in ("connector_attention", "connector_gradient")
        }
        return dataclasses.replace(trace, **flipped)

    monkeypatch.setattr(Reading, "trace", spoilt)
    assert (passed(lens, "rows"), passed(lens, "gradients")) == (False, False)


def test_an_answer_that_generate_would_not_give_fails(monkeypatch):
    monkeypatch.setattr(Generator, "decode", lambda *_: ([1, 2, 3], 0.0))
    assert passed(tiny_lens("llava", adapters.find("llava")), "answer") is False


def test_modules_that_do_not_matter_fail_the_intervention():
    lens = tiny_lens("llava", adapters.find("llava"))
    assert passed(lens, "intervention") is True
    lens._host.structure = dataclasses.replace(lens._host.structure, attention=())
    assert passed(lens, "intervention") is False


def passed(lens: Lens, check: str) -> bool | None:
    (finding,) = findings(lens, sample_images(), [check])
    return finding.passed


def test_a_model_that_cannot_be_built_is_a_finding_and_not_a_crash():
    report = check_tiny("llava", changed("llava", tiny={"config": {"vision_config": {"hidden_size": -1}}}))
    assert [finding.check for finding in report.findings] == ["build"]
    assert not report.passed


def test_a_type_without_an_adapter_does_not_pass_and_does_not_stop_the_others():
    reports = {report.model_type: report for report in check_all(["t5gemma2", "llava"])}
    assert reports["llava"].passed
    assert not reports["t5gemma2"].passed
    assert "t5gemma2" in reports["t5gemma2"].findings[0].detail


def test_an_adapter_for_another_type_is_refused():
    with pytest.raises(AttnLensError, match="not for the model type 'lava'.*Did you mean 'llava'"):
        check_tiny("lava", adapters.find("llava"))


def test_the_findings_survive_being_written_as_json(tmp_path):
    written = document([check_tiny("llava")])
    (tmp_path / "checks.json").write_text(json.dumps(written))
    page = markdown(read(tmp_path / "checks.json"))
    assert "| `llava` | llava | square |" in page
    assert written["versions"]["transformers"] in page


def test_another_file_is_refused_as_findings(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(AttnLensError, match="is not what"):
        read(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("model_type", "language_model"), [("paligemma", "gemma2"), ("llava", "gemma2"), ("internvl", "gpt_oss")]
)
def test_soft_capping_and_sinks_of_the_language_model_are_kept(model_type, language_model):
    """Gemma 2 caps its scores, and gpt-oss has sinks: SDPA would leave out both without a word."""
    name = adapters.for_model_type(model_type).name
    other = {"config": {"text_config": {"model_type": language_model}}}
    assert failed(changed(name, tiny=other), model_type) == set()
