"""Tiny models with random weights, and real processors, of the three families, made on the spot: nothing is downloaded.

The weights are far larger than an ordinary initialisation, so that attention and logits are far from uniform.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from attnlens.lens._checkpoint.processors import image_only

Family = Literal["llava", "instructblip", "qwen2_5_vl"]
Kind = Literal["landscape", "portrait", "square"]

FAMILIES: tuple[Family, ...] = ("llava", "instructblip", "qwen2_5_vl")
KINDS: tuple[Kind, ...] = ("landscape", "portrait", "square")
PATCH = 14
QUERIES = 8
HEAD_WIDTH = 16

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = (
    "Yes No yes no what is written on the red sign? Is there a blue circle in this picture? Answer with Yes or No. "
    "Write a general description of the image. Answer the question using a single word or phrase. "
    "USER: ASSISTANT: Question: Short answer: system user assistant You are a helpful assistant. "
    "which colour does it have green yellow black white left right zero one two three four five six seven eight nine"
)


@functools.cache
def _trained() -> str:
    """A byte-level BPE with the words of the corpus, as JSON; it has an answer to every byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CORPUS] * 3, trainer)
    return str(tokenizer.to_str())


def tokenizer(template: str | None, specials: tuple[str, ...], **roles: str) -> PreTrainedTokenizerFast:
    """A tokenizer with these special tokens; `template` is what it puts around a text, such as `<s> $A`."""
    made = Tokenizer.from_str(_trained())
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    if template is not None:
        used = [(token, made.token_to_id(token)) for token in specials if token in template]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **roles)


def build(
    family: Family, *, layers: int = 3, heads: int = 2, seed: int = 0, side: int = 84, **overrides: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A float32 model in eval mode with random weights, and its processor.

    `layers` and `heads` are those of the language model, `side` the side of the vision input in pixels (for Qwen2.5-VL
    the pixel budget is that of a square of twice the side); the overrides go into the language model's config.
    """
    makers: dict[str, Callable[..., tuple[PreTrainedModel, ProcessorMixin]]] = {
        "llava": _llava,
        "instructblip": _instructblip,
        "qwen2_5_vl": _qwen2_5_vl,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = makers[family](layers, heads, side, overrides)
        _randomise(model)
    return model.float().eval(), processor


def save(family: Family, folder: str | pathlib.Path, **options: Any) -> pathlib.Path:
    """Such a model and its processor, saved as on the hub; returns the folder."""
    model, processor = build(family, **options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return pathlib.Path(folder)


def images(kind: Kind, count: int = 2, seed: int = 0) -> list[Image.Image]:
    """Images of that shape: a slope of colour, rectangles and noise; no two have the same size."""
    sizes = {"landscape": (173, 97), "portrait": (91, 160), "square": (120, 120)}
    random = np.random.default_rng([seed, KINDS.index(kind)])
    return [_picture(sizes[kind][0] + 7 * number, sizes[kind][1] + 7 * number, random) for number in range(count)]


def _picture(width: int, height: int, random: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    slope = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1)
    pixels = 200 * slope @ random.uniform(0, 1, (3, 3)) / 1.5
    for _ in range(6):
        left, top = int(random.integers(0, width - 20)), int(random.integers(0, height - 20))
        across, down = random.integers(10, 40, 2)
        pixels[top : top + down, left : left + across] = random.uniform(0, 255, 3)
    noisy = pixels + random.normal(0, 12, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _randomise(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(std=1.0 if "query_tokens" in name else min(0.3, 1.2 * fan_in**-0.5))
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def _text(words: PreTrainedTokenizerFast, layers: int, heads: int, overrides: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": HEAD_WIDTH * heads,
        "intermediate_size": 2 * HEAD_WIDTH * heads,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    return settings | overrides


def _vicuna_tokenizer(*more: str) -> PreTrainedTokenizerFast:
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return tokenizer("<s> $A", ("<s>", "</s>", "<unk>", "<pad>", *more), **roles)


def _llava(layers: int, heads: int, side: int, overrides: dict[str, Any]) -> tuple[PreTrainedModel, ProcessorMixin]:
    words = _vicuna_tokenizer("<image>")
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=side,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**_text(words, layers, heads, overrides)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=(side // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return LlavaForConditionalGeneration(config), processor


def _instructblip(
    layers: int, heads: int, side: int, overrides: dict[str, Any]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    words = _vicuna_tokenizer()
    reader = tokenizer(
        "[CLS] $A [SEP]",
        ("[PAD]", "[CLS]", "[SEP]", "[UNK]"),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )
    images = BlipImageProcessorPil(size={"height": side, "width": side})
    processor = InstructBlipProcessor(images, words, reader, num_query_tokens=QUERIES)  # adds <image> to `words`
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": PATCH,
    }
    qformer = {
        "vocab_size": len(reader),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "cross_attention_frequency": 2,
        "pad_token_id": reader.pad_token_id,
    }
    config = InstructBlipConfig(
        vision_config=vision,
        qformer_config=qformer,
        text_config=LlamaConfig(**_text(words, layers, heads, overrides)),
        num_query_tokens=QUERIES,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    return InstructBlipForConditionalGeneration(config), processor


def _qwen2_5_vl(
    layers: int, heads: int, side: int, overrides: dict[str, Any]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    vision_tokens = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *vision_tokens)
    words = tokenizer(None, specials, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    budget = {"shortest_edge": 56 * 56, "longest_edge": (2 * side) ** 2}
    processor = image_only(Qwen2_5_VLProcessor)(
        image_processor=Qwen2VLImageProcessorPil(size=budget, patch_size=PATCH, merge_size=2),
        tokenizer=words,
        chat_template=QWEN_TEMPLATE,
    )
    sections = [HEAD_WIDTH // 2 - 2 * (HEAD_WIDTH * 3 // 16), HEAD_WIDTH * 3 // 16, HEAD_WIDTH * 3 // 16]
    text = _text(words, layers, heads, {"num_key_value_heads": max(1, heads // 2)} | overrides)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": text["hidden_size"],
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 4 * PATCH,
        "fullatt_block_indexes": [1],
    }
    ids = words.convert_tokens_to_ids(list(vision_tokens))
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=ids[0],
        vision_end_token_id=ids[1],
        image_token_id=ids[2],
        video_token_id=ids[3],
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor
