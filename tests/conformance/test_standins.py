"""Image processors for torchvision, run without it, put out what their PIL twins do."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.utils import is_torchvision_available

from attnlens.conformance._tiny.torchvision_shim import image_processor_class, without_torchvision
from attnlens.errors import AttnLensError

SIZES = [(401, 299), (123, 257), (31, 20)]
SQUARE = {"height": 96, "width": 96}
TWINS: dict[str, dict[str, Any]] = {  # each uses other functions of torchvision
    "SiglipImageProcessor": {"size": SQUARE},
    "CLIPImageProcessor": {"size": {"shortest_edge": 90}, "crop_size": SQUARE},  # pads in its centre crop
    "LlavaImageProcessor": {"size": {"shortest_edge": 96}, "crop_size": SQUARE, "do_pad": True},
    "GotOcr2ImageProcessor": {"size": SQUARE, "crop_to_patches": True},
    "MiniCPMV4_6ImageProcessor": {"scale_resolution": 112},
    "DeepseekOcr2ImageProcessor": {"size": SQUARE, "tile_size": 64},
    "Qwen2VLImageProcessor": {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 24}},
}
WITHOUT_TWIN = [
    "Cohere2Vision",
    "Gemma4Unified",
    "Inkling",
    "Inkling2",
    "Kimi_K25",
    "Lfm2Vl",
    "Llama4",
    "MiniCPMOcr",
    "MiniMaxM3VL",
    "Molmo2",
    "MuseGlimmer",
    "NemotronH_Omni_Reasoning_V3",
    "PerceptionLM",
    "Step3p7",
    "UnlimitedOcr",
]


def smooth(size: tuple[int, int]) -> Image.Image:
    """So that the two backends' resizing, which differs in rounding, gives nearly the same."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    return Image.fromarray(np.uint8(np.round(255 * np.stack([x, y, (x + 2 * y) / 3], axis=-1))))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", TWINS)
def test_a_processor_for_torchvision_puts_out_what_its_pil_twin_does(name: str, size: tuple[int, int]) -> None:
    ours = without_torchvision(name)(**TWINS[name])([smooth(size)], return_tensors="pt")
    twin = getattr(transformers, f"{name}Pil")(**TWINS[name])([smooth(size)], return_tensors="pt")
    assert ours.keys() == twin.keys()
    for key, value in twin.items():
        if not isinstance(value, torch.Tensor):
            assert ours[key] == value
            continue
        assert ours[key].shape == value.shape
        assert ours[key].dtype == value.dtype
        assert (ours[key] - value).abs().max() < 0.05  # three of the 255 steps, normalised


@pytest.mark.parametrize("name", WITHOUT_TWIN)
def test_a_processor_for_torchvision_alone_makes_pixels(name: str) -> None:
    features = image_processor_class(f"{name}ImageProcessor")()([smooth((401, 299))], return_tensors="pt")
    pixels = features["pixel_values"].float()
    assert torch.isfinite(pixels).all()
    assert float(pixels.std()) > 0.1


def test_a_processor_that_needs_no_torchvision_is_transformers_own() -> None:
    assert image_processor_class("CLIPImageProcessorPil") is transformers.CLIPImageProcessorPil


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
def test_torchvision_is_not_pretended_to_anyone_else() -> None:
    image_processor_class("Llama4ImageProcessor")()([smooth((401, 299))], return_tensors="pt")
    assert "torchvision" not in sys.modules
    assert not is_torchvision_available()
    with pytest.raises(ImportError, match="Torchvision"):
        transformers.Llama4ImageProcessor()


def test_an_unknown_image_processor_is_refused() -> None:
    with pytest.raises(AttnLensError, match="no image processor 'NoSuchImageProcessor'"):
        image_processor_class("NoSuchImageProcessor")
