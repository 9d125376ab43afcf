"""Attention in the open: attention functions whose weights can be seen, under any implementation.

transformers hands back attention weights under `eager` only, and eager keeps every matrix of every layer. These
functions are registered with its attention interface instead:

- `attnlens_rows` for a language model: SDPA for all queries but the last, whose row alone is computed by the
  model's own eager function. Where soft-capping, sinks or a position bias rule SDPA out, that function computes the
  others too, a few queries at a time, and what it makes of them is dropped. Weights: [batch, heads, 1, keys]. A mask
  that is missing is an error, but in attention beside that which is looked at, where it says that it needs none.
- `attnlens_crossing_rows`: the same where the model also has cross-attention, whose every query may see every key.
- `attnlens_open` for a connector: the model's own eager function for all queries.
- `attnlens_chosen`: one of these for what the model goes on with, and beside it the rows of any queries that are
  chosen, such as some words of the question, by the model's own eager function.

All leave out the keys that a model's indexer leaves out, where it has sparse attention. All begin the autograd graph
by themselves where gradients are on and nothing before them requires any, so that parameters may stay frozen. They are
switched on for a stretch of work and off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from attnlens.errors import AttnLensError
from attnlens.upstream import (
    attention_implementation,
    eager_attention,
    eager_mask,
    sdpa_mask,
    set_attention_implementation,
)

_Forward = Callable[..., tuple[Tensor, Any]]
_EAGER_ONLY = ("softcap", "s_aux", "sinks", "position_bias")  # what SDPA leaves out without a word
_CHUNK = 128  # queries at a time where SDPA is ruled out: of a prompt of 4,096 tokens, 1/32 of the matrix of a layer

ROWS = "attnlens_rows"
CROSSING_ROWS = "attnlens_crossing_rows"
OPEN = "attnlens_open"
CUT = "attnlens_cut"
CHOSEN = "attnlens_chosen"

_looked_at: set[int] = set()
"""The modules that `implementation` runs at the moment, as ids; others share their config, and so its name."""


def _without_unindexed(forward: _Forward) -> _Forward:
    """`forward`, its mask without the keys that the model's indexer has not chosen.

    Models with sparse attention write that choice into the mask under eager and SDPA alone. To any other implementation
    they hand it beside the mask, as `indices` of keys [batch, queries, chosen] or as `block_indices` of blocks of them.
    """

    @wraps(forward)
    def masked(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        indices, blocks = kwargs.pop("indices", None), kwargs.pop("block_indices", None)
        if indices is not None:
            size = (*indices.shape[:2], key.shape[2])
            seen = torch.zeros(size, dtype=torch.bool, device=key.device).scatter(-1, indices.long(), True)[:, None]
            attention_mask = _narrowed(attention_mask, seen, query)
        if blocks is not None:
            positions = kwargs.get("position_ids")
            if positions is None:
                positions = torch.arange(key.shape[2] - query.shape[2], key.shape[2], device=key.device)
            positions = (positions if positions.ndim > 1 else positions[None]).expand(query.shape[0], -1)
            indexer: Any = module.indexer
            attention_mask = indexer.build_block_mask(
                blocks, attention_mask, key.shape[2], query.dtype, query.device, positions
            )
        return forward(module, query, key, value, attention_mask, **kwargs)

    return masked


def _narrowed(mask: Tensor | None, seen: Tensor, query: Tensor) -> Tensor:
    """`mask`, boolean or additive, where `seen` is true; elsewhere nothing is looked at."""
    if mask is None or mask.dtype == torch.bool:
        return seen if mask is None else mask & seen
    return mask.masked_fill(~seen, torch.finfo(query.dtype).min)


def rooted(query: Tensor) -> Tensor:
    """`query`, as the start of the graph if gradients are wanted and none has begun."""
    if torch.is_grad_enabled() and not query.requires_grad:
        return query.detach().requires_grad_()
    return query


@_without_unindexed
def _open_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    query = rooted(query)
    return eager_attention(module)(module, query, key, value, _additive(attention_mask, query), **kwargs)


@_without_unindexed
def _rows_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    if attention_mask is None and query.shape[2] > 1 and not _needs_no_mask(module, kwargs.get("is_causal")):
        raise AttnLensError(
            f"{type(module).__name__} built no attention mask for the implementation {ROWS!r}: transformers' mask "
            "interface was bypassed, and the rows would be wrong. State language_model: {strategy: eager}."
        )
    return _crossing_forward(module, query, key, value, attention_mask, **kwargs)


def _needs_no_mask(module: nn.Module, is_causal: bool | None) -> bool:
    """Whether every query of this attention may see every key: it says that it is not causal, and is not looked at.

    Inkling 2 mixes the states of earlier blocks so, each token by itself. Self-attention over the prompt has a mask
    even where its image tokens see each other, so that of the modules looked at is never to be missing.
    """
    said = getattr(module, "is_causal", None) if is_causal is None else is_causal
    return said is False and id(module) not in _looked_at


@_without_unindexed
def _crossing_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    query = rooted(query)
    last = slice(query.shape[2] - 1, None)
    output, weights = _eager_rows(module, query, key, value, attention_mask, last, kwargs)
    if query.shape[2] == 1:
        return output, weights
    if any(kwargs.get(name) is not None for name in _EAGER_ONLY):
        before = _in_chunks(module, query, key, value, attention_mask, kwargs)
    else:
        mask, arguments = _rows_of(attention_mask, slice(-1)), kwargs | {"is_causal": False}
        before = [AttentionInterface()["sdpa"](module, query[:, :, :-1], key, value, mask, **arguments)[0]]
    return torch.cat([*before, output], dim=1), weights


def _eager_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    rows: slice | list[int],
    kwargs: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """What the model's own eager function gives for these rows of `query` alone."""
    own = {name: kwargs[name][:, :, rows] for name in _EAGER_ONLY if _has_rows(kwargs.get(name), query.shape[2])}
    mask = _additive(_rows_of(attention_mask, rows), query)
    return eager_attention(module)(module, query[:, :, rows], key, value, mask, **{**kwargs, **own})


def _has_rows(value: Any, queries: int) -> bool:
    """Is it [batch, heads, queries, ...], as a position bias is, and the sinks of each query (Inkling 2)?"""
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == queries


def _in_chunks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    kwargs: Mapping[str, Any],
) -> list[Tensor]:
    """The output of all queries but the last by the eager function; of its weights, a chunk is there at a time.

    With gradients too: the graph keeps what goes into a chunk, and computes its weights again on the way back.
    """

    def output(query: Tensor, key: Tensor, value: Tensor, rows: slice) -> Tensor:
        return _eager_rows(module, query, key, value, attention_mask, rows, kwargs)[0]

    starts = range(0, query.shape[2] - 1, _CHUNK)
    chunks = [slice(start, min(start + _CHUNK, query.shape[2] - 1)) for start in starts]
    return [checkpoint(output, query, key, value, rows, use_reentrant=False) for rows in chunks]


def _rows_of(mask: Tensor | None, rows: slice | list[int]) -> Tensor | None:
    return mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """What eager attention adds to its scores: 0 where a boolean mask is true."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.finfo(query.dtype).min).to(query.dtype)


def _rows_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """SDPA's boolean mask [batch, 1, queries, keys], always written out: a `None` would hide the causal triangle."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(ROWS, _rows_forward)
AttentionInterface.register(CROSSING_ROWS, _crossing_forward)
AttentionInterface.register(OPEN, _open_forward)
AttentionMaskInterface.register(ROWS, _rows_mask)
AttentionMaskInterface.register(CROSSING_ROWS, _rows_mask)
AttentionMaskInterface.register(OPEN, eager_mask)
AttentionMaskInterface.register(CUT, _rows_mask)
AttentionMaskInterface.register(CHOSEN, _rows_mask)


@contextmanager
def implementation(modules: Iterable[Any], name: str) -> Iterator[None]:
    """Run the attention of `modules`, and of what is in them, under the implementation `name`, then as before."""
    parts = [part for module in modules for part in module.modules()]
    owners = [part for part in parts if isinstance(getattr(part, "config", None), PreTrainedConfig)]
    configs = {id(part.config): part.config for part in owners}.values()
    before = [(config, attention_implementation(config)) for config in configs]
    new = {id(part) for part in parts} - _looked_at
    try:
        _looked_at.update(new)
        for config in configs:
            set_attention_implementation(config, name)
        yield
    finally:
        _looked_at.difference_update(new)
        for config, previous in before:
            set_attention_implementation(config, previous)


def _parts(modules: Iterable[Any]) -> set[int]:
    """Which module is one of these, or in one; others may share their config, and with it the implementation."""
    return {id(part) for module in modules for part in module.modules()}


@contextmanager
def cut(modules: Iterable[Any], columns: Sequence[int]) -> Iterator[None]:
    """Run `modules` so that no query looks at the keys in `columns`: what depends on them shows in the logits."""
    modules = list(modules)
    inside = _parts(modules)

    @_without_unindexed
    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        blind = query.new_zeros(1, 1, 1, key.shape[-2])
        if id(module) in inside:
            blind[..., list(columns)] = torch.finfo(query.dtype).min
        mask = _additive(attention_mask, query)
        return eager_attention(module)(module, query, key, value, blind if mask is None else mask + blind, **kwargs)

    AttentionInterface.register(CUT, forward)
    with implementation(modules, CUT):
        yield


@contextmanager
def chosen(modules: Iterable[Any], queries: Sequence[int], how: str, connector: Iterable[Any] = ()) -> Iterator[None]:
    """Run `modules` under the implementation `how`, their weights being those of `queries` alone.

    `queries` are counted from the end, -1 the last. Weights: [batch, heads, queries, keys], without a graph. Where
    `connector` shares their config (Kosmos-2's does), it runs in the open, and anything else under `how`.
    """
    modules, wanted = list(modules), list(queries)
    inside, connecting = _parts(modules), _parts(connector)

    @_without_unindexed
    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        if id(module) in connecting:
            return _open_forward(module, query, key, value, attention_mask, **kwargs)
        output, weights = AttentionInterface()[how](module, query, key, value, attention_mask, **kwargs)
        if id(module) not in inside:
            return output, None
        if weights.shape[2] == query.shape[2]:  # `how` computes all rows
            return output, weights[:, :, wanted].detach()
        with torch.no_grad():
            return output, _eager_rows(module, query, key, value, attention_mask, wanted, kwargs)[1]

    AttentionInterface.register(CHOSEN, forward)
    with implementation(modules, CHOSEN):
        yield


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
