"""A small patch is painted into an image, and followed by the model's own order to the vision tower's keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    AriaImageProcessorPil,
    Blip2Processor,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
    IdeficsImageProcessorPil,
    InstructBlipProcessor,
    MllamaImageProcessorPil,
    MllamaProcessor,
)

from attnlens.adapters import _library
from attnlens.adapters._grids import CrossGrid, GridSpec, LatentsGrid
from attnlens.errors import AttnLensError
from attnlens.lens._layouts import Layout, Processed, layout_of
from tests.lens.layouts.painting import Box, grey, painted
from tests.tiny import tokenizer

Numbers = NDArray[np.float64]
Features = Mapping[str, Any]

PATCH = 14
SIZES = [(401, 299), (333, 517), (700, 90), (120, 120), (803, 601)]
PAINTED = 6
SHARE = 0.75  # of a painted patch, that must lie in one key's cell for this key to be the one that changes most
PERCEIVER = SimpleNamespace(resampler_n_latents=8)
QUERIES = {16: 4, 1225: 128, 4900: 256}
CONFIG = SimpleNamespace(
    vision_config=SimpleNamespace(patch_size=PATCH),
    num_query_tokens=8,
    latent_query_num=8,
    perceiver_config=PERCEIVER,
    projector_patch_to_query_dict=QUERIES,
)


def patches(values: Numbers) -> Numbers:
    """[pictures, height, width] -> [pictures, patches]: sums over squares, row by row, as a convolution strides."""
    rows, cols = values.shape[1] // PATCH, values.shape[2] // PATCH
    blocks = values[:, : rows * PATCH, : cols * PATCH].reshape(-1, rows, PATCH, cols, PATCH)
    return blocks.sum(axis=(2, 4)).reshape(-1, rows * cols)


def plain_keys(pixels: Numbers, features: Features) -> Numbers:
    return patches(pixels)


def cls_keys(pixels: Numbers, features: Features) -> Numbers:
    """A CLS token before the patches: InstructBLIP, Kosmos-2, Idefics; Mllama for each tile."""
    found = patches(pixels)
    return np.concatenate([np.zeros((len(found), 1)), found], axis=1)


def idefics2_keys(pixels: Numbers, features: Features) -> Numbers:
    """Idefics2Model.get_image_features: only patches that are full of image are attended."""
    mask = np.asarray(features["pixel_attention_mask"], dtype=float)
    return patches(pixels) * (patches(mask.reshape(-1, *mask.shape[-2:])) == PATCH**2)


def aria_keys(pixels: Numbers, features: Features) -> Numbers:
    """AriaModel._create_patch_attention_mask: patches with any pixel of the image."""
    return patches(pixels) * (patches(np.asarray(features["pixel_mask"], dtype=float)) > 0)


@dataclass(frozen=True)
class Case:
    processor: Any
    adapter: str
    keys: Callable[[Numbers, Features], Numbers]
    """[pictures, height, width] of summed pixels -> [pictures, keys], by the model's own code."""
    reach: float = 2.0
    """Of the resize's kernel, in pixels of the original image or of the canvas, whichever is larger."""

    @property
    def spec(self) -> GridSpec:
        return _library.find(self.adapter).grid

    def features(self, image: Image.Image) -> Features:
        made = self.processor([image], return_tensors="pt")
        return {"pixel_values": made} if isinstance(made, torch.Tensor) else dict(made)

    def layout(self, image: Image.Image, features: Features | None = None) -> Layout:
        features = self.features(image) if features is None else features
        return layout_of(self.spec, Processed(image.size, features, self.processor, CONFIG))

    def changes(self, before: Features, after: Features) -> Numbers:
        """[all keys]: how much the pixels of each differ."""
        difference = np.abs(after["pixel_values"].double().numpy() - before["pixel_values"].double().numpy()).sum(-3)
        return self.keys(difference.reshape(-1, *difference.shape[-2:]), before).ravel()


def aria(**settings: Any) -> AriaImageProcessorPil:
    return AriaImageProcessorPil(max_image_size=490, **settings)


def idefics2(**settings: Any) -> Idefics2ImageProcessorPil:
    return Idefics2ImageProcessorPil(size={"shortest_edge": 98, "longest_edge": 196}, **settings)


SQUARE = {"height": 126, "width": 126}
CASES = {
    "instructblip": Case(BlipImageProcessorPil(size=SQUARE), "instructblip", cls_keys),
    "blip-2, pixels left over": Case(BlipImageProcessorPil(size={"height": 131, "width": 131}), "blip_2", cls_keys),
    "kosmos-2, cropped": Case(
        CLIPImageProcessorPil(size={"shortest_edge": 126}, crop_size=SQUARE), "kosmos2", cls_keys
    ),
    "idefics2": Case(idefics2(), "idefics2", idefics2_keys),
    "idefics2, split": Case(idefics2(do_image_splitting=True), "idefics2", idefics2_keys),
    "aria": Case(aria(), "aria", aria_keys),
    "aria, split": Case(aria(split_image=True), "aria", aria_keys, reach=4.0),
    "aria, split in unequal tiles": Case(
        AriaImageProcessorPil(max_image_size=980, split_image=True), "aria", aria_keys, reach=4.0
    ),
    "idefics": Case(IdeficsImageProcessorPil(image_size=126), "idefics", cls_keys),
    "mllama": Case(MllamaImageProcessorPil(size=SQUARE), "mllama", cls_keys),
    "mllama, six tiles": Case(MllamaImageProcessorPil(size=SQUARE, max_image_tiles=6), "mllama", cls_keys),
}
every_case = pytest.mark.parametrize("name", CASES)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


def places(layout: Layout) -> Numbers:
    """[keys, 4]: the box of each key's cell, in original pixels; not a number where it has no place."""
    boxes = [view.grid.cell(row, col) for view in layout.views for row, col in np.ndindex(view.grid.shape)]
    return np.asarray([*boxes, (np.nan,) * 4])[layout.cells]


def boxes(layout: Layout) -> list[Box]:
    """Patches of half a key's cell, in whole pixels, each somewhere within the cell of a key."""
    random, found = np.random.default_rng(0), []
    shown = places(layout).clip(0, (*layout.grid.image_size, *layout.grid.image_size))
    sides = shown[:, 2:] - shown[:, :2]
    for number in random.choice(np.flatnonzero((sides >= 2).all(axis=1)), PAINTED):
        width, height = np.maximum(1, sides[number] // 2).astype(int)
        left, top = np.ceil(shown[number, :2]).astype(int)
        found.append((int(left), int(top), int(left + width), int(top + height)))
    return found


@every_case
@every_size
def test_a_painted_patch_changes_the_keys_whose_cells_it_lies_in_and_no_far_one(
    name: str, size: tuple[int, int]
) -> None:
    case = CASES[name]
    before = case.features(grey(size))
    layout = case.layout(grey(size), before)
    place = places(layout)
    judged = 0
    for box in boxes(layout):
        changed = case.changes(before, case.features(painted(size, box)))
        assert changed.shape == layout.cells.shape
        assert not changed[layout.cells < 0].any(), box
        gaps = np.maximum(place[:, :2] - box[2:], np.asarray(box[:2]) - place[:, 2:])
        reach = case.reach * np.maximum(1.0, (place[:, 2:] - place[:, :2]) / PATCH) + 1.0
        assert not changed[(gaps > reach).any(axis=1)].any(), box
        shared = np.prod(np.maximum(0, np.minimum(place[:, 2:], box[2:]) - np.maximum(place[:, :2], box[:2])), axis=1)
        for own in np.split(np.arange(len(changed)), layout.tiles):
            best = own[np.nan_to_num(shared[own]).argmax()]
            if shared[best] >= SHARE * (box[2] - box[0]) * (box[3] - box[1]):
                judged += 1
                assert own[changed[own].argmax()] == best, box
    assert judged >= PAINTED // 2


@every_case
@every_size
def test_a_map_of_the_keys_that_a_painted_patch_changes_is_largest_on_that_patch(
    name: str, size: tuple[int, int]
) -> None:
    case = CASES[name]
    before = case.features(grey(size))
    layout = case.layout(grey(size), before)
    for box in boxes(layout)[:4]:
        changed = case.changes(before, case.features(painted(size, box)))
        drawn = layout.on_grid(changed.astype(np.float32))
        assert drawn.sum() <= changed.sum() * 1.001
        row, col = np.unravel_index(drawn.argmax(), drawn.shape)
        cell = layout.grid.cell(int(row), int(col))
        assert cell.x1 < box[2] + 1
        assert cell.x2 > box[0] - 1
        assert cell.y1 < box[3] + 1
        assert cell.y2 > box[1] - 1


@pytest.mark.parametrize("split", [False, True])
def test_images_padded_to_one_size_keep_their_own_places(split: bool) -> None:
    case = CASES["idefics2, split" if split else "idefics2"]
    images = [grey((401, 299)), grey((90, 333))]
    together = dict(case.processor([images], return_tensors="pt"))
    each = together["pixel_values"].shape[1] // 2
    for number, image in enumerate(images):
        part = {key: value[:, number * each : (number + 1) * each] for key, value in together.items()}
        layout, alone = case.layout(image, part), case.layout(image)
        assert (layout.cells >= 0).sum() == (alone.cells >= 0).sum()
        assert layout.views[0].grid == alone.views[0].grid
        assert np.array_equal(places(layout)[layout.cells >= 0], places(alone)[alone.cells >= 0])
        assert len(layout.cells) == each * (part["pixel_values"].shape[-1] // PATCH) * (
            part["pixel_values"].shape[-2] // PATCH
        )


def test_the_canvas_of_a_view_is_what_the_processor_made_of_it() -> None:
    random = np.random.default_rng(1)
    image = Image.fromarray(random.integers(0, 256, (299, 401, 3), dtype=np.uint8))
    for name in ("instructblip", "idefics2", "aria", "idefics", "mllama"):
        case = CASES[name]
        features = case.features(image)
        (view,) = case.layout(image, features).views
        assert view.pixels is not None
        canvas = view.pixels(features["pixel_values"].numpy())
        assert canvas.shape == (1, 3, view.grid.rows * PATCH, view.grid.cols * PATCH)
        first = features["pixel_values"].reshape(-1, *features["pixel_values"].shape[-3:])[0].numpy()
        height, width = min(canvas.shape[2], first.shape[1]), min(canvas.shape[3], first.shape[2])
        np.testing.assert_array_equal(canvas[0, :, :height, :width], first[:, :height, :width])


# Against the full processors: as many image tokens in the prompt as the layout says.

IMAGES = [grey((401, 299)), grey((90, 333))]


@pytest.mark.parametrize("split", [False, True])
def test_idefics2_s_processor_writes_as_many_image_tokens(split: bool) -> None:
    case = CASES["idefics2, split" if split else "idefics2"]
    words = tokenizer(None, ("<s>", "</s>"), bos_token="<s>", eos_token="</s>")
    processor = Idefics2Processor(case.processor, words, image_seq_len=PERCEIVER.resampler_n_latents)
    ids = processor(images=IMAGES, text="<image> and <image>?", return_tensors="pt")["input_ids"]
    tokens = sum(case.layout(image).tokens for image in IMAGES)
    assert (ids == processor.image_token_id).sum() == tokens == 2 * 8 * (5 if split else 1)


def test_mllama_s_processor_writes_one_token_and_opens_just_the_keys_that_have_a_place_and_their_cls() -> None:
    case = CASES["mllama"]
    specials = ("<s>", "</s>", "<|image|>", "<|python_tag|>")
    words = tokenizer(None, specials, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    processor = MllamaProcessor(case.processor, words)
    inputs = processor(images=[IMAGES], text=["<|image|> and <|image|>?"], return_tensors="pt")
    layouts = [case.layout(image) for image in IMAGES]
    assert (inputs["input_ids"] == processor.image_token_id).sum() == sum(layout.tokens for layout in layouts) == 2
    number = int((inputs["input_ids"][0] == processor.image_token_id).nonzero()[0])  # before the second image
    for image, (layout, row) in enumerate(zip(layouts, (number, -1), strict=True)):
        tiles = inputs["cross_attention_mask"][0, row, image]
        cells = layout.cells.reshape(len(tiles), -1)
        assert (cells[:, 0] == -1).all()
        assert np.array_equal((cells[:, 1:] >= 0).all(axis=1), tiles.numpy() == 1)
        assert np.array_equal((cells[:, 1:] >= 0).any(axis=1), tiles.numpy() == 1)


def test_the_q_formers_processors_write_as_many_image_tokens() -> None:
    words = tokenizer("<s> $A", ("<s>", "</s>"), bos_token="<s>", eos_token="</s>", pad_token="</s>")
    for name, made in {
        "blip-2, pixels left over": Blip2Processor(BlipImageProcessorPil(size=SQUARE), words, num_query_tokens=8),
        "instructblip": InstructBlipProcessor(BlipImageProcessorPil(size=SQUARE), words, words, num_query_tokens=8),
    }.items():
        image = IMAGES[0]
        ids = made(images=image, text="Question: what? Answer:", return_tensors="pt")["input_ids"]
        image_id = made.tokenizer.convert_tokens_to_ids("<image>")
        assert (ids == image_id).sum() == CASES[name].layout(image).tokens == 8


@every_size
def test_aria_s_queries_follow_from_a_picture_s_patches(size: tuple[int, int]) -> None:
    for name in ("aria", "aria, split", "aria, split in unequal tiles"):
        case = CASES[name]
        features = case.features(grey(size))
        layout = case.layout(grey(size), features)
        side = features["pixel_values"].shape[-1]
        assert layout.tokens == int(features["num_crops"]) * {490: 128, 980: 256}[side]  # AriaProcessor.size_conversion
        assert layout.tiles == len(features["pixel_values"])


# What does not fit is said.


def test_another_number_of_patches_than_the_config_knows_is_reported() -> None:
    config = SimpleNamespace(**{**vars(CONFIG), "projector_patch_to_query_dict": {4900: 256}})
    case, image = CASES["aria"], grey((401, 299))
    with pytest.raises(AttnLensError, match=r"queries for 4900 patches.*401 x 299 px has 1225"):
        layout_of(case.spec, Processed(image.size, case.features(image), case.processor, config))


def test_a_mask_that_is_no_rectangle_is_reported() -> None:
    case, image = CASES["idefics2"], grey((401, 299))
    features = dict(case.features(image))
    features["pixel_attention_mask"] = features["pixel_attention_mask"].flip(-1) * torch.arange(196).ge(50)
    with pytest.raises(AttnLensError, match="pixel_attention_mask is not 1 on a rectangle"):
        case.layout(image, features)


def test_a_call_that_splits_against_the_processor_s_settings_is_reported() -> None:
    case, image = CASES["idefics2"], grey((401, 299))
    features = case.processor([image], do_image_splitting=True, return_tensors="pt")
    with pytest.raises(AttnLensError, match=r"makes 1 picture\(s\) of an image of 401 x 299 px, but there are 5"):
        case.layout(image, features)


def test_another_size_than_the_processor_s_settings_lead_to_is_reported() -> None:
    case, image = CASES["instructblip"], grey((401, 299))
    features = case.processor([image], size={"height": 70, "width": 70}, return_tensors="pt")
    with pytest.raises(AttnLensError, match=r"canvas of 126 x 126 px, but pixel_values hold 1 of 70 x 70 px"):
        case.layout(image, features)


def test_a_mask_or_an_arrangement_that_the_processor_does_not_give_is_reported() -> None:
    image = grey((401, 299))
    for spec in (LatentsGrid(kind="latents", mask="pixel_mask"), CrossGrid(kind="cross", ratios="aspect_ratio_ids")):
        case = CASES["instructblip"]
        with pytest.raises(AttnLensError, match=r"The adapter's grid reads|has methods of its own"):
            layout_of(spec, Processed(image.size, case.features(image), case.processor, CONFIG))
