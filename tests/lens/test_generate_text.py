"""Claims about `say`: a text alone gets the reply of the model's own `generate`, to its own prompt."""

from __future__ import annotations

import pytest
import torch

import attnlens
from attnlens import adapters
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.errors import AttnLensError
from attnlens.lens._cost import Cost
from tests import tiny

TEXT = "Name three things that are red."
OTHER = "Count from one to nine."
PROMPTS = {
    "llava": "USER: {text} ASSISTANT:",
    "instructblip": "Question: {text} Short answer:",
    "qwen2_5_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n"
    "<|im_start|>assistant\n",
}
TEMPLATES = {
    **dict.fromkeys(
        ["qwen2_vl", "gemma3", "idefics3", "internvl", "mistral3", "mllama", "qwen3_vl", "qwen3_5"], "{text} Answer:"
    ),
    "paligemma": "answer en {text}",
    "florence2": "{text}",
}


def lens_of(family, **options):
    model, processor = tiny.build(family, **options)
    return attnlens.load(model=model, processor=processor)


def plainly_said(model, tokenizer, ids, count):
    """Greedy search, one whole pass for each token."""
    start, ends = len(ids), model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    with torch.no_grad():
        for _ in range(count):
            ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] in ends:
                break
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def generated(model, tokenizer, ids, count):
    ids = torch.tensor([ids])
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, max_new_tokens=count
    )[0]
    new = made[1:] if model.config.is_encoder_decoder else made[ids.shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_reply_is_greedy_to_the_familys_own_prompt_without_an_image(family):
    lens = lens_of(family)
    model = lens.model.language_model if family == "instructblip" else lens.model
    replies = set()
    for text in (TEXT, OTHER):
        ids = lens.tokenizer.encode(PROMPTS[family].format(text=text))
        expected = plainly_said(model, lens.tokenizer, ids, 8)
        assert lens.generate_text(text, 8) == expected
        replies.add(expected)
    assert len(replies - {""}) == 2


@pytest.mark.parametrize("model_type", TEMPLATES)
def test_the_reply_is_that_of_generate_for_every_kind_of_model(model_type):
    seed = 5 if model_type in ("florence2", "paligemma") else 0  # with whose weights it says this and that
    lens = tiny_lens(model_type, adapters.for_model_type(model_type), seed)
    replies = set()
    for text in (TEXT, OTHER):
        expected = generated(
            lens.model, lens.tokenizer, lens.tokenizer.encode(TEMPLATES[model_type].format(text=text)), 24
        )
        assert lens.generate_text(text, 24) == expected
        replies.add(expected)
    assert len(replies) == 2


def test_a_template_that_writes_the_first_token_itself_is_given_no_second_one():
    model, processor = tiny.build("llava")
    processor.chat_template = "{{ '<s>' }}" + processor.chat_template
    messages = [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]
    ids = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    (ids,) = ids["input_ids"]
    assert ids.count(processor.tokenizer.bos_token_id) == 1
    lens = attnlens.load(model=model, processor=processor)
    assert lens.generate_text(TEXT, 8) == generated(model, processor.tokenizer, ids, 8)


def test_it_counts_as_one_forward_pass_over_no_image():
    lens = lens_of("llava")
    with lens.meter.measure() as stretch:
        lens.generate_text(TEXT, 5)
    assert stretch.cost == Cost(forwards=1, seconds=stretch.cost.seconds)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_was_said_changes_no_later_answer_about_an_image(family):
    image = tiny.images("landscape", 1)[0]
    lens, untouched = lens_of(family), lens_of(family)
    reading = lens.read(image)
    first = reading.answer(TEXT, 6).tokens
    lens.generate_text(OTHER, 6)
    assert reading.answer(TEXT, 6).tokens == first == untouched.read(image).answer(TEXT, 6).tokens
    assert reading.answer(OTHER, 6).tokens == untouched.read(image).answer(OTHER, 6).tokens


@pytest.mark.parametrize("text", ["", "  ", None, 7])
def test_a_text_without_words_is_refused(text):
    with pytest.raises(AttnLensError, match="expected some words"):
        lens_of("llava").generate_text(text)


def test_an_image_token_without_an_image_is_refused():
    with pytest.raises(AttnLensError, match="holds an image token, and no image"):
        lens_of("llava").generate_text("what is in <image>?")


def test_a_text_over_the_context_is_refused_before_the_model_runs():
    lens = lens_of("llava", max_position_embeddings=100)
    with pytest.raises(AttnLensError, match="context holds 100"):
        lens.generate_text(TEXT, 95)
    with pytest.raises(AttnLensError, match="max_new_tokens is 0"):
        lens.generate_text(TEXT, 0)
    assert lens.meter.now().forwards == 0


def test_a_model_that_needs_an_image_says_so():
    lens = tiny_lens("idefics", adapters.for_model_type("idefics"))
    with pytest.raises(AttnLensError, match="does not answer a prompt without an image"):
        lens.generate_text(TEXT)
    assert lens.read(sample_images()[0]).answer(TEXT, 2).tokens
