"""Stand-ins for timm's vision towers, which attnlens does not need: for tiny models, and only where timm is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, is_timm_available

from attnlens._upstream import timm_models_by
from attnlens.conformance._tiny.config import SIDE, WIDTH


class TimmTowerStandIn(nn.Module):
    """What a timm model gives transformers' wrapper, from two convolutions: a square of features, or tokens of one.

    Pixels [images, 3, height, width] become [images, channels, side, side]; for a ViT [images, 1 + side^2, channels].
    """

    def __init__(self, architecture: str, channels: int) -> None:
        super().__init__()
        self.is_vit = architecture.startswith("vit")
        self.patches = nn.Conv2d(3, channels, kernel_size=7, stride=7)
        self.mixed = nn.Conv2d(channels, channels, kernel_size=1)
        self.class_token = nn.Parameter(torch.zeros(1, channels)) if self.is_vit else None

    def forward_features(self, pixel_values: Tensor, **_: Any) -> Tensor:
        features = self.mixed(torch.tanh(self.patches(pixel_values)))
        features = nn.functional.adaptive_avg_pool2d(features, SIDE)
        if self.class_token is None:
            return features
        tokens = features.flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1)

    def forward_head(self, features: Tensor) -> Tensor:
        return features.mean(dim=1) if self.is_vit else features.mean(dim=(2, 3))


@contextmanager
def timm_stand_ins() -> Iterator[None]:
    """While it lasts, transformers' wrapper of timm models builds stand-ins, if timm is missing."""
    if is_timm_available():
        yield
        return

    def build(config: PreTrainedConfig, **_: Any) -> nn.Module:
        channels = getattr(config, "hidden_size", None) or (config.model_args or {}).get("embed_dim", WIDTH)
        return TimmTowerStandIn(config.architecture, channels)

    with timm_models_by(build):
        yield
