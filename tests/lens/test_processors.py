"""Processors come back from their folder as they were, with or without torchvision."""

from __future__ import annotations

import json
import logging
import pathlib

import pytest
import torch
import transformers
from transformers.utils import is_torchvision_available

import attnlens
from attnlens.errors import AttnLensError
from attnlens.lens import processors
from tests import tiny

PROMPTS = {
    "llava": "USER: <image>\nwhat is it? ASSISTANT:",
    "instructblip": "Question: what is it? Short answer:",
    "qwen2_5_vl": "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>what is it?<|im_end|>\n",
}
needs_no_torchvision = pytest.mark.skipif(is_torchvision_available(), reason="the full processor can be loaded")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return {family: tiny.save(family, tmp_path_factory.mktemp(family)) for family in tiny.FAMILIES}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_loaded_processor_makes_the_inputs_of_the_saved_one(
    family: tiny.Family, folders: dict[str, pathlib.Path]
) -> None:
    processor = tiny.build(family)[1]
    loaded = processors.load_processor(folders[family])
    image = tiny.images("landscape")[0]
    expected = processor(images=image, text=PROMPTS[family], return_tensors="pt")
    got = loaded(images=image, text=PROMPTS[family], return_tensors="pt")
    assert sorted(got) == sorted(expected)
    for key in expected:
        assert torch.equal(got[key], expected[key]), key


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_loaded_processor_has_its_chat_template(family: tiny.Family, folders: dict[str, pathlib.Path]) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    messages = [{"role": "user", "content": parts}]
    loaded = processors.load_processor(folders[family])
    expected = tiny.build(family)[1].apply_chat_template(messages, add_generation_prompt=True)
    assert "what is it?" in expected
    assert loaded.apply_chat_template(messages, add_generation_prompt=True) == expected


def test_a_template_that_writes_the_first_token_itself_is_given_no_second_one() -> None:
    model, processor = tiny.build("llava")
    processor.chat_template = "{{ '<s>' }}" + processor.chat_template
    (image,), text = tiny.images("landscape", 1), "what is it?"
    content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    expected = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]
    ids = attnlens.load(model=model, processor=processor).read(image).prompt(text).ids[0].tolist()
    assert ids == expected
    assert ids.count(processor.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("family", ["llava", "instructblip"])
def test_a_processor_that_needs_no_video_is_loaded_by_transformers_itself(
    family: tiny.Family, folders: dict[str, pathlib.Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "attnlens"):
        loaded = processors.load_processor(folders[family])
    assert type(loaded) is getattr(transformers, type(loaded).__name__)
    assert not [record for record in caplog.records if record.name == "attnlens"]


@needs_no_torchvision
def test_without_torchvision_a_video_processor_is_left_out_and_one_line_says_so(
    folders: dict[str, pathlib.Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "attnlens"):
        loaded = processors.load_processor(folders["qwen2_5_vl"])
    lines = [record.getMessage() for record in caplog.records if record.name == "attnlens"]
    assert len(lines) == 1
    assert "torchvision" in lines[0]
    assert "Qwen2_5_VLProcessor" in lines[0]
    assert isinstance(loaded, transformers.Qwen2_5_VLProcessor)
    assert not hasattr(loaded, "video_processor")


@needs_no_torchvision
def test_the_class_is_found_by_the_type_of_the_model_where_no_file_names_it(tmp_path: pathlib.Path) -> None:
    folder = tiny.save("qwen2_5_vl", tmp_path)
    for file in folder.glob("*.json"):
        data = json.loads(file.read_text())
        if file.name != "config.json" and data.pop("processor_class", None) is not None:
            file.write_text(json.dumps(data))
    loaded = processors.load_processor(folder)
    assert isinstance(loaded, transformers.Qwen2_5_VLProcessor)


@needs_no_torchvision
def test_a_folder_laid_out_as_on_the_hub_before_version_5_is_read(tmp_path: pathlib.Path) -> None:
    folder = tiny.save("qwen2_5_vl", tmp_path)
    data = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    images = data["image_processor"] | {"processor_class": "Qwen2_5_VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    loaded = processors.load_processor(folder)
    assert loaded.chat_template == template
    assert loaded.image_processor.size["longest_edge"] == (2 * 84) ** 2


def test_an_image_only_processor_keeps_the_name_that_transformers_knows() -> None:
    made = processors.image_only(transformers.Qwen2_5_VLProcessor)
    assert made.__name__ == "Qwen2_5_VLProcessor"
    assert issubclass(made, transformers.Qwen2_5_VLProcessor)
    assert made.get_attributes() == ["image_processor", "tokenizer"]


def test_where_torchvision_exists_transformers_error_is_reported_and_nothing_is_left_out(
    folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ValueError("a broken file")

    monkeypatch.setattr(transformers.utils, "is_torchvision_available", lambda: True)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(AttnLensError, match="a broken file"):
        processors.load_processor(folders["qwen2_5_vl"])


@pytest.mark.parametrize("missing", ["no-such-folder", "nobody/no-such-model"])
def test_a_name_that_leads_nowhere_is_reported_with_what_is_needed(missing: str, tmp_path: pathlib.Path) -> None:
    name = str(tmp_path / missing) if "/" not in missing else missing
    with pytest.raises(AttnLensError, match=r"preprocessor_config\.json.*tokenizer"):
        processors.load_processor(name, local_files_only=True)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_folder_without_a_tokenizer_is_reported(family: tiny.Family, tmp_path: pathlib.Path) -> None:
    folder = tiny.save(family, tmp_path)
    for file in [*folder.glob("tokenizer*"), *folder.glob("special*"), *folder.glob("added*")]:
        file.unlink()
    with pytest.raises(AttnLensError, match="tokenizer"):
        processors.load_processor(folder)


def test_a_folder_of_a_text_model_is_reported(tmp_path: pathlib.Path) -> None:
    words = tiny.tokenizer(None, ("<s>", "</s>"), bos_token="<s>", eos_token="</s>")
    words.save_pretrained(tmp_path)
    text = transformers.LlamaConfig(vocab_size=len(words), hidden_size=8, num_attention_heads=2)
    text.save_pretrained(tmp_path)
    with pytest.raises(AttnLensError, match="images and text together"):
        processors.load_processor(tmp_path)
