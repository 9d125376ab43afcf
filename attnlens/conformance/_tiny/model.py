"""Tiny random models of any image-text-to-text type of transformers, from the config class: nothing is downloaded.

The weights are far larger than an ordinary initialisation, so that attention and logits are far from uniform.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from attnlens.conformance._tiny.config import shrunk
from attnlens.conformance._tiny.image_processor import tiny_image_processor
from attnlens.conformance._tiny.timm_stub import timm_stand_ins
from attnlens.conformance._types import check_reads_images

__all__ = ["tiny_config", "tiny_image_processor", "tiny_model"]


def tiny_config(model_type: str, overrides: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """The default config of a model type, made tiny; `overrides`, nested as the config is, have the last word.

    An override that names a `model_type` for a part of the model starts from that type's defaults.
    """
    check_reads_images(model_type)
    config_class = CONFIG_MAPPING[model_type]
    overrides = overrides or {}
    settings = config_class().to_dict()
    for key, part_class in config_class.sub_configs.items():
        named = (overrides.get(key) or {}).get("model_type")
        if named is not None:
            settings[key] = CONFIG_MAPPING[named]().to_dict()
        elif settings.get(key) is None and key == "vision_config" and part_class.model_type:
            settings[key] = part_class().to_dict()  # a model without eyes is of no use here
    return config_class.from_dict(_merged(shrunk(settings), overrides))


def tiny_like(config: PreTrainedConfig) -> PreTrainedConfig:
    """A checkpoint's own config, made tiny."""
    return type(config).from_dict(shrunk(config.to_dict()))


def tiny_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A float32 model in eval mode on the CPU, whose random weights depend on nothing but the seed."""
    with torch.random.fork_rng(devices=[]), timm_stand_ins():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(copy.deepcopy(config), dtype=torch.float32)
        _randomise(model)
    return model.float().eval()


def _merged(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _randomise(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                stacked = parameter.dim() == 3 and "expert" in name
                fan_in = parameter.shape[-1] if stacked else parameter[0].numel()
                parameter.normal_(std=1.0 if "query_tokens" in name else min(0.3, 1.2 * fan_in**-0.5))
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.numel() == 1:
                parameter.normal_()  # gates, which start closed
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
