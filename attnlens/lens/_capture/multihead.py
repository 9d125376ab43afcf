"""torch's own nn.MultiheadAttention, its weights returned, for the connectors that are built on it (Aria).

The weights that it hands back are averaged over the heads and lie off the graph: nothing that follows reads them. In
`with_weights`, such a module computes its attention plainly, with its own parameters: the same output, and as second
value each head's weights, [batch, heads, queries, keys], on the way from the queries to the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attnlens.errors import AttnLensError
from attnlens.lens._capture.attention import rooted


@contextmanager
def with_weights(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Those of `modules` that are nn.MultiheadAttention, with their weights returned; the others are left alone.

    Raises AttnLensError for one of another width for keys than for queries, or with keys of its own.
    """
    chosen = [module for module in modules if isinstance(module, nn.MultiheadAttention)]
    for module in chosen:
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise AttnLensError(
                "An nn.MultiheadAttention is read where queries, keys and values are of one width and it adds no keys. "
                f"This one is not: {module}. Leave `connector` out of the adapter."
            )
    if not chosen:
        yield
        return
    with _Plainly(chosen):
        yield


class _Plainly(TorchFunctionMode):
    """Takes the place of the function behind nn.MultiheadAttention: the module's `forward` is not ours to replace,
    nnsight holds on to it."""

    def __init__(self, modules: Iterable[nn.MultiheadAttention]) -> None:
        super().__init__()
        self._chosen = {id(module.in_proj_weight) for module in modules}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        ours = func is functional.multi_head_attention_forward and id(args[5]) in self._chosen
        return (_attention if ours else func)(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor,
    in_bias: Tensor | None,
    bias_k: None,
    bias_v: None,
    add_zero_attn: bool,
    dropout: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    *,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """As torch's multi_head_attention_forward, [tokens, batch, width]; masks are added to the scores."""
    biases = (None, None, None) if in_bias is None else in_bias.chunk(3)
    queries, keys, values = (
        rearrange(functional.linear(states, weight, bias), "t b (heads width) -> b heads t width", heads=heads)
        for states, weight, bias in zip((query, key, value), in_weight.chunk(3), biases, strict=True)
    )
    precise = torch.promote_types(queries.dtype, torch.float32)  # scores of float16 may leave it
    scores = rooted(queries).to(precise) @ keys.to(precise).transpose(-1, -2) * queries.shape[-1] ** -0.5
    if attn_mask is not None:  # [queries, keys], or [batch * heads, queries, keys]
        scores = scores + (attn_mask.view_as(scores) if attn_mask.dim() == 3 else attn_mask)
    if key_padding_mask is not None:  # [batch, keys]
        scores = scores + key_padding_mask[:, None, None]
    weights = scores.softmax(-1)
    output = rearrange((weights @ values.to(precise)).to(values.dtype), "b heads t width -> t b (heads width)")
    return functional.linear(output, out_weight, out_bias), weights
