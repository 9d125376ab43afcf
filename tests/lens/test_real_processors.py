"""Real processors end to end: what a trace shows is what one plain eager forward shows of the processor's own inputs.

The models are tiny and random, the tokenizer is a small one with the family's special tokens; the processor is the
family's own, with its own image processor. The reference knows nothing of attnlens: it calls processor and model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.utils import is_torchvision_available

import attnlens
from attnlens import adapters
from attnlens.conformance._report import tiny_lens
from attnlens.conformance._tiny.model import tiny_config, tiny_image_processor, tiny_model
from attnlens.errors import AttnLensError
from tests import tiny

QUESTION = "what is written on the red sign?"
TOLERANCE = 1e-4
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "sep_token": "</s>"}
CHAT = (
    "{%% for part in messages[0]['content'] %%}{%% if part['type'] == 'image' %%}{{ '%s' }}"
    "{%% else %%}{{ ' ' + part['text'] }}{%% endif %%}{%% endfor %%} Answer:"
)


@dataclass(frozen=True)
class Case:
    """How a family's processor is put together, and its prompt for so many images written by hand."""

    processor: str
    settings: Callable[[Any, Any], dict[str, Any]]  # of the tiny config and the image processor
    named: dict[str, str] = field(default_factory=dict)  # special tokens that the family's tokenizer knows by a name
    others: tuple[str, ...] = ()
    image: str = "<image>"  # what stands for an image in the prompt
    token: str = "<image>"  # what stands for an image's token in the input ids
    key: str = "image_token_id"
    config: dict[str, Any] = field(default_factory=dict)
    prompt: str = "{images} {question} Answer:"
    most: int = 2  # images
    placed: int = 0  # images that the processor puts in front itself
    arguments: dict[str, Any] = field(default_factory=dict)  # of its call
    attributes: dict[str, Any] = field(default_factory=dict)  # of the processor


class Prefixing(transformers.PreTrainedTokenizerFast):
    """Begins every text with a token of its own, as LLaMA's does with its underscore: FuyuProcessor cuts it off."""

    def __call__(self, text: Any, **options: Any) -> Any:
        return super().__call__(f"_{text}", **options)


def patches(config: Any) -> int:
    """Image tokens of a square canvas with one for each patch."""
    return int((config.vision_config.image_size // config.vision_config.patch_size) ** 2)


SURROUNDED = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
CASES = {
    "llava_next": Case(
        "LlavaNextProcessor",
        lambda config, _: {
            "patch_size": config.vision_config.patch_size,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "num_additional_image_tokens": 1,
        },
        others=("<image>",),
    ),
    "idefics2": Case(
        "Idefics2Processor",
        lambda config, _: {"image_seq_len": config.perceiver_config.resampler_n_latents},
        others=("<fake_token_around_image>", "<image>", "<end_of_utterance>"),
    ),
    "idefics3": Case(
        "Idefics3Processor",
        lambda config, _: {"image_seq_len": patches(config) // config.scale_factor**2},
        others=("<fake_token_around_image>", "<image>", "<end_of_utterance>"),
    ),
    "gemma3": Case(
        "Gemma3Processor",
        lambda config, _: {"image_seq_length": config.mm_tokens_per_image},
        named={**SURROUNDED, "image_token": "<image_soft_token>"},
        image="<boi>",
        token="<image_soft_token>",
        config={"text_config": {"sliding_window": 512}},  # behind a window plain eager has gradients of what it masks
    ),
    "got_ocr2": Case(
        "GotOcr2Processor",
        lambda config, _: {},
        others=("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"),
        image="<imgpad>",
        token="<imgpad>",
        prompt="<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail."
        "<|im_end|><|im_start|>user\n<img>{images}</img>\n{question}<|im_end|><|im_start|>assistant\n",
        attributes={"num_image_tokens": 16},
    ),
    "paligemma": Case(
        "PaliGemmaProcessor",
        lambda config, images: {},
        others=("<image>",),
        prompt="{images}answer en {question}",
        config={"vocab_size": 1700, "text_config": {"vocab_size": 1700}},  # the processor adds 1,152 tokens
    ),
    "mllama": Case(
        "MllamaProcessor",
        lambda config, _: {},
        named={"image_token": "<|image|>"},
        others=("<|python_tag|>",),
        image="<|image|>",
        token="<|image|>",
    ),
    "chameleon": Case(
        "ChameleonProcessor",
        lambda config, images: {"image_seq_length": (images.crop_size["height"] // 16) ** 2},
        others=("<image>", "<racm3:break>", "<eoss>"),
        prompt="{images}{question}",
    ),
    "blip-2": Case(
        "Blip2Processor",
        lambda config, _: {"num_query_tokens": config.num_query_tokens},
        prompt="Question: {question} Answer:",
    ),
    "janus": Case("JanusProcessor", lambda config, _: {"num_image_tokens": patches(config)}, named=SURROUNDED),
    "deepseek_vl": Case(
        "DeepseekVLProcessor", lambda config, _: {"num_image_tokens": patches(config)}, named=SURROUNDED
    ),
    "aria": Case(
        "AriaProcessor",
        lambda config, _: {"size_conversion": {980: 8}},
        named=SURROUNDED,
        config={"vision_config": {"image_size": 980, "patch_size": 140}},  # AriaProcessor has crops of 980 px made
    ),
    "kosmos-2": Case(
        "Kosmos2Processor",
        lambda config, _: {"num_patch_index_tokens": 4},
        prompt="Question: {question} Answer:",
        config={"latent_query_num": 64},  # as many as the processor puts in
        most=1,
    ),
    "fuyu": Case(
        "FuyuProcessor",
        lambda config, _: {},
        others=("|SPEAKER|", "|NEWLINE|", "<0x04>"),
        image="|SPEAKER|",
        token="|SPEAKER|",
        prompt="{images}{question}\n",
        placed=1,
        arguments={"return_legacy_image_output": False},
    ),
}
NEED_TORCHVISION = {"fuyu"}


def put_together(model_type: str, images_class: str | None = None) -> tuple[Any, Any, Case]:
    """(model, processor, case)."""
    if images_class is None and model_type in NEED_TORCHVISION:
        images_class = f"{CASES[model_type].processor.removesuffix('Processor')}ImageProcessor"
    case, spec = CASES[model_type], adapters.for_model_type(model_type)
    specials = ("<s>", "</s>", "<unk>", "<pad>", *case.named.values(), *case.others)
    words = tiny.tokenizer("<s> $A", specials, **ROLES, extra_special_tokens=case.named)
    config = tiny_config(model_type, {**spec.tiny.config, **case.config})
    images = tiny_image_processor(model_type, config, images_class or spec.tiny.image_processor, spec.tiny.images)
    if model_type == "fuyu":
        words = Prefixing(tokenizer_object=words.backend_tokenizer, clean_up_tokenization_spaces=False, **ROLES)
    if model_type == "paligemma":
        images.image_seq_length = patches(config)
    make = getattr(transformers, case.processor)
    processor = make(image_processor=images, tokenizer=words, **case.settings(config, images))
    processor.chat_template = CHAT % case.image
    for name, value in case.attributes.items():
        setattr(processor, name, value)
    image_token_id = words.convert_tokens_to_ids(case.token)
    if model_type == "chameleon":
        config.vocabulary_map["<image>"] = image_token_id
    if model_type != "kosmos-2":
        setattr(config, case.key, image_token_id)
    assert len(words) <= config.get_text_config().vocab_size
    return tiny_model(config), processor, case


def inputs_of(processor: Any, case: Case, images: list[Image.Image], config: Any) -> dict[str, Any]:
    """The whole prompt as the processor itself makes it."""
    text = case.prompt.replace("{images}", case.image * (len(images) - case.placed)).replace("{question}", QUESTION)
    inputs = dict(processor(images=images, text=[text], return_tensors="pt", **case.arguments))
    inputs.pop("labels", None)
    inputs.pop("num_crops", None)
    if case.processor == "Blip2Processor":  # puts one image's queries in front, however many images there are
        queries = inputs["input_ids"][:, : config.num_query_tokens].repeat(1, len(images) - 1)
        inputs["input_ids"] = torch.cat([queries, inputs["input_ids"]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


@pytest.mark.parametrize(
    ("model_type", "count"), [(name, count) for name, case in CASES.items() for count in range(1, case.most + 1)]
)
def test_a_trace_behind_the_real_processor_equals_one_plain_eager_forward_of_its_inputs(model_type, count):
    if model_type in NEED_TORCHVISION and not is_torchvision_available():
        pytest.skip("its image processor without torchvision is refused: the test below")
    model, processor, case = put_together(model_type)
    images = [*tiny.images("landscape", 1), *tiny.images("portrait", 1)][:count]
    trace = attnlens.load(model=model, processor=processor).read(images).trace(QUESTION, gradients=True)
    plain, processor, _ = put_together(model_type)
    assert_equals_a_plain_eager_forward(model_type, trace, plain, inputs_of(processor, case, images, plain.config))


@pytest.mark.parametrize("size", [(40, 793), (9, 225), (793, 40), (1, 400), (400, 1), (1500, 11)], ids=str)
def test_a_thin_strip_is_read_as_llava_next_reads_it(size):
    image = tiny.images("landscape", 1)[0].resize(size)
    model, processor, case = put_together("llava_next")
    trace = attnlens.load(model=model, processor=processor).read(image).trace(QUESTION, gradients=True)
    plain, processor, _ = put_together("llava_next")
    assert_equals_a_plain_eager_forward("llava_next", trace, plain, inputs_of(processor, case, [image], plain.config))


CUTTING = {
    "gemma3": {
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 16,
        "pan_and_scan_max_num_crops": 3,
        "pan_and_scan_min_ratio_to_activate": 1.1,
    },
    "got_ocr2": {"crop_to_patches": True, "min_patches": 3, "max_patches": 5},
    "aria": {"split_image": True, "max_image_size": 980, "split_resolutions": [[980, 1960], [1960, 980]]},
}
"""Settings with which a processor calls its image processor, whatever that one's own are, and the image is cut."""


@pytest.mark.parametrize("model_type", CUTTING)
@pytest.mark.parametrize("stated", ["on the processor", "in the adapter", "on the image processor"])
def test_an_image_is_cut_as_the_processor_has_it_cut(model_type, stated):
    def cut(model_type: str) -> tuple[Any, Any, Case]:
        model, processor, case = put_together(model_type)
        if stated == "on the processor":
            processor.images_kwargs = {**processor.images_kwargs, **CUTTING[model_type]}
        if stated == "on the image processor":  # which these processors overrule on every call
            for name, value in CUTTING[model_type].items():
                setattr(processor.image_processor, name, value)
        return model, processor, case

    model, processor, case = cut(model_type)
    spec = adapters.for_model_type(model_type)
    arguments = CUTTING[model_type] if stated == "in the adapter" else {}
    spec = spec.model_copy(update={"prompt": spec.prompt.model_copy(update={"arguments": arguments})})
    images = [*tiny.images("landscape", 1), *tiny.images("portrait", 1)]
    reading = attnlens.load(model=model, processor=processor, adapter=spec).read(images)
    plain, processor, _ = cut(model_type)
    inputs = inputs_of(processor, replace(case, arguments={**case.arguments, **arguments}), images, plain.config)
    assert (len(inputs["pixel_values"]) > len(images)) == (stated != "on the image processor")
    trace = reading.trace(QUESTION, gradients=True)
    assert_equals_a_plain_eager_forward(model_type, trace, plain, inputs)


def assert_equals_a_plain_eager_forward(model_type: str, trace: Any, plain: Any, inputs: dict[str, Any]) -> None:
    """`plain`: a model that attnlens has not seen."""
    plain.set_attn_implementation("eager")
    out = plain(**inputs, output_attentions=True)
    attentions = (out.language_model_outputs if model_type == "blip-2" else out).attentions
    log_probs = out.logits[0, -1].float().log_softmax(dim=-1)
    gradients = torch.autograd.grad(log_probs.max(), attentions)
    if model_type == "kosmos-2":  # its 64 image tokens have as many ids
        at = inputs["image_embeds_position_mask"][0].bool()
    else:
        at = inputs["input_ids"][0] == getattr(plain.config, CASES[model_type].key)
    if model_type == "mllama":  # the trace is of the cross-attention layers, whose keys are all of the images
        at = torch.ones(attentions[trace.layers[0]].shape[-1], dtype=torch.bool)

    assert trace.input_ids.tolist() == inputs["input_ids"][0].tolist()
    assert trace.top_token == int(log_probs.argmax())
    for found, tensors in ((trace.attention, attentions), (trace.attention_gradient, gradients)):
        expected = torch.stack([tensors[layer][0, :, -1, at] for layer in trace.layers]).detach().numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
        assert expected.std() > 0


def test_a_processor_that_fails_on_its_own_image_processors_output_is_reported():
    """As FuyuProcessor does without torchvision, which hands tensors to FuyuImageProcessorPil."""
    model, processor, _ = put_together("fuyu", "FuyuImageProcessorPil")
    lens = attnlens.load(model=model, processor=processor)
    with pytest.raises(AttnLensError, match=r"FuyuProcessor fails .*transpose.*install the torchvision"):
        lens.read(tiny.images("landscape", 1))._prompt(QUESTION)


@pytest.mark.skipif(not is_torchvision_available(), reason="FuyuProcessor fails without torchvision")
def test_an_image_whose_pixels_the_processor_cuts_has_its_own_beside_another():
    model, processor, _ = put_together("fuyu")
    first, second = tiny.images("landscape", 1)[0], tiny.images("portrait", 1)[0]
    lens = attnlens.load(model=model, processor=processor)
    alone = [lens.read(one).pixel_gradient(QUESTION)[0] for one in (first, second)]
    together = lens.read([first, second]).pixel_gradient(QUESTION)
    assert [one.shape for one in together] == [one.shape for one in alone]
    assert all(np.abs(one).max() > 0 for one in together)


def test_a_processor_that_copies_images_keeps_their_order():
    """Which is all that is known of an image that comes to Idefics2's image processor."""
    _, processor, case = put_together("idefics2")
    images = [*tiny.images("landscape", 1), *tiny.images("portrait", 1)]
    seen: list[Image.Image] = []
    real = processor.image_processor

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __call__(self, images: Any, **options: Any) -> Any:
            seen.extend(images[0] if isinstance(images[0], list) else images)
            return real(images, **options)

    processor.image_processor = Spy()
    inputs_of(processor, case, images, None)
    assert [image.size for image in seen] == [image.size for image in images]
    assert not any(copy is image for copy in seen for image in images)


def test_a_size_that_the_processor_is_called_with_counts_as_the_image_processor_s_own():
    """A number is the shortest edge of CLIP's image processor, and a square crop."""
    image = tiny.images("landscape", 1)[0]
    lens = attnlens.load("pocket/llava")
    side = lens.processor.image_processor.crop_size["height"]
    spec = lens.adapter.model_copy(
        update={"prompt": lens.adapter.prompt.model_copy(update={"arguments": {"size": 2 * side, "crop_size": side}})}
    )
    called = attnlens.load(model=lens.model, processor=lens.processor, adapter=spec).read(image)
    assert called.grids != lens.read(image).grids
    lens.processor.image_processor.size = {"shortest_edge": 2 * side}
    assert called.grids == lens.read(image).grids


@pytest.mark.parametrize("size", [(2, 700), (700, 2)], ids=str)
def test_what_an_image_processor_fails_on_in_its_own_way_is_one_error_with_the_image_s_size(size):
    """Lfm2VlImageProcessor stacks tiles and a longer thumbnail: a RuntimeError."""
    lens = tiny_lens("lfm2_vl", adapters.for_model_type("lfm2_vl"))
    with pytest.raises(AttnLensError, match=rf"cannot process an image of {size[0]} x {size[1]} px \(RuntimeError"):
        lens.read(Image.new("RGB", size))
