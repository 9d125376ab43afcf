"""The folder that `from_pretrained` loads: float16 weights, configuration, tokenizer, processor, chat template."""

import json
import pathlib
from typing import Any

from transformers import (
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPProcessor,
    GenerationConfig,
    InstructBlipProcessor,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from attnlens.lens._checkpoint.processors import image_only
from attnlens.pocket import _library
from benchmarks.training import instructblip, towers
from benchmarks.training.clip import SIDE as CLIP_SIDE
from benchmarks.training.families import SYSTEM
from benchmarks.training.practice import PATCH

LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The template of llava-1.5-hf."""

QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    f"{{{{ '<|im_start|>system\\n{SYSTEM}<|im_end|>\\n' }}}}{{% endif %}}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of Qwen2.5-VL, for images."""

QWEN_PIXELS = (9216, 12800)
"""The fewest and the most pixels that Qwen's processor makes of an image: 96 x 96, and a little over 112 x 112."""


def save(model: PreTrainedModel, processor: ProcessorMixin, out: pathlib.Path) -> None:
    """Write the folder of a model that answers (see `write`), greedily and in a few words."""
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=20,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    write(model, processor, out)


def write(model: PreTrainedModel, processor: ProcessorMixin, out: pathlib.Path) -> None:
    """Write the model folder. The configuration says float32, so that loading turns the stored float16 back into it."""
    halves = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    model.save_pretrained(out, state_dict=halves)
    path = out / "config.json"
    path.write_text(json.dumps(_in_float32(json.loads(path.read_text())), indent=2, sort_keys=True) + "\n")
    (out / _library.WEIGHTS).chmod(0o644)
    processor.save_pretrained(out)
    _library.seal(out)


def _in_float32(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with every part's dtype float32."""
    parts = {key: _in_float32(value) if isinstance(value, dict) else value for key, value in config.items()}
    return {**parts, "dtype": "float32"} if "dtype" in parts else parts


def llava(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """LLaVA's image processor, which pads an image to a square first, at the tower's input side."""
    images = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": towers.SIDE},
        crop_size={"height": towers.SIDE, "width": towers.SIDE},
        image_mean=list(towers.MEAN),
        image_std=list(towers.STD),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )


def blip(tokenizer: PreTrainedTokenizerFast, reader: PreTrainedTokenizerFast) -> InstructBlipProcessor:
    """InstructBLIP's image processor, which stretches an image to a square; `reader` is the Q-Former's tokenizer."""
    images = BlipImageProcessorPil(
        size={"height": towers.SIDE, "width": towers.SIDE}, image_mean=list(towers.MEAN), image_std=list(towers.STD)
    )
    return InstructBlipProcessor(images, tokenizer, reader, num_query_tokens=instructblip.QUERIES)


def qwen(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    """Qwen2.5-VL's image processor, which keeps the aspect ratio, within a budget of pixels."""
    least, most = QWEN_PIXELS
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": least, "longest_edge": most},
        patch_size=PATCH,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=list(towers.MEAN),
        image_std=list(towers.STD),
    )
    return image_only(Qwen2_5_VLProcessor)(image_processor=images, tokenizer=tokenizer, chat_template=QWEN_TEMPLATE)


def clip(tokenizer: PreTrainedTokenizerFast) -> CLIPProcessor:
    """CLIP's image processor, which here stretches an image to a square instead of cutting out its centre."""
    side = {"height": CLIP_SIDE, "width": CLIP_SIDE}
    images = CLIPImageProcessorPil(
        do_center_crop=False, size=side, crop_size=side, image_mean=list(towers.MEAN), image_std=list(towers.STD)
    )
    return CLIPProcessor(images, tokenizer)
