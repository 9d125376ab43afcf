"""One question about many images, each alone: prompts that are alike go through the model together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attnlens.errors import AttnLensError
from attnlens.lens.finite import check_log_probs
from attnlens.lens.joining import joined, on_device
from attnlens.lens.prompts import Prompt
from attnlens.lens.trace import Array
from attnlens.lens.weights import array

if TYPE_CHECKING:
    from attnlens.lens.reading import Reading


@torch.no_grad()
def next_tokens(readings: Sequence[Reading], question: str, size: int) -> Array:
    """log p of every token as the answer's first, for each reading: float32 [readings, vocabulary].

    All are of one lens and of one image each. Up to `size` prompts are a batch if all their inputs have the same
    shapes, so that nothing is padded: what comes out is what comes out of each alone. Every prompt counts as a pass.
    Raises AttnLensError where there is no reading.
    """
    if not readings:
        raise AttnLensError("There is no image to ask about: the list is empty. Give at least one.")
    prompts = [reading.prompt(question) for reading in readings]
    alone = [reading.lens.inputs(prompt) for reading, prompt in zip(readings, prompts, strict=True)]
    alike = defaultdict(list)
    for index, inputs in enumerate(alone):
        alike[_shapes(inputs)].append(index)
    found: dict[int, Array] = {}
    for members in alike.values():
        for start in range(0, len(members), size):
            chosen = members[start : start + size]
            log_probs = _together(readings[chosen[0]], [prompts[one] for one in chosen], [alone[one] for one in chosen])
            found |= dict(zip(chosen, array(log_probs), strict=True))
    return np.stack([found[index] for index in range(len(readings))])


def _together(reading: Reading, prompts: Sequence[Prompt], alone: Sequence[dict[str, Any]]) -> Tensor:
    """[prompts, vocabulary] of prompts whose inputs have the same shapes."""
    lens = reading.lens
    spec = lens.spec.prompt.model_copy(update={"image_axis": 0})  # an axis of prompts is what is joined along here
    images = joined([prompt.images[0].features for prompt in prompts], spec)
    inputs = {key: _stacked([one[key] for one in alone]) for key in alone[0] if key not in images}
    inputs |= on_device({key: value for key, value in images.items() if key in prompts[0].keys}, lens.model)
    if lens.generator.model is lens.model:
        positions = [lens.generator.positions(prompt) for prompt in prompts]
        if all(one is not None for one in positions):  # some models count images on through a batch
            inputs["position_ids"] = torch.cat([one for one in positions if one is not None], dim=-2)
    for prompt in prompts:
        lens.meter.forward(len(prompt.positions[0]))
    logits: Tensor = lens.model(**inputs).logits
    log_probs = logits[:, -1].float().log_softmax(-1)
    for prompt, own in zip(prompts, log_probs, strict=True):
        check_log_probs(lens, prompt, own)
    return log_probs


def _stacked(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else values[0]


def _shapes(inputs: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((key, tuple(value.shape)) for key, value in inputs.items() if isinstance(value, Tensor))
