"""Claims about the three bundled models: real, small, and on held-out scenes they show what they are made to show."""

import pytest
import torch
import transformers

import attnlens
from attnlens import pocket
from attnlens.lens._checkpoint.processors import load_processor
from attnlens.pocket import scenes

CLASSES = {
    "llava": "LlavaForConditionalGeneration",
    "instructblip": "InstructBlipForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}


@pytest.fixture(scope="module", params=sorted(CLASSES))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def lens(name):
    return attnlens.load(f"pocket/{name}")


def right(lens, recipe, bin_name, count, task="read"):
    """How many of the first test scenes of that size are answered rightly."""
    found = 0
    for seed in range(count):
        scene = scenes.scene_in_bin(seed, bin_name, task=task)
        box = scene.box if recipe == "human" else None
        result = attnlens.ask(lens, scene.image, scene.question, recipe, box=box, max_new_tokens=4)
        found += result.answer in scene.labels
    return found


def test_there_are_three():
    assert set(pocket.names()) == set(CLASSES)


def test_it_is_small_real_and_loads_in_float32(name, lens):
    assert type(lens.model) is getattr(transformers, CLASSES[name])
    assert lens.model.dtype == torch.float32
    assert 1e6 < sum(parameter.numel() for parameter in lens.model.parameters()) < 5e6
    assert sum(file.stat().st_size for file in pocket.path(name).iterdir()) < 10e6


def test_small_signs_are_misread_and_a_human_crop_makes_them_readable(lens):
    assert right(lens, "none", "small", 12) <= 8
    assert right(lens, "human", "small", 12) >= 11


def test_large_signs_are_read_with_and_without_a_crop(lens):
    assert right(lens, "none", "large", 6) >= 5
    assert right(lens, "rel-att", "large", 6) >= 5


def test_looking_where_the_model_looks_reads_more_small_signs(lens):
    assert right(lens, "grad-att", "small", 12) > right(lens, "none", "small", 12)


@pytest.mark.parametrize("task", ["colour", "exists"])
def test_other_kinds_of_question_are_answered_about_large_signs(lens, task):
    assert right(lens, "none", "large", 6, task) >= 5


def test_the_generic_prompt_is_answered_with_words_about_a_background(lens):
    answers = {lens.read(scenes.scene(seed).image).answer(scenes.GENERIC).text for seed in range(6)}
    assert answers <= set(scenes.DESCRIPTIONS.values())


def test_the_chat_templates_are_those_of_the_large_models():
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What is this?"}]
    message = [{"role": "user", "content": content}]
    llava, qwen = (load_processor(pocket.path(name)) for name in ("llava", "qwen2_5_vl"))
    prompt = llava.apply_chat_template(message, add_generation_prompt=True)
    assert prompt == "USER: <image>\n<image>\nWhat is this? ASSISTANT:"
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert qwen.apply_chat_template(message, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{image}{image}What is this?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("text", ["", " ", "Zyzzyva?", "漢字 ünï 🦙", "1234", "a\x00b", "word " * 3000])
def test_the_tokenizer_takes_any_text(lens, text):
    tokenizer = lens.tokenizer
    ids = tokenizer(text)["input_ids"]
    assert all(0 <= index < len(tokenizer) for index in ids)
    assert isinstance(tokenizer.decode(ids), str)


@pytest.mark.parametrize(
    "text",
    [
        "Answer the question using a single word or phrase.",
        scenes.GENERIC,
        "Is there a red sign in the image? Answer yes or no.",
        "Which of these objects can be seen in the photograph, and where are they?",
        "Which sign is further left, the red one or the pink one?",
        "You are a helpful assistant.",
    ],
)
def test_ordinary_prompts_have_no_unknown_words(lens, text):
    assert lens.tokenizer.unk_token_id not in lens.tokenizer(text)["input_ids"]
