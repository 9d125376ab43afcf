"""Cached values: what a prompt's tokens hold, layer by layer, without any attention matrix.

Values carry no rotary position, so that two tokens with the same content have like values wherever they stand (FOCUS,
arXiv 2506.21710). They lie in the KV cache of every pass, under SDPA and flash alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad
from transformers import DynamicCache

from attnlens._storage import Stored
from attnlens.errors import AttnLensError
from attnlens.lens._layouts import Layout
from attnlens.lens._trace import Array


@dataclass(frozen=True, eq=False)
class ValueSimilarity(Stored):
    """How like the values of some words are to those of every token of their prompt.

    Examples:
        >>> seen = reading.value_similarity(question, "pink")
        >>> seen.cosines.shape, len(seen.columns[0])
        ((4, 1, 113), 100)
    """

    cosines: Array
    """[layers, words, tokens]: cosines of the value vectors, summed over the key-value heads; 0 where a sliding window
    has forgotten the token. `tokens` are those in the cache, all of the prompt's but the last."""
    layers: tuple[int, ...]
    """The language model's layer numbers along axis 0."""
    words: tuple[int, ...]
    """Where the words' tokens stand in the prompt."""
    columns: tuple[tuple[int, ...], ...]
    """For each image, where its tokens stand in the prompt."""
    layouts: tuple[Layout, ...]
    """For each image, which cells its tokens are."""


@torch.no_grad()
def cosines(cache: DynamicCache, layers: Sequence[int], words: Sequence[int], tokens: int) -> tuple[Tensor, list[int]]:
    """[layers, words, tokens], and the layers that hold values of their own (others share those of a layer before)."""
    if not 0 <= min(words) <= max(words) < tokens:
        raise AttnLensError(
            f"The words stand at {tuple(words)}; expected positions from 0 to {tokens - 1}. The cache holds all of the "
            "prompt's tokens but the last."
        )
    rows, found = [], []
    for number in layers:
        values = _values(cache, number)
        if values is None:
            continue
        unit = normalize(values[0].float(), dim=-1)  # [kv_heads, cached tokens, width]
        missing = tokens - unit.shape[1]
        chosen = [word - missing for word in words]
        if min(chosen) < 0:
            raise AttnLensError("A sliding window has forgotten the words by the end. Ask a shorter question.")
        rows.append(pad(torch.einsum("hwd,htd->wt", unit[:, chosen], unit), (missing, 0)))
        found.append(number)
    if not rows:
        raise AttnLensError("This model's cache holds no values. Use a map of attention instead.")
    return torch.stack(rows), found


def _values(cache: DynamicCache, number: int) -> Tensor | None:
    """[1, kv_heads, tokens, width] of one layer's cache; None where it has none."""
    layer: Any = cache.layers[number] if number < len(cache.layers) else None
    parts = [*getattr(layer, "shared_values", ())]
    own = getattr(layer, "values", None)
    if isinstance(own, Tensor) and own.dim() == 4 and own.numel():
        parts.append(own)
    return torch.cat(parts, dim=-2) if parts else None
