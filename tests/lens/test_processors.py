"""Processors come back from their folder as they were, with torchvision or without, for video or not."""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
from typing import Any, Literal

import pytest
import torch
import transformers
from transformers.utils import is_torchvision_available

import attnlens
from attnlens.errors import AttnLensError
from attnlens.lens._checkpoint import processors
from tests import tiny

PROMPTS = {
    "llava": "USER: <image>\nwhat is it? ASSISTANT:",
    "instructblip": "Question: what is it? Short answer:",
    "qwen2_5_vl": "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>what is it?<|im_end|>\n",
}
WHY = "There are no settings of a video processor" if is_torchvision_available() else "torchvision is not installed"
Stated = Literal["within processor_config.json", "own file"]
STATED: tuple[Stated, ...] = ("within processor_config.json", "own file")
VIDEO = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 784, "longest_edge": 7056}}
needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="no video processor is made without it")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return {family: tiny.save(family, tmp_path_factory.mktemp(family)) for family in tiny.FAMILIES}


def with_video(folder: pathlib.Path, target: pathlib.Path, stated: Stated) -> pathlib.Path:
    """A copy of a folder, with settings of a video processor where transformers writes them now, or wrote them."""
    shutil.copytree(folder, target)
    if stated == "own file":
        (target / "video_preprocessor_config.json").write_text(json.dumps(VIDEO))
    else:
        path = target / "processor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"video_processor": VIDEO}))
    return target


def loaded_and_lines(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> tuple[Any, list[str]]:
    """The processor of a folder, and what attnlens logs of it."""
    with caplog.at_level(logging.INFO, "attnlens"):
        loaded = processors.load_processor(folder)
    return loaded, [record.getMessage() for record in caplog.records if record.name == "attnlens"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_loaded_processor_makes_the_inputs_of_the_saved_one(
    family: tiny.Family, folders: dict[str, pathlib.Path]
) -> None:
    processor = tiny.build(family)[1]
    images = processor.image_processor
    if is_torchvision_available():  # then transformers takes the other backend, which rounds pixels in its own way
        processor.image_processor = getattr(transformers, type(images).__name__.removesuffix("Pil"))(**images.to_dict())
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
    ids = attnlens.load(model=model, processor=processor).read(image)._prompt(text).ids[0].tolist()
    assert ids == expected
    assert ids.count(processor.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("family", ["llava", "instructblip"])
def test_a_processor_that_needs_no_video_is_loaded_by_transformers_itself(
    family: tiny.Family, folders: dict[str, pathlib.Path], caplog: pytest.LogCaptureFixture
) -> None:
    loaded, lines = loaded_and_lines(folders[family], caplog)
    assert type(loaded) is getattr(transformers, type(loaded).__name__)
    assert not lines


def test_where_there_can_be_no_video_processor_it_is_left_out_and_one_line_says_why(
    folders: dict[str, pathlib.Path], caplog: pytest.LogCaptureFixture
) -> None:
    loaded, lines = loaded_and_lines(folders["qwen2_5_vl"], caplog)
    assert len(lines) == 1
    assert lines[0].startswith(f"{WHY}: Qwen2_5_VLProcessor of ")
    assert isinstance(loaded, transformers.Qwen2_5_VLProcessor)
    assert not hasattr(loaded, "video_processor")


@pytest.mark.parametrize("stated", STATED)
def test_what_states_a_video_processor_is_loaded_whole_where_torchvision_is_there(
    stated: Stated, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded, lines = loaded_and_lines(with_video(folders["qwen2_5_vl"], tmp_path / "model", stated), caplog)
    if is_torchvision_available():
        assert type(loaded) is transformers.Qwen2_5_VLProcessor
        assert loaded.video_processor.size["longest_edge"] == 7056
        assert not lines
    else:
        assert not hasattr(loaded, "video_processor")
        assert len(lines) == 1
        assert lines[0].startswith(WHY)


@pytest.mark.parametrize("stated", STATED)
def test_a_prompt_is_the_same_with_a_video_processor_and_without(
    stated: Stated, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    whole = processors.load_processor(with_video(folders["qwen2_5_vl"], tmp_path / "model", stated))
    alone = processors.load_processor(folders["qwen2_5_vl"])
    image = tiny.images("portrait")[0]
    expected = tiny.build("qwen2_5_vl")[1](images=image, text=PROMPTS["qwen2_5_vl"], return_tensors="pt")["input_ids"]
    for processor in (whole, alone):
        made = processor(images=image, text=PROMPTS["qwen2_5_vl"], return_tensors="pt")
        assert torch.equal(made["input_ids"], expected)


@needs_torchvision
def test_settings_of_a_video_processor_that_are_broken_are_reported_as_such(
    folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    folder = with_video(folders["qwen2_5_vl"], tmp_path / "model", "own file")
    (folder / "video_preprocessor_config.json").write_text("{")
    with pytest.raises(AttnLensError, match="not a valid JSON file"):
        processors.load_processor(folder)


def test_the_class_is_found_by_the_type_of_the_model_where_no_file_names_it(tmp_path: pathlib.Path) -> None:
    folder = tiny.save("qwen2_5_vl", tmp_path)
    for file in folder.glob("*.json"):
        data = json.loads(file.read_text())
        if file.name != "config.json" and data.pop("processor_class", None) is not None:
            file.write_text(json.dumps(data))
    loaded = processors.load_processor(folder)
    assert isinstance(loaded, transformers.Qwen2_5_VLProcessor)


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
    assert hasattr(loaded, "video_processor") == is_torchvision_available()  # the one file is for both


def test_an_image_only_processor_keeps_the_name_that_transformers_knows() -> None:
    made = processors.image_only(transformers.Qwen2_5_VLProcessor)
    assert made.__name__ == "Qwen2_5_VLProcessor"
    assert issubclass(made, transformers.Qwen2_5_VLProcessor)
    assert made.get_attributes() == ["image_processor", "tokenizer"]


@pytest.mark.parametrize("stated", STATED)
def test_with_torchvision_and_settings_for_video_transformers_error_is_reported_and_nothing_is_left_out(
    stated: Stated, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ValueError("a broken file")

    monkeypatch.setattr(processors, "is_torchvision_available", lambda: True)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(AttnLensError, match="a broken file"):
        processors.load_processor(with_video(folders["qwen2_5_vl"], tmp_path / "model", stated))


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
