"""The reference: what transformers itself shows of a prompt. It knows nothing of attnlens.

The processor's own prompt, one eager forward of all of it with `output_attentions=True`, forward hooks on the Q-Former,
and `torch.autograd.grad`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tests import tiny

Array = NDArray[np.float32]


@functools.cache
def reference_model(family: tiny.Family) -> tuple[Any, Any]:
    model, processor = tiny.build(family)
    model.set_attn_implementation("eager")
    return model, processor


def prompt(family: tiny.Family, processor: Any, images: Sequence[Image.Image], question: str) -> dict[str, Any]:
    """The whole prompt, as a user of transformers builds it."""
    if family == "instructblip":
        inputs = dict(processor(images=images, text=f"Question: {question} Short answer:", return_tensors="pt"))
        queries = inputs["input_ids"][:, : tiny.QUERIES].repeat(1, len(images) - 1)
        inputs["input_ids"] = torch.cat([queries, inputs["input_ids"]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for key in ("qformer_input_ids", "qformer_attention_mask"):
            inputs[key] = inputs[key].repeat(len(images), 1)
        return inputs
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(images=list(images), text=text, return_tensors="pt"))


@dataclass(frozen=True)
class Reference:
    """What one full forward and its gradients say."""

    ids: list[int]
    top_token: int
    log_prob: float
    attention: Array
    attention_gradient: Array
    connector: Array | None
    connector_gradient: Array | None
    pixel_gradient: list[Array]


def reference(family: tiny.Family, images: Sequence[Image.Image], question: str) -> Reference:
    return _reference(family, tuple((image.size, image.tobytes()) for image in images), question)


@functools.cache
def _reference(family: tiny.Family, raw: tuple[tuple[tuple[int, int], bytes], ...], question: str) -> Reference:
    images = [Image.frombytes("RGB", size, pixels) for size, pixels in raw]
    model, processor = reference_model(family)
    inputs = prompt(family, processor, images, question)
    pixels = inputs["pixel_values"].requires_grad_()
    connector: list[torch.Tensor] = []
    hooks = []
    if family == "instructblip":
        crossing = [layer.crossattention for layer in model.qformer.encoder.layer if hasattr(layer, "crossattention")]
        assert len(crossing) == 2
        hooks = [m.attention.register_forward_hook(lambda _, __, out: connector.append(out[1])) for m in crossing]
    out = model(**inputs, output_attentions=True)
    for hook in hooks:
        hook.remove()
    attentions = list(out.language_model_outputs.attentions if family == "instructblip" else out.attentions)
    log_probs = out.logits[0, -1].float().log_softmax(dim=-1)
    top = int(log_probs.argmax())
    gradients = torch.autograd.grad(log_probs[top], [*attentions, *connector, pixels])
    image_tokens = inputs["input_ids"][0] == model.config.image_token_id

    def rows(tensors: Sequence[torch.Tensor]) -> Array:
        """[1, heads, tokens, tokens] of each layer: the last token's row, at the image tokens."""
        return torch.stack([tensor[0, :, -1, image_tokens] for tensor in tensors]).detach().numpy()

    def patches(tensors: Sequence[torch.Tensor]) -> Array | None:
        """[images, heads, queries, CLS + patches] of each layer: without CLS, one image's queries after the other's."""
        layers = [torch.cat([image[:, :, 1:] for image in tensor], dim=1) for tensor in tensors]
        return torch.stack(layers).detach().numpy() if layers else None

    count = len(attentions)
    return Reference(
        ids=inputs["input_ids"][0].tolist(),
        top_token=top,
        log_prob=float(log_probs[top]),
        attention=rows(attentions),
        attention_gradient=rows(gradients[:count]),
        connector=patches(connector),
        connector_gradient=patches(gradients[count:-1]),
        pixel_gradient=canvases(gradients[-1], inputs),
    )


def canvases(gradient: torch.Tensor, inputs: dict[str, Any]) -> list[Array]:
    """The gradient of `pixel_values` as one [channels, height, width] for each image, patch by patch."""
    if "image_grid_thw" not in inputs:
        return [image.numpy() for image in gradient]
    found, number = [], 0
    for _, rows, cols in inputs["image_grid_thw"].tolist():
        canvas = np.zeros((3, rows * 14, cols * 14), dtype=np.float32)
        for top in range(0, rows, 2):
            for left in range(0, cols, 2):
                for row, col in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                    frames = gradient[number].reshape(3, 2, 14, 14)  # an image fills both frames: a pixel counts twice
                    canvas[:, 14 * row : 14 * row + 14, 14 * col : 14 * col + 14] = frames.sum(dim=1).numpy()
                    number += 1
        found.append(canvas)
    return found


def generated(
    family: tiny.Family, model: Any, processor: Any, images: Sequence[Image.Image], question: str
) -> tuple[int, ...]:
    """The eight tokens that `model.generate` appends to the prompt, or fewer."""
    inputs = prompt(family, processor, images, question)
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=8)[0].tolist()
    assert tokens[: inputs["input_ids"].shape[1]] == inputs["input_ids"][0].tolist()
    return tuple(tokens[inputs["input_ids"].shape[1] :])
