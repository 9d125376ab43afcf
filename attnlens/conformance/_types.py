"""Which of transformers' image-text-to-text model types answer questions about images, token by token."""

from __future__ import annotations

from difflib import get_close_matches

from attnlens.errors import AttnLensError

NOT_ASKED = {
    "blip": "a captioner; its questions go to another class, BlipForQuestionAnswering",
    "diffusion_gemma": "block diffusion, no autoregressive answer token",
    "evolla": "protein to text",
    "florence2": "tasks by token; an adapter is there all the same",
    "git": "a captioner, whose image tokens have no placeholder",
    "kosmos-2.5": "OCR and markdown",
    "mistral4": "text only",
    "pi0": "robot actions by flow matching",
    "pix2struct": "the question is rendered into the image",
    "pp_formulanet": "formula OCR",
    "t5gemma2": "an encoder-decoder whose encoder sees the image; not adapted",
    "udop": "documents, with boxes from an OCR",
    "vision-encoder-decoder": "captioning and OCR",
}
"""Model types of transformers' image-text-to-text mapping that take no free question about a picture, and why."""


def image_text_types() -> list[str]:
    """Every model type of transformers' image-text-to-text mapping."""
    from attnlens import _upstream

    return _upstream.image_text_types()


def question_answerers() -> list[str]:
    """Those that answer questions: the types that attnlens sets out to cover."""
    return [model_type for model_type in image_text_types() if model_type not in NOT_ASKED]


def check_reads_images(model_type: str) -> None:
    """Raises AttnLensError for a model type that transformers does not know as one of images and text."""
    from transformers import CONFIG_MAPPING

    types = image_text_types()
    if model_type in types:
        return
    near = ", ".join(get_close_matches(model_type, types, n=3, cutoff=0.4)) or "none"
    if model_type in CONFIG_MAPPING:
        raise AttnLensError(
            f"{model_type!r} is no image-text-to-text model of transformers (its config is "
            f"{CONFIG_MAPPING[model_type].__name__}). Nearest of those that are: {near}."
        )
    raise AttnLensError(f"transformers knows no model type {model_type!r}. Nearest image-text-to-text types: {near}.")


def check_asked(model_type: str) -> None:
    """Raises AttnLensError for a model type that answers no questions about pictures, and says why."""
    check_reads_images(model_type)
    if model_type in NOT_ASKED:
        raise AttnLensError(
            f"The model type {model_type!r} takes no free question about a picture: {NOT_ASKED[model_type]}. "
            "attnlens reads question answerers; see the page of supported models."
        )
