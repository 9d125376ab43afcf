"""Slices and the whole image: each token's cell is where the real image processor put its pixels.

MiniCPM-OCR's and Unlimited-OCR's image processors are transformers' own too, run without torchvision.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    DeepseekOcr2ImageProcessorPil,
    DeepseekOcr2Processor,
    MiniCPMV4_6ImageProcessorPil,
    PreTrainedTokenizerFast,
    UnlimitedOcrProcessor,
)

from attnlens.adapters._grids import FromConfig, LocalGlobalGrid, SlicesGrid
from attnlens.conformance._tiny.torchvision_shim import image_processor_class
from attnlens.errors import AttnLensError
from attnlens.lens._layouts import layout_of
from tests.lens.layouts.painting import (
    SIZES,
    Features,
    Numbers,
    assert_canvas_is_the_resized_image,
    assert_painted_patches_are_where_the_layout_says,
    difference,
    every_size,
    grey,
    processed,
    smooth,
)

SLICES = SlicesGrid(kind="slices", merge=FromConfig(config="downsample_mode"))
MiniCPMOcrImageProcessor = image_processor_class("MiniCPMOcrImageProcessor")
SMALL: dict[str, Any] = {"scale_resolution": 112, "patch_size": 14}
MINICPM = {
    "minicpm-v, 16 patches to a token": MiniCPMV4_6ImageProcessorPil(**SMALL),
    "minicpm-v, 4 patches to a token": MiniCPMV4_6ImageProcessorPil(**SMALL, downsample_mode="4x", max_slice_nums=6),
    "minicpm-v, no slices": MiniCPMV4_6ImageProcessorPil(**SMALL, slice_mode=False),
    "minicpm-ocr": MiniCPMOcrImageProcessor(**SMALL),
    "minicpm-ocr, small images stay small": MiniCPMOcrImageProcessor(**SMALL, small_image_upsize="never"),
}


def minicpm_config(processor: Any) -> Any:
    return SimpleNamespace(downsample_mode=processor.downsample_mode)


def minicpm_changes(processor: Any) -> Any:
    """MiniCPM's own order: picture after picture, of each picture blocks of 2 x 2 or 4 x 4 patches, row by row."""
    patch, block = processor.patch_size, 2 if processor.downsample_mode == "4x" else 4

    def changes(before: Features, after: Features) -> Numbers:
        pixels, found, start = difference(before, after)[0], [], 0
        for rows, cols in after["target_sizes"].tolist():
            own = pixels[:, :, start * patch : (start + rows * cols) * patch]
            patches = own.reshape(3, patch, rows * cols, patch).sum(axis=(0, 1, 3))
            blocks = patches.reshape(rows // block, block, cols // block, block)
            found.append(blocks.sum(axis=(1, 3)).ravel())
            start += rows * cols
        return np.concatenate(found)

    return changes


def minicpm_canvases(processor: Any, features: Features) -> list[tuple[int, int]]:
    """(width, height): that of all slices together, if there are any, then that of the overview."""
    sizes = [(cols * processor.patch_size, rows * processor.patch_size) for rows, cols in features["target_sizes"]]
    down, across = features["grids"][0]
    slices = [(int(sizes[1][0]) * across, int(sizes[1][1]) * down)] if len(sizes) > 1 else []
    return [*slices, (int(sizes[0][0]), int(sizes[0][1]))]


@every_size
@pytest.mark.parametrize("name", MINICPM)
def test_each_token_of_minicpm_lies_where_its_pixels_come_from(name: str, size: tuple[int, int]) -> None:
    processor = MINICPM[name]
    image = processed(processor, grey(size), minicpm_config(processor))
    canvases = minicpm_canvases(processor, image.features)
    layout = layout_of(SLICES, image)
    assert_painted_patches_are_where_the_layout_says(processor, size, layout, canvases, minicpm_changes(processor))


@every_size
@pytest.mark.parametrize("name", MINICPM)
def test_each_view_of_minicpm_shows_the_image(name: str, size: tuple[int, int]) -> None:
    processor = MINICPM[name]
    image = processed(processor, smooth(size), minicpm_config(processor))
    canvases = minicpm_canvases(processor, image.features)
    for view, canvas in zip(layout_of(SLICES, image).views, canvases, strict=True):
        assert_canvas_is_the_resized_image(view, image.features["pixel_values"], smooth(size), canvas)


def test_the_sizes_of_these_tests_have_slices_and_none() -> None:
    processor = MINICPM["minicpm-v, 16 patches to a token"]
    found = {len(processor([grey(size)], return_tensors="pt")["target_sizes"]) for size in SIZES}
    assert 1 in found
    assert len(found) > 2


def test_slices_of_different_sizes_are_refused() -> None:
    image = processed(MINICPM["minicpm-ocr"], grey((401, 299)), SimpleNamespace(downsample_mode="4x"))
    sizes = image.features["target_sizes"].clone()
    sizes[-1] -= 2
    with pytest.raises(AttnLensError, match="different sizes"):
        layout_of(SLICES, processed_with(image, target_sizes=sizes))


def test_a_merge_that_does_not_fit_is_refused() -> None:
    image = processed(MINICPM["minicpm-v, 4 patches to a token"], grey((120, 120)), SimpleNamespace())
    with pytest.raises(AttnLensError, match="blocks of 7 x 7"):
        layout_of(SlicesGrid(kind="slices", merge=7), image)


def processed_with(image: Any, **features: Any) -> Any:
    return replace(image, features={**image.features, **features})


# DeepSeek-OCR-2 and Unlimited-OCR.

SIDE = 16  # of a token, in canvas pixels: patches of 4 px, merged 4 x 4
DEEPSEEK = LocalGlobalGrid(kind="local_global", patch=4, merge=4, after=1, queries=True)
UNLIMITED = LocalGlobalGrid(kind="local_global", patch=4, merge=4, row_end=1, after=1)
UnlimitedOcrImageProcessor = image_processor_class("UnlimitedOcrImageProcessor")
SQUARES: dict[str, Any] = {"size": {"height": 160, "width": 160}, "tile_size": 96}
OCR: dict[str, tuple[LocalGlobalGrid, Any]] = {
    "deepseek-ocr-2": (DEEPSEEK, DeepseekOcr2ImageProcessorPil(**SQUARES)),
    "deepseek-ocr-2, no slices": (DEEPSEEK, DeepseekOcr2ImageProcessorPil(**SQUARES, crop_to_patches=False)),
    "unlimited-ocr": (UNLIMITED, UnlimitedOcrImageProcessor(**SQUARES)),
    "unlimited-ocr, few slices": (UNLIMITED, UnlimitedOcrImageProcessor(**SQUARES, max_patches=4)),
    "unlimited-ocr, stretched": (UNLIMITED, UnlimitedOcrImageProcessor(**SQUARES, crop_to_patches=False)),
    "unlimited-ocr, padded": (
        UNLIMITED,
        UnlimitedOcrImageProcessor(**SQUARES, crop_to_patches=False, maximum_pad_value=100),
    ),
}


def ocr_changes(spec: LocalGlobalGrid, tiles: tuple[int, int]) -> Any:
    """The slices first: in DeepSeek-OCR-2 slice by slice, in Unlimited-OCR row by row of all, with a newline each."""

    def changes(before: Features, after: Features) -> Numbers:
        whole = difference(before, after)[0].sum(axis=0)
        parts = []
        if "pixel_values_local" in after:
            slices = difference(before, after, "pixel_values_local").sum(axis=1)
            across, down = tiles
            canvas = np.concatenate(
                [np.concatenate(list(slices[row * across : (row + 1) * across]), axis=1) for row in range(down)]
            )
            parts = list(slices) if spec.queries else [canvas]
        tokens = [queries(part) if spec.queries else lines(part) for part in [*parts, whole]]
        return np.concatenate([*tokens, [0.0]])

    return changes


def queries(picture: Numbers) -> Numbers:
    """As many tokens as there are cells, and each may have seen any pixel."""
    return np.full((len(picture) // SIDE) ** 2, picture.sum())


def lines(picture: Numbers) -> Numbers:
    rows, cols = (side // SIDE for side in picture.shape)
    cells = picture.reshape(rows, SIDE, cols, SIDE).sum(axis=(1, 3))
    return np.concatenate([cells, np.zeros((rows, 1))], axis=1).ravel()


def tiling(processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    """(across, down), by transformers' own function."""
    own = sys.modules[type(processor).__module__].get_optimal_tiled_canvas
    side = processor.tile_size
    across, down = own(size[::-1], (side, side), processor.min_patches, processor.max_patches)
    return int(across), int(down)


@every_size
@pytest.mark.parametrize("name", OCR)
def test_each_token_of_an_ocr_model_lies_where_its_pixels_come_from(name: str, size: tuple[int, int]) -> None:
    spec, processor = OCR[name]
    image = processed(processor, grey(size), SimpleNamespace())
    across, down = tiling(processor, size)
    layout = layout_of(spec, image)
    side = int(image.features["pixel_values"].shape[-1])
    canvases = [(96 * across, 96 * down), (side, side)][-len(layout.views) :]
    changes = ocr_changes(spec, (across, down))
    assert_painted_patches_are_where_the_layout_says(processor, size, layout, canvases, changes)


@every_size
@pytest.mark.parametrize("name", ["deepseek-ocr-2", "unlimited-ocr", "unlimited-ocr, few slices"])
def test_an_ocr_model_has_as_many_tokens_as_its_full_processor_puts_into_a_prompt(
    name: str, size: tuple[int, int]
) -> None:
    spec, processor = OCR[name]
    letters = Tokenizer(WordLevel({"<image>": 0, "?": 1}, unk_token="?"))
    letters.add_special_tokens(["<image>"])
    full_class = DeepseekOcr2Processor if spec is DEEPSEEK else UnlimitedOcrProcessor
    full = full_class(processor, PreTrainedTokenizerFast(tokenizer_object=letters), patch_size=4, downsample_ratio=4)
    # Its call overrides the image processor's own number of slices with 6.
    most = {"max_patches": processor.max_patches}
    ids = full(images=[grey(size)], text=["<image>?"], return_tensors="pt", **most)["input_ids"]
    assert layout_of(spec, processed(processor, grey(size), SimpleNamespace())).tokens == int((ids == 0).sum())


def test_another_number_of_slices_than_the_settings_lead_to_is_refused() -> None:
    spec, processor = OCR["deepseek-ocr-2"]
    image = processed(processor, grey((401, 299)), SimpleNamespace())
    local = image.features["pixel_values_local"]
    with pytest.raises(AttnLensError, match="pixel_values_local holds"):
        layout_of(spec, processed_with(image, pixel_values_local=local[:-1]))


def test_pictures_that_are_no_whole_number_of_cells_are_refused() -> None:
    image = processed(OCR["unlimited-ocr"][1], grey((401, 299)), SimpleNamespace())
    with pytest.raises(AttnLensError, match="not a whole number of tokens"):
        layout_of(LocalGlobalGrid(kind="local_global", patch=7, merge=4), image)
