"""Importance maps: a reading and a question in, an `ImportanceMap` out."""

from attnlens.maps._attention import (
    GENERIC_QUESTION,
    gradient_attention,
    relative_attention,
    relative_attention_by_layer,
)
from attnlens.maps._combined import average, product
from attnlens.maps._contrast import query_contrast
from attnlens.maps._entropy import entropy_gradient
from attnlens.maps._heads import Head, head_attention
from attnlens.maps._pixels import input_gradient
from attnlens.maps._tiled import tiled
from attnlens.maps._values import EXISTENCE, value_similarity
from attnlens.maps._words import SEARCH, word_attention

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
