"""What a prompt's images are made of one by one, put together, is what the image processor makes of all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from attnlens import adapters
from attnlens.conformance._tiny.image_processor import tiny_image_processor
from attnlens.conformance._tiny.model import tiny_config
from attnlens.lens._inputs.batching import concat_images

WIDE, TALL, SMALL = (173, 97), (91, 160), (40, 30)
TYPES = [
    "llava",
    "qwen2_vl",
    "minicpmv4_6",
    "minicpm_ocr",
    "molmo2",
    "deepseek_ocr2",
    "unlimited_ocr",
    "nemotron_h_omni",
]


@pytest.mark.parametrize("sizes", [(WIDE, TALL), (SMALL, WIDE), (TALL, SMALL, WIDE)], ids=str)
@pytest.mark.parametrize("model_type", TYPES)
def test_images_joined_are_images_processed_together(model_type: str, sizes: tuple[tuple[int, int], ...]) -> None:
    spec = adapters.for_model_type(model_type)
    config = tiny_config(model_type, spec.tiny.config)
    processor = tiny_image_processor(model_type, config, spec.tiny.image_processor, spec.tiny.images)
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
    together = dict(processor(images, return_tensors="pt"))
    found = concat_images([dict(processor([image], return_tensors="pt")) for image in images], spec.prompt)
    assert found.keys() == together.keys()
    for key, value in together.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else list(found[key]) == list(value)
