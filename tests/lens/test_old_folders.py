"""Claims about folders as people have them: what they lack, or say in words of their time."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import is_torchvision_available

import attnlens
from attnlens import _upstream, adapters
from attnlens.lens._checkpoint import processors
from attnlens.lens._inputs import prompt
from tests import tiny

QUESTION = "what is written on the red sign?"
needs_no_torchvision = pytest.mark.skipif(is_torchvision_available(), reason="transformers' own class is there")


def without_processor_config(folder: Path) -> Path:
    """A LLaVA folder of 2024: preprocessor_config.json beside the tokenizer, nothing that joins them."""
    stated = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(stated["image_processor"]))
    (folder / "processor_config.json").unlink()
    (folder / "chat_template.jinja").unlink()
    return folder


def test_a_llava_folder_without_template_and_processor_config_is_asked_in_its_family_s_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lens = attnlens.load(without_processor_config(tiny.save("llava", tmp_path / "old")))
    image = tiny.images("landscape", 1)[0]
    prompt._log_once.cache_clear()  # another test may have been told
    with caplog.at_level(logging.WARNING, "attnlens"):
        reading = lens.read(image)
    assert any("no chat template" in record.getMessage() for record in caplog.records)
    literal = adapters.find("llava").prompt.literal
    assert literal is not None
    model, processor = tiny.build("llava")
    text = literal.replace("{images}", "<image>").replace("{question}", QUESTION)
    expected = processor(images=image, text=text, return_tensors="pt")
    assert reading._prompt(QUESTION).ids.tolist() == expected["input_ids"].tolist()
    with torch.no_grad():
        told = model.generate(**expected, max_new_tokens=5, do_sample=False)[0, expected["input_ids"].shape[1] :]
    assert list(reading.answer(QUESTION, 5).tokens) == told.tolist()


def test_limits_of_a_size_under_their_old_names_are_the_limits(tmp_path: Path) -> None:
    folder = tiny.save("qwen2_5_vl", tmp_path / "old")
    path = next(one for one in folder.glob("*processor_config.json") if "size" in one.read_text())
    stated = json.loads(path.read_text())
    own = stated.get("image_processor", stated)
    edges = own["size"]
    own["size"] = {"min_pixels": edges["shortest_edge"], "max_pixels": edges["longest_edge"]}
    own["do_pad"] = True
    path.write_text(json.dumps(stated))
    image = tiny.images("landscape", 1)[0]
    expected = attnlens.load(tiny.save("qwen2_5_vl", tmp_path / "new")).read(image)
    reading = attnlens.load(folder).read(image)
    assert reading._prompt(QUESTION).ids.tolist() == expected._prompt(QUESTION).ids.tolist()
    assert reading.grids == expected.grids


def test_an_adapter_is_chosen_by_what_the_config_says_besides_its_type() -> None:
    config = transformers.LlavaConfig(vision_config=transformers.PixtralVisionConfig())
    assert adapters._library.for_config(config).name == "llava_pixtral"
    assert adapters._library.for_config(transformers.LlavaConfig()).name == "llava"
    assert adapters.for_model_type("llava").name == "llava"


class Part:
    """A stand-in for a part of a processor."""


@pytest.mark.parametrize("name", ["SmolVLMProcessor", "Gemma4Processor", "Gemma4UnifiedProcessor"])
def test_a_processor_that_demands_a_video_processor_is_made_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _upstream.copied_processor(name) or getattr(transformers, name)
    monkeypatch.setattr(transformers.ProcessorMixin, "check_argument_for_proper_class", lambda *_: Part)
    made = processors.image_only(found, ("video", "feature_extractor"))
    tokenizer: Any = tiny.build("llava")[1].tokenizer
    for word in ("image_token", "boi_token", "eoi_token"):
        monkeypatch.setattr(tokenizer, word, "<image>", raising=False)
    monkeypatch.setattr(tokenizer, "image_token_id", 3, raising=False)
    processor = made(image_processor=Part(), tokenizer=tokenizer)
    assert list(made.get_attributes()) == ["image_processor", "tokenizer"]
    assert not hasattr(processor, "video_processor")
    assert type(processor).__name__ == name


@needs_no_torchvision
def test_pixtral_s_processor_writes_image_tokens_without_torchvision() -> None:
    """Its class asks for torchvision, and uses nothing of it."""
    with pytest.raises(ImportError):
        transformers.PixtralProcessor(None, None)
    found = _upstream.copied_processor("PixtralProcessor")
    assert found is not None
    assert _upstream.is_copied(found)
    assert issubclass(found, transformers.ProcessorMixin)
    made = found.replace_image_token
    owner = type("Own", (), {"patch_size": 4, "spatial_merge_size": 1})()
    owner.image_token, owner.image_break_token, owner.image_end_token = "i", "b", "e"
    assert made(owner, {"image_sizes": [(8, 12)]}, 0) == "iiibiiie"


def test_there_is_no_copy_of_a_class_that_transformers_does_not_have() -> None:
    assert _upstream.copied_processor("NobodysProcessor") is None
