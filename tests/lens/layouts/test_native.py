"""Families of native aspect ratio: each token's cell is where the real image processor put its pixels.

Where transformers has an image processor for torchvision alone (Kimi, Muse, MiniMax, Inkling, LFM2-VL), its own code
runs without torchvision. The order of the tokens is followed here by the code of each model's tower and connector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attnlens.adapters import _library
from attnlens.adapters._grids import RowsGrid, ShapesGrid, ThwGrid
from attnlens.conformance._tiny.torchvision_shim import image_processor_class
from attnlens.errors import AttnLensError
from attnlens.lens._layouts import Layout, layout_of
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

Order = Callable[[Numbers, Features], Numbers]


def config(patch: int) -> Any:
    """What the adapters of these families read of a config."""
    vision = SimpleNamespace(patch_size=patch, spatial_merge_size=2, merge_size=2, merge_kernel_size=[2, 2])
    return SimpleNamespace(vision_config=vision, patch_size=patch, spatial_merge_size=2, downsample_factor=2)


# By how much each token's pixels differ, from how much the pixels differ: the models' own orders.


def each(pixels: Numbers, features: Features) -> Numbers:
    """VideoLLaMA 3, Inkling: each patch is a token."""
    return pixels.reshape(len(pixels), -1).sum(axis=1)


def fours(pixels: Numbers, features: Features) -> Numbers:
    """Qwen2VLVisionPatchMerger and the like: `view(-1, 4 * width)`, four patches in a row are a token."""
    return each(pixels, features).reshape(-1, 4).sum(axis=1)


def squares(pixels: Numbers, features: Features) -> Numbers:
    """PaddleOCRProjector, Kimi's and Muse's gather index: patches row by row, 2 x 2 neighbours are a token."""
    _, rows, cols = features["image_grid_thw"][0].tolist()
    neighbours = each(pixels, features).reshape(rows // 2, 2, cols // 2, 2)
    return neighbours.sum(axis=(1, 3)).ravel()


def newlines(pixels: Numbers, features: Features) -> Numbers:
    """HunYuanVLVisionPatchMerger.forward: begin, then each row and a newline, then end."""
    cols = int(features["image_grid_thw"][0][2]) // 2
    rows = squares(pixels, features).reshape(-1, cols)
    return np.concatenate([[0.0], np.pad(rows, ((0, 0), (0, 1))).ravel(), [0.0]])


def unfolded(pixels: Numbers, features: Features) -> Numbers:
    """Mistral3PatchMerger: 2 x 2 patches of the canvas, `unfold` with that stride."""
    canvas = pixels[0].sum(axis=0)
    rows, cols = (length // 28 for length in canvas.shape)
    return canvas[: rows * 28, : cols * 28].reshape(rows, 28, cols, 28).sum(axis=(1, 3)).ravel()


def canvas_of_thw(patch: int, features: Features) -> tuple[int, int]:
    _, rows, cols = features["image_grid_thw"][0].tolist()
    return cols * patch, rows * patch


@dataclass(frozen=True)
class Case:
    """An image processor, the adapter whose grid it must fit, and the order of the model's tokens."""

    processor: Any
    adapter: str
    order: Order
    patch: int = 14
    key_side: int | None = None
    """Side of what image_grid_thw counts, where that is no patch."""

    def image(self, image: Any) -> Any:
        return processed(self.processor, image, config(self.patch))

    def layout(self, image: Any) -> Layout:
        return layout_of(_library.find(self.adapter).grid, self.image(image))

    def canvas(self, image: Any) -> tuple[int, int]:
        """(width, height) of the canvas, as the processor's output says."""
        features = self.image(image).features
        if "image_grid_thw" in features:
            return canvas_of_thw(self.key_side or self.patch, features)
        if "num_patches" in features:  # divide_to_patches: width // patch_size + 1 columns
            shown = round(image.width * (self.processor.rescale_image_frac or 1))
            cols = shown // 40 + 1
            return cols * 40, len(features["pixel_values"]) // cols * 40
        return tuple(features["pixel_values"].shape[:1:-1])

    def changes(self, before: Features, after: Features) -> Numbers:
        return self.order(difference(before, after), after)


def made(name: str, **settings: Any) -> Any:
    """Normalised so that black is -1 and white is 1, as `assert_canvas_is_the_resized_image` has it."""
    return image_processor_class(name)(image_mean=[0.5] * 3, image_std=[0.5] * 3, **settings)


def area(patch: int, frames: int = 1) -> dict[str, int]:
    """4 to 60 tokens of 2 x 2 patches."""
    return {"shortest_edge": 4 * frames * (2 * patch) ** 2, "longest_edge": 60 * frames * (2 * patch) ** 2}


CASES = {
    "qwen2_vl": Case(made("Qwen2VLImageProcessorPil", size=area(14)), "qwen_vl", fours),
    "qwen3_vl": Case(made("Qwen2VLImageProcessorPil", size=area(16), patch_size=16), "qwen_vl", fours, 16),
    "glm4v": Case(made("Glm4vImageProcessorPil", size=area(14, frames=2)), "glm4v", fours),
    "glm46v": Case(made("Glm46VImageProcessorPil", size=area(14, frames=2)), "glm4v", fours),
    "glmga": Case(made("GlmgaImageProcessorPil", size=area(14, frames=2)), "glm4v", fours),
    "glm5_next": Case(made("Glm5NextImageProcessorPil", max_image_tokens=60), "glm5_next", fours),
    "ernie4_5_vl_moe": Case(made("Ernie4_5_VLMoeImageProcessorPil", size=area(14)), "ernie4_5_vl_moe", fours),
    "cohere_compass": Case(made("CohereCompassImageProcessorPil", size=area(14)), "cohere_compass", fours),
    "cosmos3_edge": Case(made("Cosmos3EdgeImageProcessorPil", size=area(16)), "cosmos3_edge", fours, 16),
    "minimax_m3_vl": Case(made("MiniMaxM3VLImageProcessor", size=area(14)), "minimax_m3_vl", fours),
    "kimi_k25": Case(
        made("Kimi_K25ImageProcessor", max_patches=240, size={"max_height": 24, "max_width": 24}), "kimi_k25", squares
    ),
    "muse_glimmer": Case(made("MuseGlimmerImageProcessor", max_image_tokens=60, resample=3), "muse", squares),
    "paddleocr_vl": Case(made("PaddleOCRVLImageProcessorPil", size=area(14)), "paddleocr_vl", squares),
    "hunyuan_vl": Case(made("HunYuanVLImageProcessorPil", size=area(16)), "hunyuan_vl", newlines, 16),
    "video_llama_3": Case(made("VideoLlama3ImageProcessorPil", size=area(14)), "video_llama_3", each),
    "mistral3": Case(
        made("PixtralImageProcessorPil", size={"longest_edge": 224}, patch_size={"height": 28, "width": 28}),
        "pixtral",
        unfolded,
    ),
    "inkling2": Case(made("Inkling2ImageProcessor"), "inkling2", each, 20, key_side=40),
    "inkling": Case(made("InklingImageProcessor"), "inkling", each, 40),
    "inkling, scaled": Case(made("InklingImageProcessor", rescale_image_frac=1.3, resample=3), "inkling", each, 40),
}
PADDED = ["glm5_next", "kimi_k25", "inkling2", "inkling", "inkling, scaled"]
every_case = pytest.mark.parametrize("name", CASES)


@every_case
@every_size
def test_each_token_lies_where_its_pixels_come_from(name: str, size: tuple[int, int]) -> None:
    case, image = CASES[name], grey(size)
    canvas = case.canvas(image)
    assert_painted_patches_are_where_the_layout_says(case.processor, size, case.layout(image), [canvas], case.changes)


@every_size
@pytest.mark.parametrize("name", sorted(set(CASES) - set(PADDED)))
def test_a_view_shows_the_image_as_pil_resizes_it(name: str, size: tuple[int, int]) -> None:
    case, image = CASES[name], smooth(size)
    (view,) = case.layout(image).views
    pixels = case.image(image).features["pixel_values"]
    assert_canvas_is_the_resized_image(view, pixels, image, case.canvas(image))
    assert tuple(view.grid.covered) == pytest.approx((0, 0, *size), rel=0.15 if name == "mistral3" else 1e-6)


@every_size
@pytest.mark.parametrize("name", PADDED)
def test_a_view_shows_the_image_in_the_corner_of_a_padded_canvas(name: str, size: tuple[int, int]) -> None:
    case, image = CASES[name], smooth(size)
    (view,) = case.layout(image).views
    width, height = case.canvas(image)
    assert view.pixels is not None
    canvas = view.pixels(np.asarray(case.image(image).features["pixel_values"]))
    assert canvas.shape[1:] == (3, height, width)
    assert (canvas == canvas[:1]).all()
    shown = (round(width * size[0] / view.grid.covered.x2), round(height * size[1] / view.grid.covered.y2))
    padding = np.ones((height, width), dtype=bool)
    padding[: shown[1], : shown[0]] = False
    assert all(len(np.unique(channel[padding])) <= 1 for channel in canvas[0])
    assert_canvas_is_the_resized_image(
        replace(view, pixels=lambda pixels: canvas[:, :, : shown[1], : shown[0]]), canvas, image, shown
    )


@pytest.mark.parametrize(
    ("name", "size", "covered"),
    [
        ("kimi_k25", (81, 41), (84, 56)),  # kept, and padded to whole tokens of 28 px
        ("kimi_k25", (1000, 60), (1000, 60 * 28 / 20)),  # at most 24 patches wide: 336 x 20 px
        ("glm5_next", (200, 150), (224, 168)),  # kept
        ("inkling2", (80, 41), (80, 80)),
        ("inkling", (80, 41), (120, 80)),  # a column more, even where the width is whole patches
        ("inkling, scaled", (100, 50), (160 / 1.3, 80 / 1.3)),
    ],
)
def test_how_far_a_padded_canvas_reaches(name: str, size: tuple[int, int], covered: tuple[float, float]) -> None:
    found = CASES[name].layout(grey(size)).grid.covered
    assert (found.x1, found.y1, found.x2, found.y2) == pytest.approx((0, 0, *covered))


def test_the_pixels_of_every_copy_are_the_image() -> None:
    case = CASES["muse_glimmer"]  # two copies, before the channels
    (view,) = case.layout(smooth((200, 100))).views
    assert view.pixels is not None
    copies = view.pixels(np.asarray(case.image(smooth((200, 100))).features["pixel_values"]))
    assert len(copies) == 2
    assert (copies[0] == copies[1]).all()


# Fuyu, whose full processor cuts the canvas, and LFM2-VL, whose image processor cuts large images into tiles.


def fuyu(processor: Any, images: Any, **_: Any) -> dict[str, Any]:
    """What FuyuProcessor._process_images makes of the image processor's output: the patches that hold the image."""
    features = dict(processor(images, return_tensors="pt"))
    down, across = (-(-int(features[f"image_unpadded_{side}"][0][0]) // 30) * 30 for side in ("heights", "widths"))
    canvas = np.asarray(features["images"][0][0])[:, :down, :across]
    return {**features, "pixel_values": torch.tensor(processor.patchify_image(canvas))}


@every_size
def test_each_token_of_fuyu_lies_where_its_pixels_come_from(size: tuple[int, int]) -> None:
    processor = made("FuyuImageProcessorPil", size={"height": 240, "width": 480})
    layout = layout_of(_library.find("fuyu").grid, processed(processor, grey(size), config(30)))
    canvas = (layout.grid.cols * 30, layout.grid.rows * 30)
    assert_painted_patches_are_where_the_layout_says(
        partial(fuyu, processor), size, layout, [canvas], lambda *found: each(difference(*found), found[1])
    )
    (view,) = layout.views
    assert view.pixels is not None
    found = view.pixels(np.asarray(fuyu(processor, [smooth(size)])["pixel_values"]))
    scale = min(1, 240 / size[1], 480 / size[0])
    shown = (int(size[0] * scale), int(size[1] * scale))
    assert_canvas_is_the_resized_image(
        replace(view, pixels=lambda _: found[:, :, : shown[1], : shown[0]]), found, smooth(size), shown
    )


LFM2 = {"tile_size": 64, "encoder_patch_size": 16, "min_image_tokens": 4, "max_image_tokens": 16, "max_tiles": 6}
LFM2_PROCESSORS = {
    "tiles and a thumbnail": made("Lfm2VlImageProcessor", return_row_col_info=True, **LFM2),
    "tiles": made("Lfm2VlImageProcessor", return_row_col_info=True, use_thumbnail=False, **LFM2),
    "no tiles": made("Lfm2VlImageProcessor", do_image_splitting=False, **LFM2),
}


def lfm2(before: Features, after: Features) -> Numbers:
    """Lfm2VlMultiModalProjector.pixel_unshuffle: picture after picture, 2 x 2 of its own patches are a token."""
    found = []
    for pixels, (rows, cols) in zip(difference(before, after), after["spatial_shapes"].tolist(), strict=True):
        patches = pixels[: rows * cols].sum(axis=1).reshape(rows // 2, 2, cols // 2, 2)
        found.append(patches.sum(axis=(1, 3)).ravel())
    return np.concatenate(found)


def lfm2_canvases(features: Features) -> list[tuple[int, int]]:
    sides = [(cols * 16, rows * 16) for rows, cols in features["spatial_shapes"].tolist()]
    if len(sides) == 1:
        return sides
    rows, cols = int(features["image_rows"][0]), int(features["image_cols"][0])
    return [(cols * sides[0][0], rows * sides[0][1]), *sides[rows * cols :]]


@every_size
@pytest.mark.parametrize("name", LFM2_PROCESSORS)
def test_each_token_of_lfm2_lies_where_its_pixels_come_from(name: str, size: tuple[int, int]) -> None:
    processor, grid = LFM2_PROCESSORS[name], _library.find("lfm2_vl").grid
    image = processed(processor, smooth(size), config(16))
    layout, canvases = layout_of(grid, image), lfm2_canvases(image.features)
    assert_painted_patches_are_where_the_layout_says(processor, size, layout, canvases, lfm2)
    for view, canvas in zip(layout.views, canvases, strict=True):
        assert_canvas_is_the_resized_image(view, image.features["pixel_values"], smooth(size), canvas)


def test_the_sizes_of_these_tests_have_tiles_and_none() -> None:
    views = [
        len(layout_of(_library.find("lfm2_vl").grid, processed(processor, grey(size), config(16))).views)
        for processor in LFM2_PROCESSORS.values()
        for size in SIZES
    ]
    assert set(views) == {1, 2}


# The number of tokens, beside that of the full processors that can be made here.


def tokenizer(image_token: str, **others: str) -> Any:
    names = ["<pad>", "<s>", "<unk>", image_token, *others.values()]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names[3:]])
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")
    for key, token in {"image_token": image_token, **others}.items():
        setattr(fast, key, token)
        setattr(fast, f"{key}_id", names.index(token))
    return fast


ENDS = {"image_start_token": "<start>", "image_end_token": "<end>", "image_break_token": "<break>"}
FULL = {
    "hunyuan_vl": (transformers.HunYuanVLProcessor, "hunyuan_vl", "<start><image><end>"),
    "paddleocr_vl": (transformers.PaddleOCRVLProcessor, "paddleocr_vl", "<image>"),
    "lighton_ocr": (transformers.LightOnOcrProcessor, "mistral3", "<image>"),
    "inkling2": (transformers.Inkling2Processor, "inkling2", "<image>"),
}


@every_size
@pytest.mark.parametrize("name", FULL)
def test_a_layout_has_as_many_tokens_as_the_full_processor_puts_in(name: str, size: tuple[int, int]) -> None:
    full, case, text = FULL[name]
    words = tokenizer("<image>", **ENDS)
    processor = full(image_processor=CASES[case].processor, tokenizer=words)
    ids = processor(images=[grey(size)], text=[f"{text} what?"], return_tensors="pt")["input_ids"]
    assert CASES[case].layout(grey(size)).tokens == int((ids == words.image_token_id).sum())


@every_size
def test_a_layout_of_lfm2_has_as_many_tokens_as_the_full_processor_puts_in(size: tuple[int, int]) -> None:
    words = tokenizer("<image>", **ENDS)
    image_processor = LFM2_PROCESSORS["tiles and a thumbnail"]
    processor = transformers.Lfm2VlProcessor(image_processor=image_processor, tokenizer=words)
    ids = processor(images=[grey(size)], text=["<image> what?"], return_tensors="pt")["input_ids"]
    image = processed(image_processor, grey(size), config(16))
    assert layout_of(_library.find("lfm2_vl").grid, image).tokens == int((ids == words.image_token_id).sum())


# What does not fit is reported.


def altered(name: str, **features: Any) -> Any:
    image = CASES[name].image(grey((120, 120)))
    return replace(image, features={**image.features, **features})


@pytest.mark.parametrize(
    ("grid", "image", "said"),
    [
        (ThwGrid(kind="thw"), altered("qwen2_vl", image_grid_thw=torch.tensor([[2, 8, 8]])), "still images"),
        (ThwGrid(kind="thw"), altered("qwen2_vl", image_grid_thw=torch.tensor([[1, 8, 8]] * 2)), "of one image says"),
        (ThwGrid(kind="thw", merge=5), altered("qwen2_vl"), "blocks of 5 x 5"),
        (ThwGrid(kind="thw", key="grid"), altered("qwen2_vl"), "reads 'grid'"),
        (RowsGrid(kind="rows", patch=40), altered("inkling2"), "do not all end in padding"),
    ],
    ids=["a video", "two images", "merge", "key", "no padding"],
)
def test_a_grid_that_does_not_fit_is_reported(grid: Any, image: Any, said: str) -> None:
    with pytest.raises(AttnLensError, match=said):
        layout_of(grid, image)


def test_pixels_that_do_not_fit_the_grid_are_reported() -> None:
    (view,) = CASES["qwen2_vl"].layout(grey((120, 120))).views
    assert view.pixels is not None
    with pytest.raises(AttnLensError, match=r"shape \(3, 7\).*Correct patch, merge or blocks"):
        view.pixels(np.zeros((3, 7), dtype=np.float32))


def test_tiles_without_their_rows_and_columns_are_reported() -> None:
    processor = made("Lfm2VlImageProcessor", **LFM2)
    with pytest.raises(AttnLensError, match="return_row_col_info"):
        layout_of(_library.find("lfm2_vl").grid, processed(processor, grey((401, 299)), config(16)))


def test_tiles_of_different_shapes_are_reported() -> None:
    image = processed(LFM2_PROCESSORS["tiles"], grey((401, 299)), config(16))
    found = image.features["spatial_shapes"].clone()
    found[0] = 2
    with pytest.raises(AttnLensError, match="tiles of one shape"):
        layout_of(ShapesGrid(kind="shapes"), replace(image, features={**image.features, "spatial_shapes": found}))


def test_an_image_that_leaves_no_trace_is_reported() -> None:
    image = CASES["kimi_k25"].image(grey((120, 120)))
    blind = replace(image, processor=lambda images, **_: image.features)
    with pytest.raises(AttnLensError, match="same of a black and of a white image"):
        layout_of(_library.find("kimi_k25").grid, blind)


def test_settings_given_to_the_call_of_a_padding_processor_are_reported() -> None:
    case = CASES["kimi_k25"]
    image = case.image(grey((401, 299)))
    other = dict(case.processor([grey((401, 299))], max_patches=60, return_tensors="pt"))
    with pytest.raises(AttnLensError, match="itself, not to its call"):
        layout_of(_library.find("kimi_k25").grid, replace(image, features=other))
