"""One question about many images, each alone: prompts that are alike go through the model together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnlens._checks import check_count
from attnlens.errors import AttnLensError
from attnlens.lens._capture.arrays import array
from attnlens.lens._host import Host
from attnlens.lens._inputs.batching import concat_images, on_device
from attnlens.lens._inputs.prompt import PreparedImage, Prompt
from attnlens.lens._model.exclusive import exclusive
from attnlens.lens._trace import Array


def next_tokens(host: Host, images: Sequence[Image.Image], question: str, batch: int) -> Array:
    """log p of every token as the answer's first, for each RGB image: float32 [images, vocabulary].

    Up to `batch` prompts go together if all their inputs have the same shapes, so that nothing is padded: what comes
    out is what comes out of each alone. Every prompt counts as a pass. Raises AttnLensError where there is no image.
    """
    check_count("batch", batch, "images")
    if not images:
        raise AttnLensError("There is no image to ask about: the list is empty. Give at least one.")
    with exclusive(host.model), torch.no_grad():
        prompts = [host.prompter.prompt([PreparedImage(image)], question) for image in images]
        host.check_context(max(prompt.length for prompt in prompts))
        alone = [host.inputs(prompt) for prompt in prompts]
        alike = defaultdict(list)
        for index, inputs in enumerate(alone):
            alike[_shapes(inputs)].append(index)
        found: dict[int, Array] = {}
        for members in alike.values():
            for start in range(0, len(members), batch):
                chosen = members[start : start + batch]
                log_probs = _together(host, [prompts[one] for one in chosen], [alone[one] for one in chosen])
                found |= dict(zip(chosen, array(log_probs), strict=True))
    return np.stack([found[index] for index in range(len(images))])


def _together(host: Host, prompts: Sequence[Prompt], alone: Sequence[dict[str, Any]]) -> Tensor:
    """[prompts, vocabulary] of prompts whose inputs have the same shapes."""
    spec = host.adapter.prompt.model_copy(update={"image_axis": 0})  # an axis of prompts is what is joined along here
    images = concat_images([prompt.images[0].features for prompt in prompts], spec)
    inputs = {key: _stacked([one[key] for one in alone]) for key in alone[0] if key not in images}
    inputs |= on_device({key: value for key, value in images.items() if key in prompts[0].vision_inputs}, host.model)
    if host.generator.model is host.model:
        positions = [host.generator.positions(prompt) for prompt in prompts]
        if all(one is not None for one in positions):  # some models count images on through a batch
            inputs["position_ids"] = torch.cat([one for one in positions if one is not None], dim=-2)
    for prompt in prompts:
        host.meter.forward(len(prompt.positions[0]))
    logits: Tensor = host.model(**inputs).logits
    log_probs = logits[:, -1].float().log_softmax(-1)
    for prompt, own in zip(prompts, log_probs, strict=True):
        host.check_log_probs(prompt, own)
    return log_probs


def _stacked(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else values[0]


def _shapes(inputs: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((key, tuple(value.shape)) for key, value in inputs.items() if isinstance(value, Tensor))
