"""Muon for the hidden matrices, Adam for the rest: one optimiser pair, one cosine schedule with a short warm-up."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable

import torch

HIDDEN = re.compile(r"(layers?|blocks)\.\d")
"""In the names of the parameters of a transformer's layers."""


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest half-orthogonal matrices of a batch [matrices, rows, cols], by the Newton-Schulz iteration of
    Muon."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; matrices of one shape are treated as one batch."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for (rows, cols), params in shapes.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * max(1.0, rows / cols) ** 0.5
                for p, update in zip(params, orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)


class Pair:
    """Muon on the hidden matrices of `modules`, Adam on everything else in them that wants a gradient."""

    def __init__(
        self, modules: Iterable[torch.nn.Module], steps: int, muon: float, adam: float, warmup: int = 50
    ) -> None:
        hidden: list[torch.nn.Parameter] = []
        rest: list[torch.nn.Parameter] = []
        for module in modules:
            for name, p in module.named_parameters():
                if p.requires_grad:
                    (hidden if p.ndim == 2 and HIDDEN.search(name) else rest).append(p)
        self.parameters = hidden + rest
        self.optimisers = [Muon(hidden, muon, weight_decay=0.05), torch.optim.Adam(rest, adam, betas=(0.9, 0.98))]
        self.rates = (muon, adam)
        self.steps, self.warmup, self.done = steps, warmup, 0

    def step(self) -> None:
        """Clip, update, clear the gradients, move along the schedule."""
        factor = min(1.0, (self.done + 1) / self.warmup) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.done / self.steps)))
        )
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.done += 1

    def state_dict(self) -> dict:
        return {"done": self.done, "optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}

    def load_state_dict(self, state: dict) -> None:
        self.done = state["done"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
