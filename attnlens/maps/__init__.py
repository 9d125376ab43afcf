"""Importance maps: a reading and a question in, an `ImportanceMap` out."""

from attnlens.maps.attention import (
    GENERIC_QUESTION,
    gradient_attention,
    relative_attention,
    relative_attention_by_layer,
)
from attnlens.maps.combined import average, product
from attnlens.maps.contrast import query_contrast
from attnlens.maps.entropy import entropy_gradient
from attnlens.maps.heads import Head, head_attention
from attnlens.maps.pixels import input_gradient
from attnlens.maps.tiled import tiled
from attnlens.maps.values import EXISTENCE, value_similarity
from attnlens.maps.words import SEARCH, word_attention

__all__ = [
    "EXISTENCE",
    "GENERIC_QUESTION",
    "SEARCH",
    "Head",
    "average",
    "entropy_gradient",
    "gradient_attention",
    "head_attention",
    "input_gradient",
    "product",
    "query_contrast",
    "relative_attention",
    "relative_attention_by_layer",
    "tiled",
    "value_similarity",
    "word_attention",
]
