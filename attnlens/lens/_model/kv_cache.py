"""KV caches that share what they have in common.

A reading's prefix is kept; every question, crop and answer grows from it. A branch shares the keys and values of the
tokens so far and holds only its own beside them, so that a hundred questions on one image cost a hundred tails.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from attnlens._upstream import CacheLayerMixin, DynamicLayer, OwnCacheLayer


class SharedLayer(OwnCacheLayer):
    """A cache layer whose first tokens belong to others: `keys` and `values` hold only what was added here."""

    def __init__(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.shared_keys, self.shared_values = keys, values
        self.lazy_initialization(keys[0], values[0])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens; all keys and all values, [batch, heads, tokens, width], are put together for this call alone."""
        super().update(key_states, value_states, *args, **kwargs)
        return torch.cat([*self.shared_keys, self.keys], dim=-2), torch.cat([*self.shared_values, self.values], dim=-2)

    def get_seq_length(self) -> int:
        return sum(part.shape[-2] for part in self.shared_keys) + int(super().get_seq_length())


_PLAIN = (DynamicLayer, SharedLayer)


def new_cache(model: Any) -> DynamicCache:
    """An empty cache for a generating model."""
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def can_be_cut(cache: DynamicCache) -> bool:
    """Whether its last tokens can be left out again: of plain keys and values, not of a window or a state."""
    return all(type(layer) in _PLAIN for layer in cache.layers)


def branch(cache: DynamicCache, stop: int | None = None) -> DynamicCache:
    """A cache that grows on its own from where `cache` stands, or from its token `stop`; neither sees what the other
    adds. Whatever graph made the keys and values is left behind."""
    twin = copy.copy(cache)
    twin.layers = [_branched(layer, stop) for layer in cache.layers]
    return twin


def _branched(layer: CacheLayerMixin, stop: int | None) -> CacheLayerMixin:
    if type(layer) not in _PLAIN or not layer.is_initialized:
        return copy.deepcopy(layer)  # sliding windows and recurrent states may be written in place
    keys, values = getattr(layer, "shared_keys", ()), getattr(layer, "shared_values", ())
    if layer.keys.numel():
        keys, values = (*keys, layer.keys.detach()), (*values, layer.values.detach())
    return SharedLayer(_first(keys, stop), _first(values, stop))


def _first(parts: tuple[Tensor, ...], stop: int | None) -> tuple[Tensor, ...]:
    """The first `stop` tokens of parts that follow each other, as views."""
    if stop is None:
        return parts
    found = []
    for part in parts:
        found.append(part[..., :stop, :])
        stop -= found[-1].shape[-2]
        if stop == 0:
            break
    return tuple(found)
