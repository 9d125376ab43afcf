"""Any resolution: each token's cell is where the real image processor put its pixels.

Pixels are followed to tokens by the model's own `pack_image_features`, which knows nothing of grids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Granite4VisionModel,
    LlavaNextImageProcessorPil,
    LlavaNextModel,
    LlavaNextProcessor,
    LlavaNextVideoModel,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionModel,
)

from attnlens import adapters
from attnlens.adapters._grids import AnyresGrid
from attnlens.errors import AttnLensError
from attnlens.lens._layouts import Layout, Processed, layout_of
from tests import tiny
from tests.lens.layouts import painting
from tests.lens.layouts.painting import (
    Features,
    Numbers,
    assert_painted_patches_are_where_the_layout_says,
    difference,
    grey,
    processed,
    smooth,
)

SIZES = [(401, 299), (90, 500), (1000, 60), (112, 112), (31, 20)]
THIN = [(1, 793), (793, 1), (9, 225), (225, 9), (40, 793), (793, 40), (1, 1), (30, 4000), (4000, 30)]
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
PATCH, SIDE = 7, 56
NEXT = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
ONE = [[56 * rows, 56 * cols] for rows in range(1, 7) for cols in range(1, 7)]
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@dataclass(frozen=True)
class Case:
    """An image processor, the model's own code for packing, and the rest of the config that the adapter reads."""

    model_type: str
    processor: Any
    model: Any
    patch: int = PATCH
    merge: int = 1
    most: str | None = None
    reach: float = painting.REACH

    @property
    def spec(self) -> Any:
        return grid_of(self.model_type)

    @property
    def config(self) -> SimpleNamespace:
        vision = SimpleNamespace(patch_size=self.patch, image_size=SIDE)
        pinpoints = self.processor.image_grid_pinpoints
        return SimpleNamespace(
            vision_config=vision,
            image_grid_pinpoints=pinpoints,
            vision_aspect_ratio=self.most,
            downsample_rate=f"{4 // self.merge}/4",
        )

    def image(self, image: Any) -> Processed:
        return processed(self.processor, image, self.config)

    def layout(self, size: tuple[int, int]) -> Layout:
        return layout_of(self.spec, self.image(grey(size)))

    def changes(self, before: Features, after: Features) -> Numbers:
        """Each token's pixels, put together by the model; a newline has none."""
        pixels = difference(before, after)[0]
        cells = SIDE // self.patch // self.merge
        side = self.patch * self.merge
        used = pixels[:, :, : cells * side, : cells * side]
        tokens = used.reshape(len(pixels), 3, cells, side, cells, side).sum(axis=(1, 3, 5)).reshape(len(pixels), -1, 1)
        this = SimpleNamespace(config=self.config, downsample_rate=self.config.downsample_rate, layerwise_projectors=())
        told = {"vision_aspect_ratio": self.most} if self.most else {"vision_feature_select_strategy": "default"}
        packed = self.model.pack_image_features(
            this, [torch.tensor(tokens)], after["image_sizes"], image_newline=torch.zeros(1, dtype=torch.double), **told
        )
        packed = packed[0] if isinstance(packed, tuple) else packed
        return packed[0][:, 0].numpy()

    def canvases(self, layout: Layout) -> list[tuple[int, int]]:
        side = self.patch * self.merge
        return [(view.grid.cols * side, view.grid.rows * side) for view in layout.views]


@cache
def grid_of(model_type: str) -> AnyresGrid:
    spec = adapters.for_model_type(model_type).grid
    assert isinstance(spec, AnyresGrid)
    return spec


def llava_next(**settings: Any) -> Any:
    square = {"height": SIDE, "width": SIDE}
    given = {"size": {"shortest_edge": SIDE}, "crop_size": square, "image_grid_pinpoints": NEXT, **HALVES, **settings}
    return LlavaNextImageProcessorPil(**given)


def onevision(**settings: Any) -> Any:
    return LlavaOnevisionImageProcessorPil(
        **{"size": {"height": SIDE, "width": SIDE}, "image_grid_pinpoints": ONE, **HALVES, **settings}
    )


CASES = {
    "llava-next": Case("llava_next", llava_next(), LlavaNextModel),
    "llava-next video": Case("llava_next_video", llava_next(), LlavaNextVideoModel),
    "pixels left over": Case("llava_next", llava_next(), LlavaNextModel, patch=9),
    "llava-onevision": Case("llava_onevision", onevision(), LlavaOnevisionModel, most="anyres_max_99"),
    "llava-onevision, scaled down": Case(
        "llava_onevision", onevision(), LlavaOnevisionModel, most="anyres_max_2", reach=4 * PATCH
    ),
    "llava-onevision, scaled down, pixels left over": Case(
        "llava_onevision", onevision(), LlavaOnevisionModel, patch=9, most="anyres_max_5", reach=2 * PATCH
    ),
    "granite 4 vision": Case("granite4_vision", llava_next(), Granite4VisionModel, merge=2),
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


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_llava_next_s_full_processor_puts_as_many_image_tokens_into_the_prompt(size: tuple[int, int]) -> None:
    case = CASES["llava-next"]
    words = tiny.tokenizer(None, ("<image>",))
    processor = LlavaNextProcessor(case.processor, words, PATCH, "default", None, "<image>", 1)
    ids = processor(images=[grey(size)], text="<image>What?", return_tensors="pt")["input_ids"]
    assert len(case.layout(size).cells) == int((ids == processor.image_token_id).sum())


@every_case
@pytest.mark.parametrize("size", THIN, ids=str)
def test_a_strip_of_any_thinness_has_the_tokens_that_the_model_packs(name: str, size: tuple[int, int]) -> None:
    """A row without a token still ends in a newline; no pixel reaches one."""
    case = CASES[name]
    layout = case.layout(size)
    before, after = (case.processor([image], return_tensors="pt") for image in (grey(size), Image.new("RGB", size)))
    changed = case.changes(before, after)
    assert changed.shape == layout.cells.shape
    assert ((changed > 0) == (layout.cells >= 0)).all()


def test_the_square_comes_first_and_each_row_of_the_tiles_ends_with_a_newline() -> None:
    layout = CASES["llava-next"].layout((400, 300))
    tiles, square = layout.views
    assert tiles.grid.shape == (12, 16)
    assert layout.cells[:64].tolist() == list(range(12 * 16, 12 * 16 + 64))
    lines = layout.cells[64:].reshape(12, 17)
    assert (lines[:, -1] == -1).all()
    assert lines[:, :-1].ravel().tolist() == list(range(12 * 16))
    assert tuple(square.grid.covered) == pytest.approx((0, 0, 400, 300))
    assert tuple(tiles.grid.covered) == pytest.approx((0, 0, 400, 300), abs=300 / 84)  # a canvas pixel of rounding


def test_padding_that_a_row_of_tokens_has_beside_the_image_stays_outside_it() -> None:
    layout = CASES["llava-next"].layout((400, 290))  # 81 of 112 px: 11 rows, of which the model leaves 12
    assert layout.grid.rows == 12
    assert layout.grid.covered.y1 < 0
    assert layout.grid.covered.y2 > 290
    assert tuple(layout.grid.covered)[::2] == pytest.approx((0, 400))


def test_a_strip_too_thin_for_a_row_of_tokens_is_seen_on_the_square_alone() -> None:
    case, size = CASES["llava-next"], (1000, 20)
    layout = case.layout(size)
    assert len(layout.views) == 1
    assert layout.cells.tolist() == list(range(64))
    assert_painted_patches_are_where_the_layout_says(case.processor, size, layout, case.canvases(layout), case.changes)


@pytest.mark.parametrize("name", ["llava-next", "llava-onevision", "llava-onevision, scaled down", "granite 4 vision"])
@pytest.mark.parametrize("size", [(401, 299), (90, 500)], ids=str)
def test_each_view_shows_the_part_of_the_image_that_its_grid_covers(name: str, size: tuple[int, int]) -> None:
    case = CASES[name]
    image = case.image(smooth(size))
    for view in layout_of(case.spec, image).views:
        assert view.pixels is not None
        found = view.pixels(image.array("pixel_values"))[0]
        box = view.grid.covered
        x = box.x1 + (np.arange(found.shape[2]) + 0.5) * box.width / found.shape[2]
        y = box.y1 + (np.arange(found.shape[1]) + 0.5) * box.height / found.shape[1]
        inside = np.outer((y > 0) & (y < size[1]), (x > 0) & (x < size[0]))
        assert inside.mean() > 0.8
        original = np.asarray(smooth(size), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
        rows, cols = (np.clip(at.astype(int), 0, length - 1) for at, length in ((y, size[1]), (x, size[0])))
        apart = np.abs(found - original[:, rows][:, :, cols]).max(axis=0)
        assert apart[inside].max() < 0.1


def test_scaled_down_tokens_share_the_tiles_evenly() -> None:
    whole = CASES["llava-onevision"].layout((300, 300)).grid
    small = CASES["llava-onevision, scaled down"].layout((300, 300)).grid
    assert whole.shape == (48, 48)
    assert small.shape == (11, 11)
    assert tuple(small.covered) == tuple(whole.covered)
    np.testing.assert_allclose(np.diff(small.x, axis=1), 300 / 11)


def test_scaled_down_tokens_see_nothing_of_pixels_left_over_between_tiles() -> None:
    case = replace(CASES["llava-onevision, scaled down, pixels left over"], most="anyres_max_9")
    grid = case.layout((300, 300)).grid
    assert grid.shape == (18, 18)  # of 6 tiles of 56 px, each 6 patches of 9 px on a side: 3 tokens
    assert grid.x[2, 1] == pytest.approx(300 / 336 * 54)
    assert grid.x[3, 0] == pytest.approx(300 / 336 * 56)


def refused(match: str, case: Case, **changed: Any) -> None:
    with pytest.raises(AttnLensError, match=match):
        layout_of(case.spec, replace(case.image(grey((400, 300))), **changed))


def test_other_tiles_than_the_model_counts_are_refused() -> None:
    case = CASES["llava-next"]
    refused("image_size", case, config=config_of(case, vision_config=SimpleNamespace(patch_size=7, image_size=64)))
    refused("image_grid_pinpoints of the model's", case, config=config_of(case, image_grid_pinpoints=[[56, 168]]))
    refused("image_grid_pinpoints of the image proc", case, processor=llava_next(image_grid_pinpoints=[[56, 56]]))
    refused("crop_size", case, processor=llava_next(size={"shortest_edge": 64}))


def test_a_square_alone_is_refused() -> None:
    case = CASES["llava-onevision"]
    features = case.processor([[grey((400, 300)), grey((40, 30))]], return_tensors="pt")
    one = {**features, "pixel_values": features["pixel_values"][:1]}
    refused("one image at a time", case, features=one)


def test_another_image_processor_is_refused() -> None:
    class Mirroring(LlavaNextImageProcessorPil):
        def get_image_patches(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_image_patches(*args, **kwargs)[::-1]

    refused("Mirroring has methods of its own: get_image_patches", CASES["llava-next"], processor=Mirroring())


@pytest.mark.parametrize("most", ["anyres", "anyres_max_0", "9 tiles"])
def test_a_limit_that_names_no_number_of_tiles_is_refused(most: str) -> None:
    case = CASES["llava-onevision"]
    refused("most is", case, config=config_of(case, vision_aspect_ratio=most))


def config_of(case: Case, **changed: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(case.config), **changed})
