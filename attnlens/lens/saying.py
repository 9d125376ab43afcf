"""What a model says to a text alone, without any image.

    say(lens, "Name three things that are red.")       # 'An apple, a rose and a fire engine.'

Some methods have the model itself name what a question is about before it looks (FOCUS, arXiv 2506.21710, step I).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnlens.errors import AttnLensError, first_line
from attnlens.lens.exclusive import exclusive
from attnlens.lens.generator import check_new_tokens, generate
from attnlens.lens.lens import Lens


def say(lens: Lens, text: str, max_new_tokens: int = 64) -> str:
    """The model's greedy reply to `text`, in at most `max_new_tokens` tokens: that of its own `generate`.

    The prompt is that of a question without its images: the processor's chat template, or the adapter's literal one,
    as the tokenizer reads it; what a processor writes around an image and its text (PaliGemma's newline) is not in it.
    Where a connector stands between the image and an inner language model (InstructBLIP), that one replies. It counts
    as one forward pass. Raises AttnLensError for a text that is empty, that holds an image token or is longer than the
    model's context, and for a model that cannot do without an image (Idefics).
    """
    check_new_tokens(max_new_tokens)
    with exclusive(lens.model):
        return _said(lens, text, max_new_tokens)


def _said(lens: Lens, text: str, max_new_tokens: int) -> str:
    model = lens.generator.model
    ids = _prompt(lens, text).to(model.device)
    _check(lens, ids, max_new_tokens)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        tokens, _ = generate(model, model, lens.tokenizer, inputs, max_new_tokens)
    except (ValueError, TypeError) as error:
        raise AttnLensError(
            f"{type(model).__name__} does not answer a prompt without an image: {first_line(error)} Ask it about an "
            "image: lens.read(image).answer(...)."
        ) from error
    lens.meter.forward()
    return str(lens.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _prompt(lens: Lens, text: str) -> Tensor:
    """int64 [1, tokens]."""
    if not isinstance(text, str) or not text.strip():
        raise AttnLensError(f"The text is {text!r}; expected some words for the model to reply to.")
    prompt = lens.prompter.text(0, text)
    made: dict[str, Any] = lens.tokenizer(prompt, return_tensors="pt", **lens.prompter.special_tokens(prompt))
    return made["input_ids"]


def _check(lens: Lens, ids: Tensor, max_new_tokens: int) -> None:
    if bool((ids == lens.structure.image_token_id).any()):
        raise AttnLensError(
            f"The prompt {lens.tokenizer.decode(ids[0])!r} holds an image token, and no image is given. Take it out of "
            "the text, or out of the template, which should write one only for an image."
        )
    lens.check_context(ids.shape[1] + max_new_tokens)
