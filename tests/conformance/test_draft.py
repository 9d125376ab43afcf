"""Claims about drafted adapters: they pass the checks as they are written, say where each fact is from, and refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import transformers
from transformers import CONFIG_MAPPING

import attnlens
from attnlens import adapters
from attnlens.conformance import check_tiny
from attnlens.conformance._drafting.draft import Draft, draft
from attnlens.conformance._tiny.model import tiny_config
from attnlens.errors import AttnLensError
from attnlens.lens._model.broken import KNOWN_BROKEN
from tests import tiny

TWENTY = (
    *("llava", "paligemma", "gemma3", "janus", "deepseek_vl"),  # square: plain, looking ahead, pooled
    *("qwen2_vl", "qwen3_5", "glm4v", "video_llama_3", "exaone4_5"),  # native: merged, hybrid, sliding
    *("mistral3", "lfm2_vl"),  # rows with a break token, shapes
    *("llava_next", "llava_onevision"),  # any resolution
    *("internvl", "idefics3", "cohere2_vision", "llama4"),  # tiles
    *("blip-2", "mllama"),  # latents, cross-attention
)
FAST = {"llava": "square", "qwen2_vl": "thw", "blip-2": "latents"}
SOURCES = r"inferred|tried|guessed|the config's"


def drafted(model_type: str) -> Draft:
    """A draft by someone who knows every adapter but that of this family."""
    return draft(model_type, exclude=adapters.for_model_type(model_type).name)


@pytest.fixture(scope="module", params=FAST)
def one(request: pytest.FixtureRequest) -> tuple[str, Draft]:
    return request.param, drafted(request.param)


def test_a_draft_passes_every_check_as_it_is_written(one: tuple[str, Draft], tmp_path: Path) -> None:
    model_type, found = one
    path = tmp_path / "mine.yaml"
    path.write_text(found.text())
    report = check_tiny(model_type, path)
    assert found.passed
    assert [finding for finding in report.findings if finding.passed is False] == []
    assert report.grid == FAST[model_type]


def test_a_draft_is_read_back_as_it_was_meant(one: tuple[str, Draft], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(one[1].text())
    read = adapters.find(path).model_dump(exclude={"name"})
    assert read == one[1].spec.model_dump(exclude={"name"})


def test_a_draft_says_of_each_fact_whether_it_was_inferred_tried_or_guessed(one: tuple[str, Draft]) -> None:
    lines = one[1].text().splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=")
    keys = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+:", line)]
    assert {lines[number].split(":")[0] for number in keys} >= {"model_types", "grid"}
    for number in keys:
        before = number
        while lines[before - 1].startswith("#   "):
            before -= 1
        assert re.search(SOURCES, lines[before - 1]), f"{lines[number]!r} comes after {lines[before - 1]!r}"


def test_the_head_of_a_draft_says_what_was_proved(one: tuple[str, Draft]) -> None:
    head = " ".join(line.lstrip("# ") for line in one[1].text().splitlines()[1:6])
    for finding in one[1].findings:
        assert (finding.check in head) == (finding.passed is not None)
    assert "attnlens adapters check MODEL --adapter THIS_FILE" in head


def test_a_hidden_adapter_is_not_looked_at() -> None:
    assert "as in llava," not in drafted("llava").origin["grid"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint without its weights."""
    path = tiny.save("llava", tmp_path / "model")
    for weights in path.glob("*.safetensors"):
        weights.unlink()
    return path


def test_a_draft_is_made_from_a_folder_without_its_weights(folder: Path) -> None:
    found = draft(folder, exclude="llava")
    assert found.passed
    assert (found.spec.model_types, found.spec.grid.kind) == (("llava",), "square")
    assert found.spec.prompt.template == "chat"


def test_without_a_chat_template_a_draft_guesses_a_prompt_that_can_be_asked(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    found = draft(folder, exclude="llava")
    assert "guessed" in found.origin["prompt"]
    path = tmp_path / "mine.yaml"
    path.write_text(found.text())
    model, processor = tiny.build("llava")
    processor.chat_template = None
    lens = attnlens.load(model=model, processor=processor, adapter=path)
    assert lens.read(tiny.images("square", 1)).trace("what is it?").attention.shape[-1] == 36


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    tiny_config("vipllava").save_pretrained(tmp_path)
    with pytest.raises(AttnLensError, match="No processor could be loaded"):
        draft(tmp_path)


@pytest.mark.skipif("apertus1p5" not in CONFIG_MAPPING, reason="a type of transformers 5.24")
def test_a_type_whose_config_refuses_to_be_made_tiny_is_refused_with_what_it_says():
    with pytest.raises(AttnLensError, match=r"No tiny model .*'apertus1p5' \(.*`codebook_dim` \(512\) must equal"):
        draft("apertus1p5")


@pytest.mark.parametrize("step", ["tiny_config", "tiny_model", "attention_path", "cross_attention_path", "hypotheses"])
def test_whatever_goes_wrong_in_a_model_s_own_code_is_said_in_one_error(step, monkeypatch):
    def surprise(*_: object, **__: object) -> None:
        raise ZeroDivisionError("as no one thought")

    monkeypatch.setattr(f"attnlens.conformance._drafting.draft.{step}", surprise)
    with pytest.raises(AttnLensError, match=r"'llava' \(ZeroDivisionError: as no one thought\)\. Write the adapter"):
        draft("llava")


def test_a_type_that_the_installed_transformers_breaks_is_refused(monkeypatch):
    monkeypatch.setitem(KNOWN_BROKEN, "llava", ((transformers.__version__,), "it is empty"))
    with pytest.raises(AttnLensError, match="cannot run models of the type 'llava'"):
        draft("llava")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lava", "The config of 'lava' could not be read"),
        ("bert", "'bert' is no image-text-to-text model"),
        ("llama", "'llama' is no image-text-to-text model"),
        ("blip", "takes no free question about a picture: a captioner"),
    ],
)
def test_a_type_that_answers_no_questions_about_images_is_refused(name: str, message: str) -> None:
    assert (name in CONFIG_MAPPING) == ("could not" not in message)
    with pytest.raises(AttnLensError, match=message):
        draft(name)


CONFIGS = {
    "no config": None,
    "an empty config": {},
    "a config without a model type": {"hidden_size": 64},
    "a model type that transformers does not have": {"model_type": "my_new_vl"},
    "a text-only model": {"model_type": "llama", "hidden_size": 64},
    "a config that is no mapping": [1],
    "a setting of the wrong kind": {"model_type": "llava", "image_token_index": "many"},
    "a part of the wrong kind": {"model_type": "llava", "text_config": [1]},
    "a part of a type that there is not": {"model_type": "llava", "text_config": {"model_type": "nothing"}},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_folder_that_no_model_can_be_made_of_is_refused(case: str, tmp_path: Path) -> None:
    if CONFIGS[case] is not None:
        (tmp_path / "config.json").write_text(json.dumps(CONFIGS[case]))
    with pytest.raises(AttnLensError, match=r"could not be read|[Nn]o tiny model|is no image-text-to-text"):
        draft(tmp_path)


CODE = """
from pathlib import Path
from transformers import LlavaConfig

Path(__file__).with_name("it_ran").touch()
Path({ran!r}).touch()


class MyConfig(LlavaConfig):
    model_type = "my_vl"
"""


def with_code(folder: Path, ran: Path) -> Path:
    """A checkpoint whose config is code that leaves a trace."""
    folder.mkdir()
    (folder / "configuration_my.py").write_text(CODE.format(ran=str(ran)))
    config = {"model_type": "my_vl", "auto_map": {"AutoConfig": "configuration_my.MyConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_in_a_checkpoint_is_not_run_unless_asked(tmp_path: Path) -> None:
    folder, ran = with_code(tmp_path / "model", tmp_path / "ran"), tmp_path / "ran"
    with pytest.raises(AttnLensError, match="trust_remote_code|custom code"):
        draft(folder)
    assert not ran.exists()


def test_code_in_a_checkpoint_is_run_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, ran = with_code(tmp_path / "model", tmp_path / "ran"), tmp_path / "ran"
    with pytest.raises(AttnLensError, match="my_vl"):  # a config alone is no model that could be made tiny
        draft(folder, trust_remote_code=True)
    assert ran.exists()


@pytest.mark.slow
def test_of_twenty_types_whose_adapters_are_hidden_at_least_fifteen_drafts_pass_unedited(tmp_path: Path) -> None:
    assert len(set(TWENTY)) == 20
    passed = []
    for model_type in TWENTY:
        path = tmp_path / f"{model_type}.yaml"
        try:
            path.write_text(drafted(model_type).text())
        except AttnLensError:
            continue
        passed += [model_type] * check_tiny(model_type, path).passed
    assert len(passed) >= 15, f"not {sorted(set(TWENTY) - set(passed))}"
