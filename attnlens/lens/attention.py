"""Attention in the open: two attention functions whose weights can be seen, under any implementation.

transformers hands back attention weights under `eager` only, and eager keeps every matrix of every layer. Two
functions are registered with its attention interface instead:

- `attnlens_rows` for a language model: SDPA for all queries but the last, whose row alone is computed by the
  model's own eager function (so soft-capping and sinks stay the model's). Weights: [batch, heads, 1, keys].
- `attnlens_open` for a connector: the model's own eager function for all queries.

Both begin the autograd graph by themselves where gradients are on and nothing before them requires any, so that
parameters may stay frozen. They are switched on for a stretch of work and off again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask

from attnlens.errors import AttnLensError

ROWS = "attnlens_rows"
OPEN = "attnlens_open"


def _eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    """The eager attention of the file that `module`'s class was written in."""
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise AttnLensError(
        f"{type(module).__module__} has no eager_attention_forward, so the attention weights of "
        f"{type(module).__name__} cannot be computed. Use a model written for transformers' attention interface."
    )


def _rooted(query: Tensor) -> Tensor:
    """`query`, as the start of the graph if gradients are wanted and none has begun."""
    if torch.is_grad_enabled() and not query.requires_grad:
        return query.detach().requires_grad_()
    return query


def _open_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    return _eager_function(module)(module, _rooted(query), key, value, attention_mask, **kwargs)


def _rows_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    if attention_mask is None:
        raise AttnLensError(
            f"{type(module).__name__} built no attention mask for the implementation {ROWS!r}: transformers' mask "
            "interface was bypassed, and the rows would be wrong. This model needs the eager implementation."
        )
    query = _rooted(query)
    last = torch.where(attention_mask[:, :, -1:], 0.0, torch.finfo(query.dtype).min).to(query.dtype)
    out, weights = _eager_function(module)(module, query[:, :, -1:], key, value, last, **kwargs)
    if query.shape[2] > 1:
        sdpa = AttentionInterface()["sdpa"]
        kwargs = {**kwargs, "is_causal": False}
        before, _ = sdpa(module, query[:, :, :-1], key, value, attention_mask[:, :, :-1], **kwargs)
        out = torch.cat([before, out], dim=1)
    return out, weights


def _rows_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """SDPA's boolean mask [batch, 1, queries, keys], always written out: a `None` would hide the causal triangle."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(ROWS, _rows_forward)
AttentionInterface.register(OPEN, _open_forward)
AttentionMaskInterface.register(ROWS, _rows_mask)
AttentionMaskInterface.register(OPEN, eager_mask)


@contextmanager
def implementation(modules: Iterable[Any], name: str) -> Iterator[None]:
    """Run the attention of `modules` under the implementation `name`, then as before."""
    configs = {id(m.config): m.config for m in modules if hasattr(m, "config")}.values()
    before = [(config, config._attn_implementation) for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, previous in before:
            config._attn_implementation_internal = previous


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient in here; afterwards each is as it was."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
