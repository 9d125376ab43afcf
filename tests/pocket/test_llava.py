import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from attnlens import pocket
from attnlens.errors import AttnLensError
from attnlens.pocket import scenes
from attnlens.pocket.train import words


@pytest.fixture(scope="module")
def llava():
    folder = pocket.path("llava")
    return AutoProcessor.from_pretrained(folder), LlavaForConditionalGeneration.from_pretrained(folder).eval()


def answer(llava, images, question):
    processor, model = llava
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=images, text=prompt, return_tensors="pt")
    tokens = model.generate(**inputs)
    return processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def square(box, size, least=80):
    """The smallest square around a box that is at least `least` pixels wide, moved into the image."""
    x1, y1, x2, y2 = box
    side = min(size, max(least, x2 - x1))
    x, y = (min(max((low + high - side) // 2, 0), size - side) for low, high in ((x1, x2), (y1, y2)))
    return x, y, x + side, y + side


def test_an_unknown_name_is_told_the_known_ones():
    assert "llava" in pocket.names()
    with pytest.raises(AttnLensError, match="llava"):
        pocket.path("lava")


def test_it_is_small_and_loads_in_float32(llava):
    _, model = llava
    assert type(model) is LlavaForConditionalGeneration
    assert model.dtype == torch.float32
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 4e6
    assert (pocket.path("llava") / "model.safetensors").stat().st_size < 10e6


def test_the_chat_template_is_that_of_llava(llava):
    processor, _ = llava
    content = [{"type": "text", "text": "What is this?"}, {"type": "image"}, {"type": "image"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt == "USER: <image>\n<image>\nWhat is this? ASSISTANT:"


@pytest.mark.parametrize("text", ["", " ", "Zyzzyva?", "漢字 ünï 🦙", "1234", "a\x00b", "word " * 3000])
def test_the_tokenizer_takes_any_text(llava, text):
    tokenizer = llava[0].tokenizer
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
    ],
)
def test_ordinary_prompts_have_no_unknown_words(llava, text):
    tokenizer = llava[0].tokenizer
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_a_human_crop_makes_small_signs_readable(llava):
    chosen = [scenes.sized(seed, "small") for seed in range(12)]
    without = [answer(llava, [scene.image], scene.question) == scene.answer for scene in chosen]
    crops = [scene.image.crop(square(scene.box, 400)) for scene in chosen]
    with_crop = [
        answer(llava, [scene.image, crop], scene.question) == scene.answer
        for scene, crop in zip(chosen, crops, strict=True)
    ]
    assert sum(with_crop) >= 10
    assert sum(without) <= 6


def test_large_signs_are_read_without_a_crop(llava):
    chosen = [scenes.sized(seed, "large") for seed in range(6)]
    assert sum(answer(llava, [scene.image], scene.question) == scene.answer for scene in chosen) >= 5


def test_the_generic_prompt_is_answered_with_words_about_a_background(llava):
    answers = {answer(llava, [scenes.scene(seed).image], scenes.GENERIC) for seed in range(8)}
    assert answers <= set(words.ANSWERS.values())
    assert len(answers) > 1
