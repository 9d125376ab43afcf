"""What a model says to a text alone, without any image.

Some methods have the model itself name what a question is about before it looks (FOCUS, arXiv 2506.21710, step I).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnlens.errors import AttnLensError, first_line
from attnlens.lens._host import Host
from attnlens.lens._model.exclusive import exclusive
from attnlens.lens._model.generator import check_new_tokens, generate


def generate_text(host: Host, text: str, max_new_tokens: int = 64) -> str:
    """As `Lens.generate_text` says."""
    check_new_tokens(max_new_tokens)
    with exclusive(host.model):
        return _generated(host, text, max_new_tokens)


def _generated(host: Host, text: str, max_new_tokens: int) -> str:
    model = host.generator.model
    ids = _prompt(host, text).to(model.device)
    _check(host, ids, max_new_tokens)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        tokens, _ = generate(model, model, host.tokenizer, inputs, max_new_tokens)
    except (ValueError, TypeError) as error:
        raise AttnLensError(
            f"{type(model).__name__} does not answer a prompt without an image: {first_line(error)} Ask it about an "
            "image: lens.read(image).answer(...)."
        ) from error
    host.meter.forward()
    return str(host.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _prompt(host: Host, text: str) -> Tensor:
    """int64 [1, tokens]."""
    if not isinstance(text, str) or not text.strip():
        raise AttnLensError(f"The text is {text!r}; expected some words for the model to reply to.")
    prompt = host.prompter.text(0, text)
    made: dict[str, Any] = host.tokenizer(prompt, return_tensors="pt", **host.prompter.special_tokens(prompt))
    return made["input_ids"]


def _check(host: Host, ids: Tensor, max_new_tokens: int) -> None:
    if bool((ids == host.structure.image_token_id).any()):
        raise AttnLensError(
            f"The prompt {host.tokenizer.decode(ids[0])!r} holds an image token, and no image is given. Take it out of "
            "the text, or out of the template, which should write one only for an image."
        )
    host.check_context(ids.shape[1] + max_new_tokens)
