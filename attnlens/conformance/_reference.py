"""What a model shows of a whole prompt in one eager pass with every matrix kept: what captures are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnlens.lens._capture import multihead
from attnlens.lens._capture.attention import implementation
from attnlens.lens._capture.tracer import Site


@dataclass(frozen=True)
class Reference:
    """The last row of each layer's attention, its gradient, and the logits it belongs to."""

    rows: list[Tensor]  # per language-model layer: [heads, keys]
    row_gradients: list[Tensor]
    connector: list[Tensor]  # per connector layer: [tiles, heads, queries, keys]
    connector_gradients: list[Tensor]
    logits: Tensor  # [vocabulary], at the last position


def reference(model: Any, inputs: Mapping[str, Any], attention: Sequence[Site], connector: Sequence[Site]) -> Reference:
    """One eager forward pass of `inputs`, hooks on the modules named, and torch.autograd.grad of log p(top token)."""
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen[site] = output[site.output]

        return hook

    with ExitStack() as stack:
        stack.enter_context(implementation([model], "eager"))
        for site in (*attention, *connector):
            handle = model.get_submodule(site.path).register_forward_hook(keep(site))
            stack.callback(handle.remove)
        # torch's own multi-head attention hands back no weights that are in its graph.
        stack.enter_context(multihead.with_weights(model.get_submodule(site.path) for site in connector))
        stack.enter_context(torch.enable_grad())
        logits = model(**inputs, output_attentions=True).logits[0, -1].float()
        kept = [seen[site] for site in (*attention, *connector)]
        gradients = torch.autograd.grad(logits.log_softmax(-1).max(), kept)
    rows, split = [weights[0, :, -1].detach() for weights in kept[: len(attention)]], len(attention)
    return Reference(
        rows=rows,
        row_gradients=[gradient[0, :, -1] for gradient in gradients[:split]],
        connector=[weights.detach() for weights in kept[split:]],
        connector_gradients=list(gradients[split:]),
        logits=logits.detach(),
    )
