"""The boxes of everything that SAM can cut out of an image, asked at a lattice of points.

transformers' pipeline for this needs torchvision; the lattice, the filters and the suppression are here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnlens._checks import is_count, is_number
from attnlens.boxes._suppression import suppress
from attnlens.croppers._cropping import Proposer
from attnlens.croppers._loading import model_and_processor, picture_inputs
from attnlens.errors import AttnLensError
from attnlens.geometry import Box

_STEADY = 1.0  # logits: how far the cut is moved up and down to see whether a mask is stable


def segmenter(
    model: Any,
    processor: Any = None,
    *,
    points: int = 32,
    quality: float = 0.88,
    stability: float = 0.95,
    iou: float = 0.7,
    batch: int = 64,
    device: Any = None,
) -> Proposer:
    """(image) -> the tight boxes of all good masks, best first.

    SAM is asked at points evenly spaced over the image; each has three masks. Kept are those that it expects to be
    right and that are stable; of boxes that overlap, the one of best quality. The defaults are those of SAM's authors;
    ViCrop's paper (arXiv 2502.17422) says "all masks". Boxes are those of the masks as the decoder gives them, a
    quarter of the model's canvas each way, so exact to four canvas pixels.

    Args:
        model: a `SamModel`, or the folder or Hugging Face id of one, such as "facebook/sam-vit-base".
        processor: its image processor, or the `SamProcessor`. None: the one in the model's folder; a model in memory
            needs it.
        points: how many points there are across and down: `points` x `points`.
        quality: how right a mask is expected to be at least, by SAM itself: an intersection over union.
        stability: a mask's area at a cut one logit higher is at least this fraction of that at one logit lower.
        iou: of boxes that overlap by an intersection over union above this, the one of best quality is kept.
        batch: how many points SAM is asked at at a time.
        device: where to put the model, as torch names it. None: where it is.

    Returns:
        (image) -> boxes in whole pixels of the image.

    Raises:
        AttnLensError: for numbers of the wrong kind, and for a model that is no SAM or cannot be loaded; and, when it
            is called, for masks or scores that are NaN or infinite.

    Examples:
        >>> from transformers import SamConfig, SamImageProcessorPil, SamModel
        >>> small = {"image_size": 64, "num_hidden_layers": 1}
        >>> tiny = SamModel(SamConfig(vision_config=small, prompt_encoder_config={"image_size": 64}))
        >>> pictures = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
        >>> segmenter(tiny, pictures, points=2)(image)  # random weights are sure of no mask
        []
    """
    if not (is_count(points) and is_count(batch)):
        raise AttnLensError(f"points is {points!r} and batch {batch!r}; expected whole numbers, at least 1.")
    for name, value in (("quality", quality), ("stability", stability), ("iou", iou)):
        if not (is_number(value) and 0 <= value <= 1):
            raise AttnLensError(f"{name} is {value!r}; expected a number from 0 to 1.")
    model, processor = model_and_processor(model, processor, "AutoModel", "AutoImageProcessor", device)
    if not hasattr(model, "get_image_embeddings"):
        raise AttnLensError(
            f"The segmenter's model is a {type(model).__name__}; expected a SamModel, such as facebook/sam-vit-base."
        )
    prepare = getattr(processor, "image_processor", processor)

    def regions(image: Image.Image) -> list[Box]:
        import torch

        inputs = picture_inputs(prepare, model, image)
        canvas = inputs["pixel_values"].shape[-2:]
        seen = [int(side) for side in inputs["reshaped_input_sizes"][0]]
        boxes, qualities = [], []
        with torch.no_grad():
            embeddings = model.get_image_embeddings(inputs["pixel_values"])
            for places in np.split(lattice(points, seen), range(batch, points * points, batch)):
                asked = torch.as_tensor(places, device=model.device, dtype=model.dtype)[None, :, None]
                outputs = model(image_embeddings=embeddings, input_points=asked)
                masks = outputs.pred_masks[0].flatten(0, 1).float().cpu().numpy()
                expected = outputs.iou_scores[0].flatten().float().cpu().numpy()
                _check_finite(masks, expected, model)
                cell = canvas[0] / masks.shape[1], canvas[1] / masks.shape[2]
                masks = masks[:, : -int(-seen[0] // cell[0]), : -int(-seen[1] // cell[1])]  # without the padding
                good = (masks > 0).any(axis=(1, 2)) & (expected >= quality) & (steadiness(masks) >= stability)
                boxes += [_box(mask, cell, seen, image.size) for mask in masks[good] > 0]
                qualities += expected[good].tolist()
        order = np.argsort(-np.array(qualities), kind="stable")
        ordered = [boxes[index] for index in order]
        return [ordered[index] for index in suppress(ordered, iou)]

    return regions


def lattice(points: int, size: list[int]) -> npt.NDArray[np.float64]:
    """float64 [points * points, 2]: (x, y) of the centres of equal cells over `size` (height, width), row by row."""
    y, x = ((np.arange(points) + 0.5) / points * side for side in size)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def steadiness(masks: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """float64 [n]: of logits [n, rows, cols], the area cut a logit higher over that cut a logit lower; 0 if empty."""
    higher = (masks > _STEADY).sum(axis=(1, 2))
    lower = (masks > -_STEADY).sum(axis=(1, 2))
    return np.where(higher > 0, higher / np.maximum(lower, 1), 0.0)


def _box(mask: npt.NDArray[np.bool_], cell: tuple[float, float], seen: list[int], image_size: tuple[int, int]) -> Box:
    """The tight box of a mask in whole original pixels; `cell` and `seen` (the image) are in canvas pixels."""
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    down, across = image_size[1] / seen[0], image_size[0] / seen[1]
    tight = Box(
        cols[0] * cell[1] * across, rows[0] * cell[0] * down,
        (cols[-1] + 1) * cell[1] * across, (rows[-1] + 1) * cell[0] * down,
    )  # fmt: skip
    return tight.clip(image_size).to_pixels(image_size)


def _check_finite(masks: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], model: Any) -> None:
    if not (np.isfinite(masks).all() and np.isfinite(expected).all()):
        raise AttnLensError(
            f"{type(model).__name__} gave masks or scores that are NaN or infinite. Load it in a wider type (float32), "
            "and check its weights."
        )
