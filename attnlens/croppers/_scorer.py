"""How well pictures go with a text, by CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from attnlens._checks import check_count
from attnlens.croppers._cropping import Scorer
from attnlens.croppers._loading import model_and_processor, picture_inputs
from attnlens.errors import AttnLensError


def clip_scorer(model: Any, processor: Any = None, *, batch: int = 32, device: Any = None) -> Scorer:
    """(crops, text) -> for each crop its CLIP logit: the cosine of crop and text, times the model's own scale.

    Each crop is seen as the processor prepares it (CLIP's own cuts out the centre square).

    Args:
        model: a `CLIPModel`, or the folder or Hugging Face id of one, such as "openai/clip-vit-base-patch32".
        processor: its `CLIPProcessor`. None: the one in the model's folder; a model in memory needs it.
        batch: how many crops are seen at a time.
        device: where to put the model, as torch names it. None: where it is.

    Returns:
        A scorer: (crops, text) -> a list of floats, one for each crop, larger where it goes better with the text.

    Raises:
        AttnLensError: for a model that is no CLIP or cannot be loaded; and, when the scorer is called, for a text that
            is longer than the model reads.

    Examples:
        >>> scorer = clip_scorer(attnlens.pocket.cropper_path("clip"))
        >>> here, elsewhere = scorer([image.crop((180, 240, 230, 290)), image.crop((0, 0, 50, 50))], "the pink sign")
        >>> here > elsewhere
        True
    """
    check_count("batch", batch, "crops")
    clip, prepare = model_and_processor(model, processor, "AutoModel", "AutoProcessor", device)
    if not hasattr(clip, "logit_scale"):
        raise AttnLensError(
            f"The scorer's model is a {type(clip).__name__}; expected a CLIPModel, such as "
            "openai/clip-vit-base-patch32."
        )
    room = clip.config.text_config.max_position_embeddings

    def scorer(crops: Sequence[Image.Image], text: str) -> list[float]:
        import torch

        if not isinstance(text, str):
            raise AttnLensError(f"The text is {text!r}; expected a str, which {type(clip).__name__} can read.")
        words = prepare.tokenizer([text], return_tensors="pt").to(clip.device)
        if words["input_ids"].shape[1] > room:
            raise AttnLensError(
                f"The text has {words['input_ids'].shape[1]} tokens, and {type(clip).__name__} reads {room}: "
                f"{text!r}. Shorten it, for example by leaving out the options of the question."
            )
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(crops), batch):
                inputs = picture_inputs(prepare.image_processor, clip, list(crops[start : start + batch]))
                outputs = clip(
                    pixel_values=inputs["pixel_values"],
                    input_ids=words["input_ids"],
                    attention_mask=words["attention_mask"],
                )
                scores += outputs.logits_per_image[:, 0].tolist()
        return scores

    return scorer
