"""What can be read off a model itself: which of its modules hold the attention that a map needs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from attnlens._upstream import recorders
from attnlens.adapters._schema import PromptSpec
from attnlens.lens._capture.attention import implementation
from attnlens.lens._inputs.batching import features_of

_QUESTION = {  # for connectors that read the question, too
    "qformer_input_ids": torch.ones(1, 4, dtype=torch.long),
    "qformer_attention_mask": torch.ones(1, 4, dtype=torch.long),
}
_SELF = re.compile(r".*\.\d+\.(self_attn|self_attention|attention)")
_CROSSING = re.compile(r".*\.\d+\.(cross_attn|cross_attention|crossattention)")


def attention_path(model: Any) -> str | None:
    """The language model's self-attention by name, where transformers does not record it; None where it does."""
    decoder = model.get_decoder()
    if recorders(decoder, "attentions"):
        return None
    return _pattern(path for path, _ in _inside(model, decoder) if _SELF.fullmatch(path))


def cross_attention_path(model: Any) -> str | None:
    """Cross-attention of the language model, or of layers between its own, by name."""
    vision = {id(part) for path, module in model.named_modules() if "vision" in path for part in module.modules()}
    outside = (path for path, module in model.named_modules() if id(module) not in vision)
    return _pattern(path for path in outside if _CROSSING.fullmatch(path) and "qformer" not in path)


def connector_path(model: Any, image_processor: Any, picture: Any) -> str | None:
    """Attention outside the language model whose rows sum to 1 and whose keys are others than its queries.

    Region in one eager run of `get_image_features`; None where there is no such module, or where that does not run.
    """
    seen: list[str] = []

    def look(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if not isinstance(weights, torch.Tensor) or weights.dim() not in (3, 4):
                return
            if weights.shape[-1] != weights.shape[-2] and torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-3):
                seen.append(path)

        return hook

    inside = {id(module) for module in model.get_decoder().modules()}
    for nested in (0, 1):
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(implementation([model], "eager"))
            for path, module in model.named_modules():
                if "Attention" in type(module).__name__ and id(module) not in inside:
                    stack.callback(module.register_forward_hook(look(path)).remove)
            try:
                made = image_processor([[picture]] if nested else [picture], return_tensors="pt")
                features = features_of(made, PromptSpec(image_axis=nested))
                accepted = inspect.signature(model.get_image_features).parameters
                given = features | _QUESTION
                model.get_image_features(**{key: value for key, value in given.items() if key in accepted})
            except Exception:  # noqa: BLE001 - a model may want its pixels in any other way
                continue
    return re.sub(r"\.\d+(?=\.|$)", ".*", seen[-1]) if seen else None


def _inside(model: Any, part: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    prefix = next(path for path, module in model.named_modules() if module is part)
    return ((path, module) for path, module in model.named_modules() if path.startswith(f"{prefix}."))


def _pattern(paths: Iterable[str]) -> str | None:
    """The first path, with * for the last of its numbers."""
    first = next(iter(paths), None)
    return None if first is None else re.sub(r"\.\d+\.(?!.*\.\d+\.)", ".*.", first)
