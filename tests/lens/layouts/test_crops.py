"""Molmo 2's crops that overlap: each token's cell is where the patches that it pools come from.

The image processor is transformers' own, run without torchvision; which patches a token pools, it says itself.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attnlens.adapters._grids import CropsGrid
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

SPEC = CropsGrid(kind="crops")
Molmo2ImageProcessor = image_processor_class("Molmo2ImageProcessor")


def molmo(side: int = 84, **settings: Any) -> Any:
    return Molmo2ImageProcessor(size={"height": side, "width": side}, **{"overlap_margins": [1, 1], **settings})


CASES = {
    "6 patches to a side": molmo(),
    "an odd number of patches": molmo(98),
    "uneven margins, blocks of 3 x 2": molmo(112, overlap_margins=[2, 1], pooling_size=[3, 2], max_crops=6),
    "patches of 7 px": molmo(63, patch_size=7, overlap_margins=[2, 2]),
}
every_case = pytest.mark.parametrize("name", CASES)


def changes(before: Features, after: Features) -> Numbers:
    """Molmo2Adapter: a token pools the patches, of those of all crops, whose numbers image_token_pooling gives."""
    patches = difference(before, after).sum(axis=-1).ravel()
    pooled = after["image_token_pooling"].numpy()
    return np.where(pooled >= 0, patches[np.maximum(pooled, 0)], 0).sum(axis=-1)


def canvases(processor: Any, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(width, height) of the crops' canvas, by transformers' own function, and of the whole image's."""
    side = processor.size["height"]
    geometry = sys.modules[type(processor).__module__].compute_crop_geometry
    _, _, height, width = geometry(
        size[1], size[0], processor.max_crops, processor.overlap_margins, side, processor.patch_size
    )
    return [(width, height), (side, side)]


@every_size
@every_case
def test_each_token_lies_where_its_pixels_come_from(name: str, size: tuple[int, int]) -> None:
    processor = CASES[name]
    layout = layout_of(SPEC, processed(processor, grey(size), SimpleNamespace()))
    assert_painted_patches_are_where_the_layout_says(processor, size, layout, canvases(processor, size), changes)


@every_size
@every_case
def test_each_view_shows_the_image(name: str, size: tuple[int, int]) -> None:
    processor = CASES[name]
    image = processed(processor, smooth(size), SimpleNamespace())
    for view, canvas in zip(layout_of(SPEC, image).views, canvases(processor, size), strict=True):
        assert_canvas_is_the_resized_image(view, image.features["pixel_values"], smooth(size), canvas)


def test_the_cells_of_each_view_cover_the_image_once() -> None:
    for processor in CASES.values():
        for size in SIZES:
            for view in layout_of(SPEC, processed(processor, grey(size), SimpleNamespace())).views:
                assert view.grid.covered == pytest.approx((0, 0, *size))
                assert np.allclose(view.grid.x[1:, 0], view.grid.x[:-1, 1])
                assert np.allclose(view.grid.y[1:, 0], view.grid.y[:-1, 1])


@every_case
def test_the_canvas_is_made_of_the_very_patches_that_tokens_pool(name: str) -> None:
    """Crops share the pixels of their margins, so patches are numbered here instead of painted."""
    processor = CASES[name]
    image = processed(processor, grey((401, 299)), SimpleNamespace())
    pictures, patches, values = image.features["pixel_values"].shape
    numbers = np.arange(pictures * patches).reshape(pictures, patches, 1).repeat(values, axis=2)
    pooled = image.features["image_token_pooling"].numpy()
    fine, coarse = layout_of(SPEC, image).views
    for view, tokens in ((coarse, pooled[: coarse.count]), (fine, pooled[coarse.count :])):
        assert view.pixels is not None
        side = processor.patch_size
        canvas = view.pixels(numbers.astype(np.float32))[0, 0, ::side, ::side]
        (down, across), lacking = processor.pooling_size, []
        for length, block in zip(canvas.shape, (down, across), strict=True):
            lacking.append((-length % block // 2, -length % block - -length % block // 2))
        padded = np.pad(canvas, lacking, constant_values=-1)
        blocks = padded.reshape(view.grid.rows, down, view.grid.cols, across).transpose(0, 2, 1, 3)
        assert np.array_equal(blocks.reshape(len(tokens), -1), tokens)


def test_settings_that_do_not_lead_to_these_crops_are_refused() -> None:
    image = processed(CASES["6 patches to a side"], grey((401, 299)), SimpleNamespace())
    with pytest.raises(AttnLensError, match="cannot make up"):
        layout_of(SPEC, replace(image, processor=molmo(overlap_margins=[2, 2])))
