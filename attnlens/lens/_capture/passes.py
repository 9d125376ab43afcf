"""The ways to see attention exactly and without an eager prefill: two for the last prompt token, one for any others.

A, replay: the last token alone, on the KV cache of all before it. Its rows reach the output through itself only, so
its own small graph gives the full graph's gradients. Least memory; what a shared prefix needs.
B, one pass: the whole prompt at once, SDPA for all but the last row (or eager code, chunk by chunk, where SDPA cannot).
Where image tokens depend on the question; the connector's attention and its gradients come out of the same pass, whose
whole graph they need.
Words: on the same cache or in the same one pass, the rows of chosen tokens, without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnlens.errors import first_line
from attnlens.lens._capture import multihead
from attnlens.lens._capture.attention import (
    CROSS_ATTENTION_ROWS,
    EAGER,
    ROWS,
    chosen,
    frozen,
    implementation,
    no_gradient,
)
from attnlens.lens._capture.tracer import Site, Tracer
from attnlens.lens._model.structure import Structure


@dataclass(frozen=True)
class Captured:
    """Weights as the modules put them out, gradients of log p(top token) beside them."""

    rows: list[Tensor]  # per language-model layer: [1, heads, 1, tokens]
    row_gradients: list[Tensor] | None
    connector: list[Tensor]  # per connector layer: [images, heads, queries, keys]
    connector_gradients: list[Tensor] | None
    top_token: int
    log_prob: float


Choose = Callable[[Tensor], int]
"""Which token is said, by the last logits, [vocabulary]."""


def replay(
    model: nn.Module, tracer: Tracer, structure: Structure, inputs: Mapping[str, Any], choose: Choose, gradients: bool
) -> Captured:
    """Capture A; `inputs` are those of the last token, with the cache of the tokens before it."""
    with _seeing(model, structure.attention, ROWS, (), gradients):
        output, rows = tracer.run(inputs, structure.attention)
        return _captured(model, output.logits, rows, [], choose, gradients)


def one_pass(
    model: nn.Module, tracer: Tracer, structure: Structure, inputs: Mapping[str, Any], choose: Choose, gradients: bool
) -> Captured:
    """Capture B; `inputs` are those of the whole prompt.

    Under the strategy eager, and in the decoder of an encoder-decoder, whose own prompt is a token or two, all rows are
    computed eagerly, and kept until the capture is made.
    """
    with _seeing(model, structure.attention, language_implementation(structure), structure.connector, gradients):
        output, weights = tracer.run(inputs, (*structure.connector, *structure.attention))
        split = len(structure.connector)
        return _captured(model, output.logits, weights[split:], weights[:split], choose, gradients)


def words(
    model: nn.Module,
    tracer: Tracer,
    structure: Structure,
    inputs: Mapping[str, Any],
    queries: Sequence[int],
    connector: Sequence[Site],
) -> tuple[list[Tensor], list[Tensor]]:
    """The rows of some tokens: per language-model layer [1, heads, words, keys]; and the weights of `connector`.

    `queries`: which tokens of `inputs`, counted from their end, -1 the last. `inputs` are those of the whole prompt, or
    of what follows a cache, in which no `connector` runs. Other rows are computed as in a prefill.
    """
    modules, connecting = (
        [model.get_submodule(site.path) for site in sites] for sites in (structure.attention, connector)
    )
    with (
        _seeing(model, (), EAGER, connector, gradients=False),
        chosen(modules, queries, language_implementation(structure), connecting),
    ):
        _, weights = tracer.run(inputs, (*connector, *structure.attention))
    return weights[len(connector) :], weights[: len(connector)]


def pixel_gradient(model: Any, inputs: Mapping[str, Any], pixels: Sequence[Tensor], choose: Choose) -> Sequence[Tensor]:
    """d log p(top token) / d each of `pixels`, which `inputs` were made from, through the whole model."""
    with frozen(model), torch.enable_grad():
        return slopes(model, _top(model(**inputs).logits, choose)[1], pixels)


def slopes(model: Any, value: Tensor, of: Sequence[Tensor]) -> Sequence[Tensor]:
    """d `value` / d each. Raises AttnLensError where no gradient passes through the model."""
    try:
        return torch.autograd.grad(value, list(of))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch's own words for a graph that is not there, or ends on the way
        raise no_gradient(model, first_line(error)) from error


def language_implementation(structure: Structure) -> str:
    """The implementation that a prompt runs under while its rows are looked at."""
    if structure.strategy == "eager":
        return EAGER
    return {"prompt": ROWS, "image": CROSS_ATTENTION_ROWS, "encoder": EAGER}[structure.attends_to]


def _captured(
    model: nn.Module, logits: Tensor, rows: list[Tensor], connector: list[Tensor], choose: Choose, gradients: bool
) -> Captured:
    token, log_prob = _top(logits, choose)
    found = slopes(model, log_prob, [*rows, *connector]) if gradients else ()
    return Captured(
        rows=[w.detach() for w in rows],
        row_gradients=list(found[: len(rows)]) if gradients else None,
        connector=[w.detach() for w in connector],
        connector_gradients=list(found[len(rows) :]) if gradients else None,
        top_token=token,
        log_prob=float(log_prob.detach()),
    )


def _top(logits: Tensor, choose: Choose) -> tuple[int, Tensor]:
    """t*, the token that is said after the last position, and log softmax(z)_t*."""
    last = logits[0, -1]
    token = choose(last.detach())
    return token, last.float().log_softmax(-1)[token]


@contextmanager
def _seeing(
    model: nn.Module, language: Sequence[Site], how: str, connector: Sequence[Site], gradients: bool
) -> Iterator[None]:
    """The language model's attention under the implementation `how`, the connector's eager, parameters frozen."""
    connecting = [model.get_submodule(site.path) for site in connector]
    with ExitStack() as stack:
        stack.enter_context(implementation([model.get_submodule(site.path) for site in language], how))
        if connecting:
            stack.enter_context(implementation(connecting, EAGER))
            stack.enter_context(multihead.with_weights(connecting))
        if gradients:
            stack.enter_context(frozen(model))
        stack.enter_context(torch.set_grad_enabled(gradients))
        yield
