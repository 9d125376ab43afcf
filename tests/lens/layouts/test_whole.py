"""One small patch is painted into an image: the real processor shows which tokens see it, and the layout must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    BlipImageProcessorPil,
    ChameleonImageProcessorPil,
    CLIPImageProcessorPil,
    DeepseekVLHybridImageProcessorPil,
    DeepseekVLImageProcessorPil,
    Emu3ImageProcessor,
    Emu3Processor,
    Gemma3ImageProcessorPil,
    Gemma4ImageProcessorPil,
    Gemma4Processor,
    GotOcr2ImageProcessorPil,
    JanusImageProcessorPil,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PixtralImageProcessorPil,
    PPChart2TableImageProcessorPil,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
)
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEConfig, ChameleonVQVAEVectorQuantizer
from transformers.models.emu3.modeling_emu3 import Emu3ImageVocabularyMapping
from transformers.models.gemma4.image_processing_pil_gemma4 import convert_image_to_patches

from attnlens.adapters import _library
from attnlens.adapters._grids import GridSpec, PositionsGrid, SizesGrid, SquareGrid, ThwGrid
from attnlens.conformance._tiny.torchvision_shim import image_processor_class
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._layouts import Layout, Processed, layout_of
from attnlens.lens._layouts.canvas import Canvas
from attnlens.lens._layouts.families import canvas_of
from tests import tiny
from tests.lens.layouts.painting import Box, boxes, every_size, grey, painted

POSITIONS = 12
SHARE = 0.75  # of a painted patch, that must lie in one cell for this cell to be the one that changes most
REACH = 2.0  # of PIL's bicubic kernel, in pixels of the original image or of the canvas, whichever is larger

Numbers = NDArray[np.float64]


@cache
def grid_of(adapter: str) -> GridSpec:
    return _library.find(adapter).grid


@dataclass(frozen=True)
class Case:
    """A processor, the grid that an adapter states for its models, and the rest of the config that the grid reads."""

    processor: Any
    grid: GridSpec | str
    tokens: Callable[[Numbers, Any], Numbers]
    """From how much each value of the pixels differs to how much that of each token does, by the model's own order."""
    patch: int = 14
    reach: float = REACH  # LANCZOS has a wider kernel; a second resize, and convolutions, carry it on

    @property
    def spec(self) -> GridSpec:
        return grid_of(self.grid) if isinstance(self.grid, str) else self.grid

    @property
    def config(self) -> SimpleNamespace:
        vision = SimpleNamespace(
            patch_size=self.patch, spatial_merge_size=2, pooling_kernel_size=3, model_patch_size=3 * self.patch
        )
        return SimpleNamespace(vision_config=vision, mm_tokens_per_image=16, vision_soft_tokens_per_image=25)

    @property
    def key(self) -> str:
        return getattr(self.spec, "key", "") if self.spec.kind == "square" else "pixel_values"

    def inputs(self, image: Image.Image) -> Any:
        return self.processor(images=[image], return_tensors="pt")

    def layout(self, image: Image.Image) -> Layout:
        return layout_of(self.spec, Processed(image.size, self.inputs(image), self.processor, self.config))

    def changes(self, before: Any, after: Any, layout: Layout) -> Numbers:
        """[rows, cols]: how much the pixels differ of the token that the layout puts into each cell."""
        difference = np.abs(after[self.key].numpy().astype(np.float64) - before[self.key].numpy())
        tokens = self.tokens(difference, before)
        assert len(tokens) == len(layout.cells)
        placed = layout.cells >= 0
        assert not tokens[~placed].any()
        found = np.zeros(layout.views[0].count)
        np.add.at(found, layout.cells[placed], tokens[placed])
        return found.reshape(layout.grid.shape)


def squares(difference: Numbers, inputs: Any, side: int = 14, row_end: int = 0) -> Numbers:
    """A strided convolution, or pooling: squares of the canvas, row by row; what is left over is not seen."""
    rows, cols = (length // side for length in difference.shape[-2:])
    seen = difference[0].sum(axis=0)[: rows * side, : cols * side]
    by_row = seen.reshape(rows, side, cols, side).sum(axis=(1, 3))
    return np.pad(by_row, ((0, 0), (0, row_end))).ravel()


def twice_strided(difference: Numbers, inputs: Any, patch: int = 16) -> Numbers:
    """Patches through two convolutions of kernel 3, stride 2 and padding 1, with equal weights (GOT-OCR2)."""
    found = squares(difference, inputs, patch).reshape([length // patch for length in difference.shape[-2:]])
    for _ in range(2):
        padded = np.pad(found, 1)
        found = np.array(
            [
                [padded[y : y + 3, x : x + 3].sum() for x in range(0, found.shape[1], 2)]
                for y in range(0, found.shape[0], 2)
            ]
        )
    return found.ravel()


def qwen(difference: Numbers, inputs: Any) -> Numbers:
    """Four consecutive rows of pixel_values are merged into a token."""
    return difference.reshape(-1, 4 * difference.shape[1]).sum(axis=1)


def gemma4(difference: Numbers, inputs: Any, k: int = 3) -> Numbers:
    """Gemma4VisionPooler: patches go to the kernel of their position, kernels without a patch are dropped."""
    by_patch, positions = difference[0].sum(axis=1), inputs["image_position_ids"][0].numpy()
    width = max(x for x, _ in positions) + 1
    pooled: dict[int, float] = {}
    for change, (x, y) in zip(by_patch, positions, strict=True):
        if x >= 0:
            kernel = x // k + (width // k) * (y // k)
            pooled[kernel] = pooled.get(kernel, 0.0) + change
    return np.array([pooled[kernel] for kernel in sorted(pooled)])


def gemma4_unified(difference: Numbers, inputs: Any) -> Numbers:
    """Each merged patch is embedded as it is; padding is dropped."""
    return difference[0].sum(axis=1)[(inputs["image_position_ids"][0].numpy() >= 0).all(axis=1)]


def clip(resize: dict[str, int], crop: int, of: Any = CLIPImageProcessorPil) -> Any:
    return of(size=resize, crop_size={"height": crop, "width": crop})


def side(length: int) -> dict[str, int]:
    return {"height": length, "width": length}


SQUARE = SquareGrid(kind="square")
LLAVA_PADDED = LlavaImageProcessorPil(size={"shortest_edge": 84}, crop_size=side(84), do_pad=True)
SMALL_BUDGET = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 24})
HYBRID = DeepseekVLHybridImageProcessorPil(size=side(96), high_res_size=side(192))
CASES = {
    "llava-1.5": Case(clip({"shortest_edge": 336}, 336), "llava", squares),
    "llava tiny": Case(clip({"shortest_edge": 84}, 84), "vipllava", squares),
    "llava odd crop": Case(clip({"shortest_edge": 91}, 84), SQUARE, squares),
    "llava small, padded by the crop": Case(clip({"shortest_edge": 71}, 84), SQUARE, squares),
    "llava bounded, padded by the crop": Case(clip({"shortest_edge": 84, "longest_edge": 112}, 112), SQUARE, squares),
    "llava padded to a square": Case(LLAVA_PADDED, "llava", squares),
    "siglip, pixels left over": Case(SiglipImageProcessorPil(size=side(90)), "paligemma", squares),
    "blip": Case(BlipImageProcessorPil(size=side(224)), SQUARE, squares),
    "video_llava": Case(clip({"shortest_edge": 84}, 84, VideoLlavaImageProcessor), "video_llava", squares),
    "fast_vlm": Case(clip({"shortest_edge": 256}, 256), "fast_vlm", partial(squares, side=64)),
    "deepseek_vl": Case(DeepseekVLImageProcessorPil(size=side(96)), "deepseek_vl", partial(squares, side=16), 16),
    "deepseek_vl_hybrid": Case(HYBRID, "deepseek_vl", partial(squares, side=16), 16, reach=2 * REACH),
    "janus": Case(JanusImageProcessorPil(size=side(97)), "janus", partial(squares, side=16), 16),
    "got_ocr2": Case(GotOcr2ImageProcessorPil(size=side(256)), "got_ocr2", twice_strided, 16, reach=REACH + 24),
    "pp_chart2table": Case(
        PPChart2TableImageProcessorPil(size=side(256)), "pp_chart2table", twice_strided, 16, reach=REACH + 24
    ),
    "gemma3": Case(Gemma3ImageProcessorPil(size=side(112)), "gemma3", partial(squares, side=28)),
    "gemma3n": Case(SiglipImageProcessorPil(size=side(240)), "gemma3n", partial(squares, side=48)),
    "chameleon": Case(
        clip({"shortest_edge": 96}, 96, ChameleonImageProcessorPil), "chameleon", partial(squares, side=16), reach=3.0
    ),
    "emu3": Case(
        Emu3ImageProcessor(min_pixels=64 * 64, max_pixels=96 * 96), "emu3", partial(squares, side=8, row_end=1)
    ),
    "pixtral": Case(
        PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size=side(14)), "llava_pixtral", squares
    ),
    "gemma4": Case(Gemma4ImageProcessorPil(patch_size=6, max_soft_tokens=70), "gemma4", gemma4, 6),
    "gemma4_unified": Case(
        image_processor_class("Gemma4UnifiedImageProcessor")(patch_size=6, max_soft_tokens=70),
        "gemma4_unified",
        gemma4_unified,
        6,
    ),
    "qwen2.5-vl": Case(Qwen2VLImageProcessorPil(), "qwen2_5_vl", qwen),
    "qwen2.5-vl, small budget": Case(SMALL_BUDGET, "qwen2_5_vl", qwen),
}
every_case = pytest.mark.parametrize("name", CASES)


def overlaps(grid: Grid, box: Box) -> Numbers:
    """[rows, cols]: the area that each cell shares with a box of the original image."""
    across = np.minimum(grid.x[:, 1], box[2]) - np.maximum(grid.x[:, 0], box[0])
    down = np.minimum(grid.y[:, 1], box[3]) - np.maximum(grid.y[:, 0], box[1])
    return np.outer(np.maximum(down, 0), np.maximum(across, 0))


def distances(grid: Grid, box: Box) -> Numbers:
    """[rows, cols, 2]: the gap, in x and in y, between each cell and the box, in original pixels."""
    gaps = []
    for spans, low, high in ((grid.x, box[0], box[2]), (grid.y, box[1], box[3])):
        gaps.append(np.maximum(0, np.maximum(spans[:, 0] - high, low - spans[:, 1])))
    return np.stack(np.broadcast_arrays(gaps[0][None, :], gaps[1][:, None]), axis=-1)


def made_canvas(case: Case, image: Image.Image) -> Canvas:
    """By the processor's settings for a square; otherwise the image fills the canvas that the view gives back."""
    if isinstance(case.spec, SquareGrid):
        return canvas_of(case.processor, image.size)
    view = case.layout(image).views[0]
    assert view.pixels is not None
    height, width = view.pixels(case.inputs(image)[case.key].numpy()).shape[-2:]
    return Canvas.of(image.size).resized((width, height))


def reach(case: Case, image: Image.Image) -> Numbers:
    """(x, y): how far a pixel's colour is carried by the resize, in original pixels."""
    scale = np.array(made_canvas(case, image).scale)
    return case.reach * np.maximum(1.0, 1.0 / scale) + 1.0  # PIL rounds the kernel's ends to whole pixels


def patch_sides(grid: Grid) -> tuple[int, int]:
    """Half a cell, in whole pixels of the original image."""
    return max(1, round(np.ptp(grid.x[0]) / 2)), max(1, round(np.ptp(grid.y[0]) / 2))


@every_case
@every_size
def test_a_painted_patch_changes_the_token_that_the_grid_says_and_no_far_one(name: str, size: tuple[int, int]) -> None:
    case, image = CASES[name], grey(size)
    layout, before = case.layout(image), case.inputs(image)
    grid, carried = layout.grid, reach(case, image)
    if min(grid.cell_size) < 2:
        pytest.skip("a cell is less than two pixels: no patch of whole pixels lies within it")
    judged = 0
    for box in boxes(grid, POSITIONS):
        changes = case.changes(before, case.inputs(painted(size, box)), layout)
        far = (distances(grid, box) > carried).any(axis=-1)
        assert not changes[far].any(), box
        shared = overlaps(grid, box)
        if shared.max() >= SHARE * (box[2] - box[0]) * (box[3] - box[1]):
            judged += 1
            assert np.argmax(changes) == np.argmax(shared), box
    assert judged >= POSITIONS // 2


@every_case
@every_size
def test_the_centre_of_each_cell_belongs_to_the_token_of_this_cell(name: str, size: tuple[int, int]) -> None:
    case, image = CASES[name], grey(size)
    layout, before = case.layout(image), case.inputs(image)
    grid = layout.grid
    width, height = patch_sides(grid)
    if min(grid.cell_size) < 1:
        pytest.skip("a cell is less than a pixel")
    cells = [(row, col) for row in range(grid.rows) for col in range(grid.cols)]
    chosen = np.random.default_rng(1).permutation(len(cells))[:POSITIONS]
    for row, col in (cells[number] for number in chosen):
        x, y = grid.x[col].mean(), grid.y[row].mean()
        if not (0 < x < size[0] and 0 < y < size[1]):
            continue  # a cell of padding
        left, top = round(x - width / 2), round(y - height / 2)
        after = case.inputs(painted(size, (left, top, left + width, top + height)))
        changes = case.changes(before, after, layout)
        assert np.unravel_index(np.argmax(changes), changes.shape) == (row, col)


@pytest.mark.parametrize("name", ["llava-1.5", "llava tiny", "llava odd crop", "video_llava"])
@pytest.mark.parametrize("size", [(401, 299), (333, 517), (1000, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_what_is_painted_where_the_grid_sees_nothing_changes_nothing(name: str, size: tuple[int, int]) -> None:
    case, image = CASES[name], grey(size)
    layout, before = case.layout(image), case.inputs(image)
    grid, across = layout.grid, size[0] > size[1]
    start, end = (grid.x[0, 0], grid.x[-1, 1]) if across else (grid.y[0, 0], grid.y[-1, 1])
    margin = reach(case, image)[0 if across else 1]
    first, last = int(start - margin), int(np.ceil(end + margin))
    assert first > 5
    assert last < max(size) - 5
    outside = [(0, 0, first, size[1]), (last, 0, *size)] if across else [(0, 0, size[0], first), (0, last, *size)]
    for box in outside:
        assert not case.changes(before, case.inputs(painted(size, box)), layout).any()
    inside = (first, 0, last, size[1]) if across else (0, first, size[0], last)
    assert case.changes(before, case.inputs(painted(size, inside)), layout).all()


@every_case
def test_a_whole_grid_lies_on_the_image_as_the_processor_is_said_to_work(name: str) -> None:
    grid = CASES[name].layout(grey((400, 300))).grid
    expected = {
        "llava-1.5": (50, 0, 350, 300),  # the centre square
        "llava tiny": (50, 0, 350, 300),
        "llava odd crop": (200 - 42 * 300 / 91, 150 - 42 * 300 / 91, 200 + 42 * 300 / 91, 150 + 42 * 300 / 91),
        "llava small, padded by the crop": (23, -27, 377, 327),
        "llava bounded, padded by the crop": (0, -50, 400, 350),
        "llava padded to a square": (0, -50, 400, 350),
        "siglip, pixels left over": (0, 0, 400 * 84 / 90, 300 * 84 / 90),
        "video_llava": (50, 0, 350, 300),
        "fast_vlm": (50, 0, 350, 300),
        "deepseek_vl": (0, -50, 400, 350),
        "deepseek_vl_hybrid": (0, -50, 400, 350),
        "janus": (0, -50, 400 * 96 / 97, 400 * 96 / 97 - 50),
        "pp_chart2table": (-400 * 24 / 256, -300 * 24 / 256, 400 * 232 / 256, 300 * 232 / 256),  # a patch and a half
        "chameleon": (50, 0, 350, 300),
    }.get(name, (0, 0, 400, 300))
    assert tuple(grid.covered) == pytest.approx(expected, abs=300 / 71)  # a canvas pixel of rounding, at most
    assert grid.image_size == (400, 300)
    assert np.allclose(grid.x[1:, 0], grid.x[:-1, 1])
    assert np.allclose(grid.y[1:, 0], grid.y[:-1, 1])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_each_family_s_own_processor_and_config_give_a_grid_of_its_tokens(family: tiny.Family, kind: tiny.Kind) -> None:
    model, processor = tiny.build(family)
    for image in tiny.images(kind, 2):
        inputs = processor.image_processor(images=[image], return_tensors="pt")
        layout = layout_of(
            _library.find(family).grid, Processed(image.size, inputs, processor.image_processor, model.config)
        )
        tokens = int(inputs["image_grid_thw"].prod()) // 4 if family == "qwen2_5_vl" else 36
        assert layout.grid.image_size == image.size
        assert layout.cells.tolist() == list(range(tokens))
        assert layout.views[0].count == tokens


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("llava-1.5", LlavaProcessor),
        ("video_llava", VideoLlavaProcessor),
        ("emu3", Emu3Processor),
        ("gemma4", Gemma4Processor),
    ],
)
@every_size
def test_a_full_processor_puts_as_many_image_tokens_into_the_prompt(name: str, of: Any, size: tuple[int, int]) -> None:
    """The image token expanded by the processor's own method: the rest of the processor, a tokenizer, is not needed."""
    case, image = CASES[name], grey(size)
    settings = SimpleNamespace(
        image_token="<image>", boi_token="", eoi_token="", image_start_token="", image_end_token=""
    )
    settings.fake_token_around_image = settings.eof_token = ""
    settings.patch_size, settings.downsample_ratio = case.patch, 8
    settings.num_additional_image_tokens, settings.vision_feature_select_strategy = 1, "default"
    expanded = of.replace_image_token(settings, case.inputs(image), 0)
    assert expanded.count("<image>") == len(case.layout(image).cells) > 0


# These pad by a colour, or do not resize by PIL: shown by the painted patches.
NOT_PLAIN = {"llava padded to a square", "deepseek_vl", "deepseek_vl_hybrid", "janus", "gemma4_unified"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_PLAIN])
@every_size
def test_the_pixels_of_a_view_are_the_image_that_pil_makes(name: str, size: tuple[int, int]) -> None:
    case, random = CASES[name], np.random.default_rng(2)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    canvas, view = made_canvas(case, image), case.layout(image).views[0]
    assert view.pixels is not None
    got = view.pixels(case.inputs(image)[case.key].numpy()).mean(axis=0)
    assert got.shape == (3, canvas.size[1], canvas.size[0])
    assert got.dtype == np.float32
    width, height = (round(length * scale) for length, scale in zip(size, canvas.scale, strict=True))
    resized = np.asarray(image.resize((width, height), case.processor.resample), dtype=np.float64)
    resized *= case.processor.rescale_factor
    normal = ((resized - case.processor.image_mean) / case.processor.image_std).transpose(2, 0, 1)
    left, top = (int(shift) for shift in canvas.offset)
    x, y = slice(max(0, left), left + width), slice(max(0, top), top + height)
    shown = got[:, y, x]
    cut = normal[:, max(0, -top) :, max(0, -left) :][:, : shown.shape[1], : shown.shape[2]]
    np.testing.assert_allclose(shown, cut, atol=1e-5)


def flat(case: Case, canvas: Numbers, inputs: Any) -> Numbers:
    """The canvas in the form in which the processor gives pixels."""
    if isinstance(case.spec, ThwGrid):
        return np.asarray(case.processor.patchify(canvas, 14, 2, 2)[0])
    if isinstance(case.spec, PositionsGrid):
        patches = convert_image_to_patches(canvas, case.patch)
        return np.pad(patches, ((0, inputs[case.key].shape[1] - len(patches)), (0, 0)))[None]
    return canvas[None]


@pytest.mark.parametrize("name", ["llava tiny", "blip", "qwen2.5-vl, small budget", "emu3", "gemma4"])
def test_a_gradient_on_the_canvas_foretells_what_a_change_of_the_canvas_does(name: str) -> None:
    case, image, random = CASES[name], grey((75, 130)), np.random.default_rng(3)
    inputs, view, canvas = case.inputs(image), case.layout(image).views[0], made_canvas(case, image)
    gradient = random.normal(size=inputs[case.key].shape)
    change = random.normal(size=(3, canvas.size[1], canvas.size[0]))
    assert view.pixels is not None
    got = view.pixels(gradient.astype(np.float32)).sum(axis=0)
    expected = float((flat(case, change, inputs) * gradient).sum())
    assert float((got * change).sum()) == pytest.approx(expected, rel=1e-4)


def test_gemma4_unified_s_merged_patches_lie_where_their_positions_say() -> None:
    """Its image processor needs torchvision: its output is made here, by its modules' formulas, in plain loops."""
    patch, k, rows, cols, budget = 4, 3, 2, 5, 70
    picture = np.random.default_rng(4).normal(size=(3, rows * k * patch, cols * k * patch)).astype(np.float32)
    pixels, positions = np.zeros((1, budget, (k * patch) ** 2 * 3), np.float32), np.full((1, budget, 2), -1)
    for y in range(rows):
        for x in range(cols):
            token = picture[:, y * k * patch : (y + 1) * k * patch, x * k * patch : (x + 1) * k * patch]
            pixels[0, y * cols + x] = token.transpose(1, 2, 0).ravel()
            positions[0, y * cols + x] = x, y
    config = SimpleNamespace(vision_config=SimpleNamespace(model_patch_size=k * patch))
    processor = SimpleNamespace(do_resize=True)
    inputs = {"pixel_values": pixels, "image_position_ids": positions}
    layout = layout_of(_library.find("gemma4_unified").grid, Processed((100, 80), inputs, processor, config))
    assert layout.cells.tolist() == list(range(rows * cols))
    assert layout.grid == Grid.regular(rows, cols, (100, 80))
    assert layout.views[0].pixels is not None
    np.testing.assert_array_equal(layout.views[0].pixels(pixels)[0], picture)


def test_emu3_s_codes_are_row_by_row_each_row_with_an_end() -> None:
    names = {f"<|visual token {number:06d}|>": 10 + number for number in range(15)}
    mapping = Emu3ImageVocabularyMapping({**names, "<|extra_200|>": 99, "<image>": 98})
    codes = mapping.convert_img2bpe(torch.arange(15).reshape(3, 5)).flatten().numpy()
    inputs = {"pixel_values": np.zeros((1, 3, 24, 40)), "image_sizes": np.array([[24, 40]])}
    layout = layout_of(grid_of("emu3"), processed(Emu3ImageProcessor(), inputs))
    assert layout.grid == Grid.regular(3, 5, (100, 80))
    assert layout.cells.tolist() == [-1 if code == 99 else code - 10 for code in codes]


def test_chameleon_s_codes_are_row_by_row() -> None:
    rows, cols = 2, 3
    quantizer = ChameleonVQVAEVectorQuantizer(ChameleonVQVAEConfig(num_embeddings=rows * cols, embed_dim=rows * cols))
    quantizer.embedding.weight.data = torch.eye(rows * cols)  # one code for each place
    features = torch.eye(rows * cols).T.reshape(1, rows * cols, rows, cols)
    codes = quantizer(features)[2].flatten()
    layout = CASES["chameleon"].layout(grey((100, 80)))
    assert codes.tolist() == list(range(rows * cols))
    assert layout.cells.tolist() == list(range(layout.grid.rows * layout.grid.cols))


class TurnsTheImage(CLIPImageProcessorPil):
    def resize(self, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        return super().resize(image[:, ::-1].copy(), *args, **kwargs)


def processed(processor: Any, inputs: Any, config: Any = None) -> Processed:
    return Processed((100, 80), inputs, processor, config or CASES["llava tiny"].config)


@pytest.mark.parametrize(
    ("processor", "said"),
    [
        (clip({"longest_edge": 84}, 84), "longest_edge"),
        (clip({"max_height": 84, "max_width": 84}, 84), "max_height"),
        (CLIPImageProcessorPil(do_pad=True), "do_pad"),
        (CLIPImageProcessorPil(do_thumbnail=True), "do_thumbnail"),
        (TurnsTheImage(), "resize"),
        (Qwen2VLImageProcessorPil(), "_preprocess"),
        (DeepseekVLImageProcessorPil(size={"height": 84, "width": 98}), "same height and width"),
    ],
    ids=["longest edge", "bounded", "pad", "unknown step", "own code", "another family", "no square"],
)
def test_settings_that_are_not_known_are_reported_rather_than_guessed(processor: Any, said: str) -> None:
    inputs = CASES["llava tiny"].inputs(grey((100, 80)))
    with pytest.raises(AttnLensError, match=said):
        layout_of(SQUARE, processed(processor, inputs))


@pytest.mark.parametrize("made", [GotOcr2ImageProcessorPil, CLIPImageProcessorPil])
def test_a_step_that_the_family_s_own_code_never_reads_does_nothing(made: Any) -> None:
    """Files state `do_pad` and the like for processors that know no such step; the common code knows them all."""
    picture = grey((100, 80))
    plain, stated = made(), made(do_center_crop=True, crop_size={"height": 56, "width": 56})
    pixels = [one([picture], return_tensors="pt")["pixel_values"] for one in (plain, stated)]
    ignored = pixels[0].shape == pixels[1].shape and torch.equal(*pixels)
    canvases = [canvas_of(one, picture.size) for one in (plain, stated)]
    assert (canvases[0] == canvases[1]) is ignored
    assert ignored is (made is GotOcr2ImageProcessorPil)


def test_a_canvas_other_than_the_settings_lead_to_is_reported() -> None:
    processor = CASES["llava tiny"].processor
    inputs = processor(images=[grey((100, 80))], crop_size=side(70), return_tensors="pt")
    with pytest.raises(AttnLensError, match="84 x 84 px, but pixel_values hold 70 x 70"):
        layout_of(SQUARE, processed(processor, inputs))


@pytest.mark.parametrize(
    "processor",
    [
        GotOcr2ImageProcessorPil(size=side(84), crop_to_patches=True),
        Gemma3ImageProcessorPil(
            size=side(84),
            do_pan_and_scan=True,
            pan_and_scan_min_crop_size=10,
            pan_and_scan_max_num_crops=4,
            pan_and_scan_min_ratio_to_activate=1.2,
        ),
    ],
    ids=["tiles", "pan and scan"],
)
def test_several_pictures_of_one_image_are_reported(processor: Any) -> None:
    inputs = processor(images=[grey((100, 80))], return_tensors="pt")
    assert len(inputs["pixel_values"]) > 1
    with pytest.raises(AttnLensError, match=r"shape \(\d+, 3, 84, 84\).*several pictures"):
        layout_of(SQUARE, processed(processor, inputs))


def test_a_processor_without_the_grid_s_key_is_reported() -> None:
    case = CASES["siglip, pixels left over"]
    with pytest.raises(AttnLensError, match=r"image_grid_thw.*pixel_values"):
        layout_of(grid_of("qwen2_5_vl"), processed(case.processor, case.inputs(grey((100, 80)))))


def test_sizes_that_are_not_those_of_the_canvas_are_reported() -> None:
    processor = CASES["pixtral"].processor
    inputs = {**processor(images=[grey((100, 80))], return_tensors="pt"), "image_sizes": np.array([[80, 100]])}
    with pytest.raises(AttnLensError, match=r"100 x 80 px.*pixel_values hold 112 x 84 px"):
        layout_of(SizesGrid(kind="sizes"), processed(processor, inputs))


def test_patches_that_cannot_be_pooled_evenly_are_reported() -> None:
    case = CASES["llava tiny"]  # 6 x 6 patches
    with pytest.raises(AttnLensError, match=r"pooled evenly into 16 tokens"):
        layout_of(SquareGrid(kind="square", tokens=16), processed(case.processor, case.inputs(grey((100, 80)))))


def test_tokens_and_merge_together_are_refused() -> None:
    with pytest.raises(ValueError, match="leave merge out"):
        SquareGrid(kind="square", tokens=16, merge=2)


def test_a_patch_larger_than_the_canvas_is_reported() -> None:
    case = CASES["llava tiny"]
    with pytest.raises(AttnLensError, match=r"84 x 84 px holds no square of 140 px"):
        layout_of(SquareGrid(kind="square", merge=10), processed(case.processor, case.inputs(grey((100, 80)))))


@pytest.mark.parametrize(
    "positions", [[[0, 0], [2, 0]], [[-1, -1]], [[0, 0], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [1, 0], [2, 0]]]
)
def test_positions_that_fill_no_rectangle_of_blocks_are_reported(positions: list[list[int]]) -> None:
    inputs = {"image_position_ids": np.array([positions])}
    spec = PositionsGrid(kind="positions", merge=2 if len(positions) == 3 else 1)
    with pytest.raises(AttnLensError, match=r"image_position_ids gives \d positions"):
        layout_of(spec, processed(SimpleNamespace(do_resize=True), inputs))
