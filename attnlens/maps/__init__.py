"""Importance maps: a reading and a question in, an `ImportanceMap` out."""

from attnlens.maps.attention import (
    GENERIC_QUESTION,
    gradient_attention,
    relative_attention,
    relative_attention_by_layer,
)
from attnlens.maps.pixels import input_gradient
from attnlens.maps.tiled import tiled
from attnlens.maps.values import EXISTENCE, value_similarity

__all__ = [
    "EXISTENCE",
    "GENERIC_QUESTION",
    "gradient_attention",
    "input_gradient",
    "relative_attention",
    "relative_attention_by_layer",
    "tiled",
    "value_similarity",
]
