"""The folder that `from_pretrained` loads: float16 weights, configuration, tokenizer, image processor, chat
template."""

import json
import pathlib

import torch
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from attnlens.pocket.train import sheets, tower

CHAT_TEMPLATE = (
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


def save(llava: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: pathlib.Path) -> None:
    """Write the model folder. The configuration says float32, so that loading turns the stored float16 back into it."""
    text = llava.config.text_config
    llava.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=20,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    halves = {name: value.half().contiguous() for name, value in llava.state_dict().items()}
    llava.save_pretrained(out, state_dict=halves)
    path = out / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "model.safetensors").chmod(0o644)
    processor(tokenizer).save_pretrained(out)


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """CLIP's image processor, as llava-1.5-hf has it, at the tower's input side."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": sheets.SIDE},
        crop_size={"height": sheets.SIDE, "width": sheets.SIDE},
        image_mean=list(tower.MEAN),
        image_std=list(tower.STD),
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=sheets.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def transplant(trained: "tower.Tower", llava: LlavaForConditionalGeneration) -> None:
    """Put the trained tower into the model."""
    with torch.no_grad():
        llava.model.vision_tower.load_state_dict(trained.clip.state_dict())
