"""Which of transformers' image-text-to-text model types answer questions about images, token by token."""

from __future__ import annotations

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
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def question_answerers() -> list[str]:
    """Those that answer questions: the types that attnlens sets out to cover."""
    return [model_type for model_type in image_text_types() if model_type not in NOT_ASKED]
