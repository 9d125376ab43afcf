"""The boxes that an object detector sees: YOLOS, RT-DETR, or another of transformers' DETR kind."""

from __future__ import annotations

from typing import Any

from PIL import Image

from attnlens._checks import is_number
from attnlens.croppers._cropping import Proposer
from attnlens.croppers._loading import model_and_processor, picture_inputs
from attnlens.errors import AttnLensError
from attnlens.geometry import Box


def detector(model: Any, processor: Any = None, *, threshold: float = 0.25, device: Any = None) -> Proposer:
    """(image) -> the boxes of everything detected with a confidence above `threshold`, surest first.

    The paper (ViCrop, arXiv 2502.17422) has YOLOv8 with 0.25, whose licence is not ours to hand on.

    Args:
        model: an object detection model (`YolosForObjectDetection`, `RTDetrForObjectDetection`, ...), or the folder or
            Hugging Face id of one, such as "hustvl/yolos-tiny".
        processor: its image processor. None: the one in the model's folder; a model in memory needs it.
        threshold: the confidence above which something counts as detected, from 0 up to, but not, 1.
        device: where to put the model, as torch names it. None: where it is.

    Returns:
        (image) -> boxes in whole pixels of the image, inside it; those of less than one pixel are left out.

    Raises:
        AttnLensError: for a threshold that is none and a model that cannot be loaded; and, when it is called, for
            scores or boxes of the model that are NaN or infinite.

    Examples:
        >>> from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil
        >>> tiny = YolosForObjectDetection(YolosConfig(hidden_size=48, num_hidden_layers=1, num_detection_tokens=7))
        >>> len(detector(tiny, YolosImageProcessorPil(), threshold=0)(image))
        7
    """
    if not (is_number(threshold) and 0 <= threshold < 1):
        raise AttnLensError(
            f"threshold is {threshold!r}; expected a confidence from 0 up to, but not, 1 (paper: 0.25)."
        )
    model, processor = model_and_processor(
        model, processor, "AutoModelForObjectDetection", "AutoImageProcessor", device
    )

    def regions(image: Image.Image) -> list[Box]:
        import torch

        inputs = picture_inputs(processor, model, image)
        with torch.no_grad():
            outputs = model(pixel_values=inputs["pixel_values"])
        if not (torch.isfinite(outputs.logits).all() and torch.isfinite(outputs.pred_boxes).all()):
            raise AttnLensError(
                f"{type(model).__name__} gave NaN or infinite scores or boxes for an image of {image.size} pixels. "
                "Load it in a wider type (float32), and check its weights."
            )
        sizes = [(image.height, image.width)]
        (seen,) = processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=sizes)
        order = torch.argsort(seen["scores"], descending=True, stable=True)
        boxes = [Box(*box).clip(image.size) for box in seen["boxes"][order].tolist()]
        return [box.to_pixels(image.size) for box in boxes if box.width >= 1 and box.height >= 1]

    return regions
