"""Attention whose weights are returned, under any implementation.

transformers hands back attention weights under `eager` only, and eager keeps every matrix of every layer. These
functions are registered with its attention interface instead:

- `attnlens_rows` for a language model: SDPA for all queries but the last, whose row alone is computed by the
  model's own eager function. Where soft-capping, sinks or a position bias rule SDPA out, that function computes the
  others too, a few queries at a time, and what it makes of them is dropped. Weights: [batch, heads, 1, keys]. A mask
  that is missing is an error, but in attention beside that which is looked at, where it says that it needs none.
- `attnlens_cross_attention_rows`: the same where the model also has cross-attention, whose queries may see every key.
- `attnlens_eager` for a connector: the model's own eager function for all queries.
- `attnlens_chosen`: one of these for what the model goes on with, and beside it the rows of any queries that are
  chosen, such as some words of the question, by the model's own eager function.

All leave out the keys that a model's indexer leaves out, where it has sparse attention. All begin the autograd graph
by themselves where gradients are on and nothing before them requires any, so that parameters may stay frozen. What they
compute eagerly of a model in float16 or bfloat16 they compute in float32, as SDPA does inside: scores above 65,504,
which eager attention loses in float16, are real. They are switched on for a stretch of work and off again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from attnlens._upstream import (
    attention_implementation,
    eager_attention,
    eager_mask,
    sdpa_mask,
    set_attention_implementation,
)
from attnlens.errors import AttnLensError

_Forward = Callable[..., tuple[Tensor, Any]]
_EAGER_ONLY = ("softcap", "s_aux", "sinks", "position_bias")  # what SDPA leaves out without a word
_CHUNK = 128  # queries at a time where SDPA is ruled out: of a prompt of 4,096 tokens, 1/32 of the matrix of a layer
_TOLERATED = 0.5  # of a score that rounding has changed: weights by a factor of 1.6

ROWS = "attnlens_rows"
CROSS_ATTENTION_ROWS = "attnlens_cross_attention_rows"
EAGER = "attnlens_eager"
CUT = "attnlens_cut"
CHOSEN = "attnlens_chosen"


class _Now(threading.local):
    """What this thread looks at; other threads may look into other models."""

    def __init__(self) -> None:
        self.modules: set[int] = set()
        """The ids of what `implementation` runs at the moment; others share their config, and so its name."""
        self.forward: _Forward | None = None
        """What CUT and CHOSEN stand for at the moment."""


_now = _Now()


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
            attention_mask = _narrowed(attention_mask, seen)
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


def _narrowed(mask: Tensor | None, seen: Tensor) -> Tensor:
    """`mask`, boolean or additive, where `seen` is true; elsewhere nothing is looked at."""
    if mask is None or mask.dtype == torch.bool:
        return seen if mask is None else mask & seen
    return mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


def rooted(query: Tensor) -> Tensor:
    """`query`, as the start of the graph if gradients are wanted and none has begun."""
    if torch.is_grad_enabled() and not query.requires_grad:
        return query.detach().requires_grad_()
    return query


@_without_unindexed
def _eager_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    return _eager(module, rooted(query), key, value, attention_mask, kwargs)


def _eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    kwargs: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """What the model's own eager function gives, computed in float32 at least: output as `query`, and weights."""
    precise = torch.promote_types(query.dtype, torch.float32)
    mask = _additive(attention_mask, precise)
    wide = query.to(precise), key.to(precise), value.to(precise)
    output, weights = eager_attention(module)(module, *wide, mask, **kwargs)
    if query.dtype == torch.float16:
        _check_float16(module, *wide[:2], weights, kwargs.get("scaling"))
    return output.to(query.dtype), weights


@torch.no_grad()
def _check_float16(module: nn.Module, query: Tensor, key: Tensor, weights: Tensor, scaling: float | None) -> None:
    """Raises AttnLensError where scores leave float16, and its rounding of queries and keys decides who is looked at.

    Each number is rounded by a relative error that is uniform within 2^-11: of standard deviation 2^-11 / sqrt(3).
    """

    def products(query: Tensor, key: Tensor) -> Tensor:
        groups = query.unflatten(1, (key.shape[1], -1))
        return (groups @ key[:, :, None].transpose(-1, -2)).flatten(1, 2)

    largest = float(products(query, key).abs().max())
    if largest <= torch.finfo(torch.float16).max:
        return
    spread = products(query.square(), key.square()).sqrt() * 2**-11 * (2 / 3) ** 0.5
    off = float((weights * spread).sum(-1).mean()) * (scaling or query.shape[-1] ** -0.5)
    if off > _TOLERATED:
        raise AttnLensError(
            f"{type(module).__name__} has attention scores up to {largest:,.0f} before scaling, which float16 cannot "
            f"hold, and its rounding of queries and keys puts them off by {off:.1f} after scaling: the map would be "
            'noise. Load the model with dtype="float32".'
        )


@_without_unindexed
def _rows_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    if attention_mask is None and query.shape[2] > 1 and not _needs_no_mask(module, kwargs.get("is_causal")):
        raise AttnLensError(
            f"{type(module).__name__} built no attention mask for the implementation {ROWS!r}: transformers' mask "
            "interface was bypassed, and the rows would be wrong. State language_model: {strategy: eager}."
        )
    return _cross_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _needs_no_mask(module: nn.Module, is_causal: bool | None) -> bool:
    """Whether every query of this attention may see every key: it says that it is not causal, and is not looked at.

    Inkling 2 mixes the states of earlier blocks so, each token by itself. Self-attention over the prompt has a mask
    even where its image tokens see each other, so that of the modules looked at is never to be missing.
    """
    said = getattr(module, "is_causal", None) if is_causal is None else is_causal
    return said is False and id(module) not in _now.modules


@_without_unindexed
def _cross_attention_forward(
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
    mask = _rows_of(attention_mask, rows)
    return _eager(module, query[:, :, rows], key, value, mask, {**kwargs, **own})


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


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What eager attention adds to its scores of that dtype: 0 where a boolean mask is true."""
    if mask is None or mask.dtype == dtype:
        return mask
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
    hidden = mask <= torch.finfo(mask.dtype).min  # the least of a narrower dtype hides nothing from large scores
    return mask.to(dtype).masked_fill(hidden, torch.finfo(dtype).min)


def _rows_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """SDPA's boolean mask [batch, 1, queries, keys], always written out: a `None` would hide the causal triangle."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


@_without_unindexed
def _current_forward(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
    if _now.forward is None:
        raise AttnLensError(
            f"{type(module).__name__} runs under an attention implementation of attnlens outside of a look. Load the "
            "model anew; if it happens again, a config is shared with a model in another thread."
        )
    return _now.forward(module, *args, **kwargs)


@contextmanager
def _running(modules: Iterable[Any], name: str, forward: _Forward) -> Iterator[None]:
    """Run `modules` under CUT or CHOSEN, which stands for `forward` in here."""
    before, _now.forward = _now.forward, forward
    try:
        with implementation(modules, name):
            yield
    finally:
        _now.forward = before


AttentionInterface.register(ROWS, _rows_forward)
AttentionInterface.register(CROSS_ATTENTION_ROWS, _cross_attention_forward)
AttentionInterface.register(EAGER, _eager_forward)
AttentionInterface.register(CUT, _current_forward)
AttentionInterface.register(CHOSEN, _current_forward)
AttentionMaskInterface.register(ROWS, _rows_mask)
AttentionMaskInterface.register(CROSS_ATTENTION_ROWS, _rows_mask)
AttentionMaskInterface.register(EAGER, eager_mask)
AttentionMaskInterface.register(CUT, _rows_mask)
AttentionMaskInterface.register(CHOSEN, _rows_mask)


@contextmanager
def implementation(modules: Iterable[Any], name: str) -> Iterator[None]:
    """Run the attention of `modules`, and of what is in them, under the implementation `name`, then as before."""
    parts = [part for module in modules for part in module.modules()]
    owners = [part for part in parts if isinstance(getattr(part, "config", None), PreTrainedConfig)]
    configs = {id(part.config): part.config for part in owners}.values()
    before = [(config, attention_implementation(config)) for config in configs]
    new = {id(part) for part in parts} - _now.modules
    try:
        _now.modules.update(new)
        for config in configs:
            set_attention_implementation(config, name)
        yield
    finally:
        _now.modules.difference_update(new)
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

    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        seen = torch.ones(1, 1, 1, key.shape[-2], dtype=torch.bool, device=key.device)
        if id(module) in inside:
            seen[..., list(columns)] = False
        return _eager(module, query, key, value, _narrowed(attention_mask, seen), kwargs)

    with _running(modules, CUT, forward):
        yield


@contextmanager
def chosen(modules: Iterable[Any], queries: Sequence[int], how: str, connector: Iterable[Any] = ()) -> Iterator[None]:
    """Run `modules` under the implementation `how`, their weights being those of `queries` alone.

    `queries` are counted from the end, -1 the last. Weights: [batch, heads, queries, keys], without a graph. Where
    `connector` shares their config (Kosmos-2's does), its weights are returned, and anything else under `how`.
    """
    modules, wanted = list(modules), list(queries)
    inside, connecting = _parts(modules), _parts(connector)

    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        if id(module) in connecting:
            return _eager_forward(module, query, key, value, attention_mask, **kwargs)
        output, weights = AttentionInterface()[how](module, query, key, value, attention_mask, **kwargs)
        if id(module) not in inside:
            return output, None
        if weights.shape[2] == query.shape[2]:  # `how` computes all rows
            return output, weights[:, :, wanted].detach()
        with torch.no_grad():
            return output, _eager_rows(module, query, key, value, attention_mask, wanted, kwargs)[1]

    with _running(modules, CHOSEN, forward):
        yield


def no_gradient(model: nn.Module, why: str) -> AttnLensError:
    """The error for a model through which no gradient passes."""
    return AttnLensError(
        f"No gradient passes through this {type(model).__name__}: {why}. Use a map without gradients, such as "
        "relative_attention, or load the model unquantised and outside of inference mode."
    )


def _check_gradients(model: nn.Module) -> None:
    """torch's quantised layers put out what has no gradient; beside them others go on, and the sum would be wrong."""
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized"):
            raise no_gradient(model, f"{name} is a {type(module).__name__} of {type(module).__module__}")
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise no_gradient(model, f"{name} was made under torch.inference_mode()")


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient in here; afterwards each is as it was. Raises AttnLensError where a gradient
    could not pass, or not everywhere."""
    _check_gradients(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
