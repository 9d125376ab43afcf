"""Tiles and thumbnails: each token's cell is where the real image processor put its pixels.

Pixels are followed to tokens by the model's own connector. The image processors of Cohere 2, Llama 4, Perception LM and
Step 3.7 are transformers' own too, run without torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from transformers import (
    Gemma3ImageProcessorPil,
    GotOcr2ImageProcessorPil,
    GraniteDoclingImageProcessorPil,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLModel,
    Ovis2ImageProcessorPil,
    SmolVLMImageProcessorPil,
)
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionMultiModalProjector
from transformers.models.granite_docling.modeling_granite_docling import GraniteDoclingConnectorPath
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.llama4.modeling_llama4 import pixel_shuffle
from transformers.models.perception_lm.modeling_perception_lm import PerceptionLMAdaptiveAvgPooling

from attnlens import adapters
from attnlens.adapters._grids import TilesGrid
from attnlens.conformance._tiny.torchvision_shim import image_processor_class
from attnlens.errors import AttnLensError
from attnlens.lens._layouts import Layout, Processed, layout_of
from tests import tiny
from tests.lens.layouts import painting
from tests.lens.layouts.painting import (
    Features,
    Numbers,
    assert_canvas_is_the_resized_image,
    assert_painted_patches_are_where_the_layout_says,
    difference,
    grey,
    processed,
    smooth,
)

SIZES = [(401, 299), (90, 500), (31, 20)]
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
PATCH, SIDE = 7, 56
SQUARE = {"height": SIDE, "width": SIDE}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def by_internvl(patches: Tensor) -> Tensor:
    side = int(patches.shape[1] ** 0.5)
    return InternVLModel.pixel_shuffle(None, patches.view(-1, side, side, 1), 0.5)


def by_aya(patches: Tensor) -> Tensor:
    return AyaVisionMultiModalProjector.pixel_shuffle(SimpleNamespace(downsample_factor=2), patches)


def by_ovis(patches: Tensor) -> Tensor:
    """Ovis2VisionModel.forward, whose stride has no function of its own."""
    side = int(patches.shape[1] ** 0.5)
    return patches.reshape(-1, side // 2, 2, side // 2, 2, 1).permute(0, 1, 3, 2, 4, 5).reshape(len(patches), -1, 4)


def by_step(patches: Tensor) -> Tensor:
    """Two convolutions as Step3p7VisionModel has, of ones."""
    side = int(patches.shape[1] ** 0.5)
    convolve = nn.Conv2d(1, 1, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.ones_(convolve.weight)
    with torch.no_grad():
        return convolve(convolve(patches.view(-1, 1, side, side)))


def by_gemma(patches: Tensor) -> Tensor:
    """Gemma3MultiModalProjector.forward, whose pooling has no function of its own."""
    side = int(patches.shape[1] ** 0.5)
    return avg_pool2d(patches.view(-1, 1, side, side), kernel_size=2).flatten(1)[..., None]


@cache
def grid_of(model_type: str) -> Any:
    """What the adapter says; a patch that it states, and the config does not, is that of these tests."""
    spec = adapters.for_model_type(model_type).grid
    return spec.model_copy(update={"patch": PATCH}) if isinstance(spec.patch, int) else spec


@dataclass(frozen=True)
class Case:
    """An image processor, the settings of a config that the model's adapter reads, and the model's own connector."""

    model_type: str
    processor: Any
    config: dict[str, Any]
    connector: Callable[[Tensor], Tensor]
    reach: float = painting.REACH
    keys: tuple[str, ...] = ("pixel_values",)
    vision: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> Any:
        return grid_of(self.model_type)

    def image(self, image: Any) -> Processed:
        vision = SimpleNamespace(**{"patch_size": PATCH, **self.vision})
        return processed(self.processor, image, SimpleNamespace(vision_config=vision, **self.config))

    def layout(self, size: tuple[int, int]) -> Layout:
        return layout_of(self.spec, self.image(grey(size)))

    def changes(self, before: Features, after: Features) -> Numbers:
        """The model's own order: picture after picture, input after input."""
        found = []
        for key in (key for key in self.keys if key in after):
            pixels = difference(before, after, key)
            pixels = pixels.reshape(-1, *pixels.shape[-3:])
            side = pixels.shape[-1] // PATCH
            patches = pixels.reshape(len(pixels), 3, side, PATCH, side, PATCH).sum(axis=(1, 3, 5))
            tokens = self.connector(torch.tensor(patches, dtype=torch.float32).reshape(len(pixels), -1, 1))
            found.append(tokens.double().reshape(len(pixels), -1, 4 if tokens.shape[-1] == 4 else 1).sum(-1).ravel())
        return np.concatenate(found)

    def canvases(self, layout: Layout) -> list[tuple[int, int]]:
        """(width, height) of each view's, when tokens are squares of so many canvas pixels."""
        side = PATCH * (4 if self.model_type in ("granite_docling", "step3p7", "got_ocr2") else 2)
        return [(view.grid.cols * side, view.grid.rows * side) for view in layout.views]


def got(**settings: Any) -> Any:
    return GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=6, **HALVES, **settings)


def panning(**settings: Any) -> Any:
    """Gemma 3's, with small images too."""
    known = {"min_crop_size": 8, "max_num_crops": 4, "min_ratio_to_activate": 1.1, **settings}
    named = {f"pan_and_scan_{name}": value for name, value in known.items()}
    return Gemma3ImageProcessorPil(size=SQUARE, do_pan_and_scan=True, **named, **HALVES)


def standin(name: str, **settings: Any) -> Any:
    return image_processor_class(name)(**HALVES, **settings)


def shuffled(scale: int, by: Any) -> Callable[[Tensor], Tensor]:
    return lambda patches: by.pixel_shuffle(None, patches, scale).sum(-1, keepdim=True)


SPLIT: dict[str, Any] = {
    "size": {"longest_edge": 3 * SIDE},
    "max_image_size": {"longest_edge": SIDE},
    "return_row_col_info": True,
    "resample": 3,
    **HALVES,
}
TWICE = 5.0  # of two resizes, one after the other
STEP = {"size": {"height": 84, "width": 84}, "patch_size": SIDE, "max_image_size": 224}
CASES = {
    "internvl": Case("internvl", got(), {"downsample_ratio": 0.5}, by_internvl, vision={"patch_size": (PATCH, PATCH)}),
    "qianfan, not cut": Case("qianfan_ocr", got(min_patches=1), {"downsample_ratio": 0.5}, by_internvl),
    "got ocr2": Case("got_ocr2", got(), {}, by_step, reach=painting.REACH + 1.5 * PATCH),
    "gemma 3": Case("gemma3", panning(), {"mm_tokens_per_image": 16}, by_gemma),
    "aya": Case("aya_vision", got(min_patches=4), {"downsample_factor": 2}, by_aya),
    "cohere 2": Case(
        "cohere2_vision",
        standin("Cohere2VisionImageProcessor", size=SQUARE, max_patches=6),
        {"downsample_factor": 2},
        by_aya,
    ),
    "ovis2": Case(
        "ovis2",
        Ovis2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=6, **HALVES),
        {},
        by_ovis,
        vision={"hidden_stride": 2},
    ),
    "ovis2, by aspect ratio": Case(
        "ovis2",
        Ovis2ImageProcessorPil(
            size=SQUARE, crop_to_patches=True, max_patches=6, use_covering_area_grid=False, **HALVES
        ),
        {},
        by_ovis,
        vision={"hidden_stride": 2},
    ),
    "llama 4": Case(
        "llama4",
        standin("Llama4ImageProcessor", size=SQUARE, max_patches=6),
        {},
        lambda patches: pixel_shuffle(patches, 0.5),
        vision={"pixel_shuffle_ratio": 0.5},
    ),
    "llama 4, as large as may be": Case(
        "llama4",
        standin("Llama4ImageProcessor", size=SQUARE, max_patches=6, resize_to_max_canvas=True),
        {},
        lambda patches: pixel_shuffle(patches, 0.5),
        vision={"pixel_shuffle_ratio": 0.5},
    ),
    "perception lm": Case(
        "perception_lm",
        standin("PerceptionLMImageProcessor", tile_size=SIDE, max_num_tiles=6),
        {"projector_pooling_ratio": 2},
        PerceptionLMAdaptiveAvgPooling(2),
    ),
    "perception lm, no tiles": Case(
        "perception_lm",
        standin("PerceptionLMImageProcessor", tile_size=SIDE, vision_input_type="vanilla"),
        {"projector_pooling_ratio": 2},
        PerceptionLMAdaptiveAvgPooling(2),
    ),
    "step 3.7": Case(
        "step3p7",
        standin("Step3p7ImageProcessor", **STEP),
        {},
        by_step,
        reach=TWICE + 1.5 * PATCH,
        keys=("pixel_values_local", "pixel_values"),
    ),
    "idefics 3": Case(
        "idefics3",
        Idefics3ImageProcessorPil(**SPLIT),
        {"scale_factor": 2},
        shuffled(2, Idefics3Connector),
        reach=TWICE,
    ),
    "idefics 3, not split": Case(
        "idefics3",
        Idefics3ImageProcessorPil(**SPLIT, do_image_splitting=False),
        {"scale_factor": 2},
        shuffled(2, Idefics3Connector),
        reach=TWICE,
    ),
    "smolvlm, rows and cols not put out": Case(
        "smolvlm",
        SmolVLMImageProcessorPil(**{**SPLIT, "return_row_col_info": False}),
        {"scale_factor": 2},
        shuffled(2, Idefics3Connector),
        reach=TWICE,
    ),
    "granite docling": Case(
        "granite_docling",
        GraniteDoclingImageProcessorPil(size=SQUARE, max_patches=6, **HALVES),
        {},
        shuffled(4, GraniteDoclingConnectorPath),
        vision={"scale_factor": 4},
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


@every_case
@every_size
def test_each_token_lies_where_its_pixels_come_from(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.setattr(painting, "REACH", case.reach)
    layout = case.layout(size)
    assert_painted_patches_are_where_the_layout_says(case.processor, size, layout, case.canvases(layout), case.changes)


@pytest.mark.parametrize("size", [(15, 70), (20, 900), (500, 12)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_narrow_strips_of_step_are_padded_to_a_square(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["step 3.7"]
    monkeypatch.setattr(painting, "REACH", case.reach)
    layout = case.layout(size)
    assert layout.grid.covered.width == pytest.approx(layout.grid.covered.height)
    assert_painted_patches_are_where_the_layout_says(case.processor, size, layout, case.canvases(layout), case.changes)


@pytest.mark.parametrize("name", [name for name in CASES if "llama" not in name])
@every_size
def test_each_view_shows_the_image(name: str, size: tuple[int, int]) -> None:
    case = CASES[name]
    image = case.image(smooth(size))
    layout = layout_of(case.spec, image)
    for view, canvas in zip(layout.views, case.canvases(layout), strict=True):
        pixels = image.features[view.key or "pixel_values"]
        assert_canvas_is_the_resized_image(view, pixels, smooth(size), canvas)


@pytest.mark.parametrize("name", ["llama 4", "llama 4, as large as may be"])
@pytest.mark.parametrize("size", [(401, 299), (100, 60)], ids=str)  # the second is enlarged by one of the two alone
def test_the_image_stands_in_the_corner_of_llama_s_tiles(name: str, size: tuple[int, int]) -> None:
    case = CASES[name]
    image = case.image(smooth(size))
    layout = layout_of(case.spec, image)
    sheet = layout.views[0]
    assert sheet.pixels is not None
    found = sheet.pixels(image.array("pixel_values"))[0]
    scale = found.shape[2] / layout.grid.covered.width, found.shape[1] / layout.grid.covered.height
    width, height = (round(side * factor) for side, factor in zip(size, scale, strict=True))
    expected = np.asarray(smooth(size).resize((width, height)), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(found[:, :height, :width] - expected).max() < 0.06
    assert (found[:, height:] == -1).all()
    assert (found[:, :, width:] == -1).all()


@every_case
def test_the_sizes_of_these_tests_are_cut_in_several_ways(name: str) -> None:
    shapes = {CASES[name].layout(size).grid.shape for size in SIZES}
    assert len(shapes) == 1 if "no tiles" in name or "not split" in name else len(shapes) > 1


def test_tiles_come_in_reading_order_and_the_thumbnail_last_or_first() -> None:
    last = CASES["internvl"].layout((401, 299))
    assert last.grid.shape == (8, 12)
    assert last.cells[:6].tolist() == [0, 1, 2, 3, 12, 13]
    assert last.cells[16:18].tolist() == [4, 5]
    assert last.cells[-16:].tolist() == list(range(96, 112))
    first = CASES["ovis2"].layout((401, 299))
    assert first.cells[:16].tolist() == list(range(first.views[0].count, first.views[0].count + 16))
    assert first.cells[16:20].tolist() == [0, 1, 2, 3]


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    least=st.integers(1, 40),
    most=st.integers(1, 9),
    ratio=st.floats(1, 3),
)
def test_gemma_s_crops_are_cut_where_its_processor_cuts_them(
    size: tuple[int, int], least: int, most: int, ratio: float
) -> None:
    """Of an image whose pixels are numbered; a crop's tokens are 4 x 4 cells, which cover just that crop."""
    numbers = np.arange(size[0] * size[1]).reshape(1, size[1], size[0])
    crops = panning().pan_and_scan(numbers, least, most, ratio)
    assume(all(crop.size for crop in crops))  # else there are more crops than pixels, and the processor itself fails
    features = {"pixel_values": np.zeros((1 + len(crops), 3, SIDE, SIDE)), "num_crops": np.array([len(crops)])}
    image = Processed(size, features, panning(), CASES["gemma 3"].image(grey((1, 1))).config)
    layout = layout_of(grid_of("gemma3"), image)
    assert len(layout.views) == 1 + (len(crops) > 0)
    assert layout.pictures == (16,) * (1 + len(crops)) * (len(crops) > 0)
    grid, overview = layout.views[0].grid, layout.views[-1].grid
    assert tuple(overview.covered) == pytest.approx((0, 0, *size))
    assert not crops or grid.rows * grid.cols == 16 * len(crops)
    cells = np.arange(grid.rows * grid.cols).reshape(grid.shape)
    for number, crop in enumerate(crops):
        row, col = (4 * place for place in divmod(number, grid.cols // 4))
        own = layout.cells[16 * (1 + number) : 16 * (2 + number)]
        assert own.tolist() == cells[row : row + 4, col : col + 4].ravel().tolist()
        top, left = divmod(int(crop[0, 0, 0]), size[0])
        box = grid.span(row, col, row + 4, col + 4)
        assert tuple(box) == pytest.approx((left, top, left + crop.shape[2], top + crop.shape[1]))


def test_a_patch_that_does_not_fill_a_tile_leaves_pixels_unseen() -> None:
    case = CASES["internvl"]
    layout = layout_of(case.spec, replace(case, vision={"patch_size": 9}).image(grey((400, 300))))
    assert layout.grid.shape == (6, 9)  # 6 patches of 9 px, and 2 px that are in none
    assert layout.grid.x[2, 1] == pytest.approx(400 / 168 * 54)
    assert layout.grid.x[3, 0] == pytest.approx(400 / 168 * 56)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_idefics_3_s_full_processor_puts_as_many_image_tokens_into_the_prompt(size: tuple[int, int]) -> None:
    words = tiny.tokenizer(None, ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"))
    processor = Idefics3Processor(Idefics3ImageProcessorPil(**SPLIT), words, image_seq_len=16)
    ids = processor(images=[grey(size)], text="<image>What?", return_tensors="pt")["input_ids"]
    assert len(CASES["idefics 3"].layout(size).cells) == int((ids == processor.image_token_id).sum())


class Turning(GotOcr2ImageProcessorPil):
    def resize(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        return super().resize(image[:, ::-1].copy(), *args, **kwargs)


def internvl(processor: Any, spec: Any = None, **vision: Any) -> Layout:
    case = replace(CASES["internvl"], processor=processor, vision=vision)
    return layout_of(spec or case.spec, case.image(grey((400, 300))))


def test_an_image_processor_whose_cutting_is_not_known_is_refused() -> None:
    with pytest.raises(AttnLensError, match=r"Turning has methods of its own: resize.*got_ocr2"):
        internvl(Turning(size=SQUARE, crop_to_patches=True))
    with pytest.raises(AttnLensError, match="methods of its own"):
        internvl(image_processor_class("CLIPImageProcessorPil")())


def test_settings_given_to_the_call_are_noticed() -> None:
    case = CASES["internvl"]
    image = case.image(grey((400, 300)))
    other = GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=3)
    with pytest.raises(AttnLensError, match=r"made 7 picture\(s\).*settings"):
        layout_of(case.spec, replace(image, processor=other))


def test_a_step_that_crops_is_refused() -> None:
    processor = Ovis2ImageProcessorPil(size=SQUARE, do_center_crop=True, crop_size={"height": 28, "width": 28})
    case = replace(CASES["ovis2"], processor=processor)
    with pytest.raises(AttnLensError, match="do_center_crop"):
        case.layout((400, 300))


def test_a_merge_that_does_not_divide_a_tile_is_refused() -> None:
    with pytest.raises(AttnLensError, match="8 patches of 7 px.*tokens of 3 patches"):
        internvl(got(), TilesGrid(kind="tiles", merge=3))


@pytest.mark.parametrize("ratio", [0, -1, "many"])
def test_a_merge_that_is_no_number_is_refused(ratio: Any) -> None:
    case = replace(CASES["internvl"], config={"downsample_ratio": ratio})
    with pytest.raises(AttnLensError, match="merge is"):
        case.layout((400, 300))


def test_pictures_of_several_images_are_refused() -> None:
    case = CASES["idefics 3"]
    image = case.image(grey((400, 300)))
    pixels = image.features["pixel_values"].expand(2, -1, -1, -1, -1)
    with pytest.raises(AttnLensError, match="shape"):
        layout_of(case.spec, replace(image, features={**image.features, "pixel_values": pixels}))
