"""One small patch is painted into an image: the real processor shows which tokens see it, and the Grid must agree."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
)

from attnlens.adapters.schema import AdapterSpec, GridSpec, LatentsGrid, SquareGrid, ThwGrid
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens.canvas import canvas_of, gradient_to_canvas, to_canvas, token_grid
from tests import tiny

SIZES = [(401, 299), (333, 517), (1000, 60), (120, 120), (31, 20)]
POSITIONS = 20
SHARE = 0.75  # of a painted patch, that must lie in one cell for this cell to be the one that changes most
REACH = 2.0  # of PIL's bicubic kernel, in pixels of the original image or of the canvas, whichever is larger


@dataclass(frozen=True)
class Case:
    """A processor, the grid its models have, and the rest of the config that the grid reads."""

    processor: Any
    spec: GridSpec
    patch: int = 14

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(vision_config=SimpleNamespace(patch_size=self.patch, spatial_merge_size=2))

    def inputs(self, *images: Image.Image) -> Any:
        return self.processor(images=list(images), return_tensors="pt")

    def grid(self, image: Image.Image) -> Grid:
        inputs = self.inputs(image)
        canvas = canvas_of(self.processor, image.size, inputs, 0, self.spec)
        return token_grid(self.spec, canvas, self.config, inputs, 0, len(self.changes(inputs, inputs)))

    def changes(self, before: Any, after: Any) -> NDArray[np.float64]:
        """[tokens]: how much each token's own pixels differ, by the model's own order of patches."""
        difference = np.abs(after["pixel_values"].numpy().astype(np.float64) - before["pixel_values"].numpy())
        if isinstance(self.spec, ThwGrid):  # four consecutive rows of pixel_values are merged into a token
            return difference.reshape(-1, 4 * difference.shape[1]).sum(axis=1)
        rows, cols = (side // self.patch for side in difference.shape[-2:])
        seen = difference[0].sum(axis=0)[: rows * self.patch, : cols * self.patch]
        return seen.reshape(rows, self.patch, cols, self.patch).sum(axis=(1, 3)).ravel()


def merging() -> ThwGrid:
    spec = AdapterSpec.from_mapping(
        {"model_types": ["x"], "grid": {"kind": "thw", "merge": {"config": "vision_config.spatial_merge_size"}}}
    ).grid
    assert isinstance(spec, ThwGrid)
    return spec


def clip(resize: dict[str, int], crop: int) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size=resize, crop_size={"height": crop, "width": crop})


SQUARE, LATENTS = SquareGrid(kind="square"), LatentsGrid(kind="latents")
CASES = {
    "llava-1.5": Case(clip({"shortest_edge": 336}, 336), SQUARE),
    "llava tiny": Case(clip({"shortest_edge": 84}, 84), SQUARE),
    "llava odd crop": Case(clip({"shortest_edge": 91}, 84), SQUARE),
    "llava small, padded by the crop": Case(clip({"shortest_edge": 71}, 84), SQUARE),
    "llava bounded, padded by the crop": Case(clip({"shortest_edge": 84, "longest_edge": 112}, 112), SQUARE),
    "llava padded to a square": Case(
        LlavaImageProcessorPil(size={"shortest_edge": 84}, crop_size={"height": 84, "width": 84}, do_pad=True), SQUARE
    ),
    "siglip, pixels left over": Case(SiglipImageProcessorPil(size={"height": 90, "width": 90}), SQUARE),
    "instructblip": Case(BlipImageProcessorPil(size={"height": 224, "width": 224}), LATENTS),
    "qwen2.5-vl": Case(Qwen2VLImageProcessorPil(), merging()),
    "qwen2.5-vl, small budget": Case(
        Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 24}), merging()
    ),
}
every_case = pytest.mark.parametrize("name", CASES)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


def grey(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, (110, 120, 130))


def painted(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    image = grey(size)
    image.paste((200, 210, 30), box)
    return image


def overlaps(grid: Grid, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """[rows, cols]: the area that each cell shares with a box of the original image."""
    across = np.minimum(grid.x[:, 1], box[2]) - np.maximum(grid.x[:, 0], box[0])
    down = np.minimum(grid.y[:, 1], box[3]) - np.maximum(grid.y[:, 0], box[1])
    return np.outer(np.maximum(down, 0), np.maximum(across, 0))


def distances(grid: Grid, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """[rows, cols, 2]: the gap, in x and in y, between each cell and the box; in kernel reaches."""
    gaps = []
    for spans, low, high in ((grid.x, box[0], box[2]), (grid.y, box[1], box[3])):
        gaps.append(np.maximum(0, np.maximum(spans[:, 0] - high, low - spans[:, 1])))
    return np.stack(np.broadcast_arrays(gaps[0][None, :], gaps[1][:, None]), axis=-1)


def reach(case: Case, image: Image.Image) -> NDArray[np.float64]:
    """(x, y): how far a pixel's colour is carried by the resize, in original pixels."""
    scale = np.array(canvas_of(case.processor, image.size, case.inputs(image), 0, case.spec).scale)
    return REACH * np.maximum(1.0, 1.0 / scale) + 1.0  # PIL rounds the kernel's ends to whole pixels


def boxes(grid: Grid, count: int) -> list[tuple[int, int, int, int]]:
    """Patches of half a cell, in whole pixels: by turns anywhere in the image, and within what a cell shows of it."""
    random, size = np.random.default_rng(0), np.array(grid.image_size)
    cells = [grid.cell(row, col).clip(grid.image_size) for row in range(grid.rows) for col in range(grid.cols)]
    shown = [cell for cell in cells if min(cell.width, cell.height) >= 1.5]
    chosen = []
    for number in range(count):
        cell = shown[random.integers(len(shown))]
        sides = np.maximum(1, np.round((cell.width / 2, cell.height / 2)))
        low, high = (size * 0, size) if number % 2 else (np.ceil(cell[:2]), np.floor(cell[2:]))
        corner = np.round(random.uniform(low, np.maximum(low, high - sides)))
        left, top, right, bottom = (int(edge) for edge in (*corner, *(corner + sides)))
        chosen.append((left, top, right, bottom))
    return chosen


def patch_sides(grid: Grid) -> tuple[int, int]:
    """Half a cell, in whole pixels of the original image."""
    return max(1, round(np.ptp(grid.x[0]) / 2)), max(1, round(np.ptp(grid.y[0]) / 2))


@every_case
@every_size
def test_a_painted_patch_changes_the_token_that_the_grid_says_and_no_far_one(name: str, size: tuple[int, int]) -> None:
    case, image = CASES[name], grey(size)
    grid, before = case.grid(image), case.inputs(image)
    if min(grid.cell_size) < 2:
        pytest.skip("a cell is less than two pixels: no patch of whole pixels lies within it")
    judged = 0
    for box in boxes(grid, POSITIONS):
        changes = case.changes(before, case.inputs(painted(size, box))).reshape(grid.shape)
        far = (distances(grid, box) > reach(case, image)).any(axis=-1)
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
    grid, before = case.grid(image), case.inputs(image)
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
        changes = case.changes(before, after).reshape(grid.shape)
        assert np.unravel_index(np.argmax(changes), changes.shape) == (row, col)


@pytest.mark.parametrize("name", ["llava-1.5", "llava tiny", "llava odd crop"])
@pytest.mark.parametrize("size", [(401, 299), (333, 517), (1000, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_what_is_painted_where_the_grid_sees_nothing_changes_nothing(name: str, size: tuple[int, int]) -> None:
    case, image = CASES[name], grey(size)
    grid, before = case.grid(image), case.inputs(image)
    across = size[0] > size[1]
    start, end = (grid.x[0, 0], grid.x[-1, 1]) if across else (grid.y[0, 0], grid.y[-1, 1])
    margin = reach(case, image)[0 if across else 1]
    first, last = int(start - margin), int(np.ceil(end + margin))
    assert first > 5
    assert last < max(size) - 5
    outside = [(0, 0, first, size[1]), (last, 0, *size)] if across else [(0, 0, size[0], first), (0, last, *size)]
    for box in outside:
        assert not case.changes(before, case.inputs(painted(size, box))).any()
    inside = (first, 0, last, size[1]) if across else (0, first, size[0], last)
    assert case.changes(before, case.inputs(painted(size, inside))).all()


@every_case
def test_a_whole_grid_lies_on_the_image_as_the_processor_is_said_to_work(name: str) -> None:
    grid = CASES[name].grid(grey((400, 300)))
    expected = {
        "llava-1.5": (50, 0, 350, 300),  # the centre square
        "llava tiny": (50, 0, 350, 300),
        "llava odd crop": (200 - 42 * 300 / 91, 150 - 42 * 300 / 91, 200 + 42 * 300 / 91, 150 + 42 * 300 / 91),
        "llava small, padded by the crop": (23, -27, 377, 327),
        "llava bounded, padded by the crop": (0, -50, 400, 350),
        "llava padded to a square": (0, -50, 400, 350),
        "siglip, pixels left over": (0, 0, 400 * 84 / 90, 300 * 84 / 90),
        "instructblip": (0, 0, 400, 300),
        "qwen2.5-vl": (0, 0, 400, 300),
        "qwen2.5-vl, small budget": (0, 0, 400, 300),
    }[name]
    assert tuple(grid.covered) == pytest.approx(expected, abs=300 / 71)  # a canvas pixel of rounding, at most
    assert grid.image_size == (400, 300)
    assert np.allclose(grid.x[1:, 0], grid.x[:-1, 1])
    assert np.allclose(grid.y[1:, 0], grid.y[:-1, 1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_each_family_s_own_processor_and_config_give_a_grid_of_its_tokens(family: tiny.Family, kind: tiny.Kind) -> None:
    model, processor = tiny.build(family)
    specs: dict[str, GridSpec] = {"llava": SQUARE, "instructblip": LATENTS, "qwen2_5_vl": merging()}
    spec = specs[family]
    images = tiny.images(kind, 2)
    inputs = processor.image_processor(images=images, return_tensors="pt")
    for index, image in enumerate(images):
        canvas = canvas_of(processor.image_processor, image.size, inputs, index, spec)
        tokens = int(inputs["image_grid_thw"][index].prod()) // 4 if family == "qwen2_5_vl" else 36
        grid = token_grid(spec, canvas, model.config, inputs, index, tokens)
        assert grid.image_size == image.size
        assert grid.rows * grid.cols == tokens


@every_case
@every_size
def test_to_canvas_of_pixel_values_is_the_image_that_pil_makes(name: str, size: tuple[int, int]) -> None:
    case = CASES[name]
    if name == "llava padded to a square":
        pytest.skip("pads before it resizes: shown by the painted patches")
    random = np.random.default_rng(2)
    images = [grey((50, 40)), Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))]
    inputs = case.inputs(*images)
    canvas = canvas_of(case.processor, size, inputs, 1, case.spec)
    got = to_canvas(case.spec, inputs["pixel_values"], inputs, 1, case.config)
    assert got.shape == (3, canvas.size[1], canvas.size[0])
    assert got.dtype == np.float32
    width, height = (round(side * scale) for side, scale in zip(size, canvas.scale, strict=True))
    resized = np.asarray(images[1].resize((width, height), case.processor.resample), dtype=np.float64) / 255
    normal = ((resized - case.processor.image_mean) / case.processor.image_std).transpose(2, 0, 1)
    left, top = (int(shift) for shift in canvas.offset)
    x, y = slice(max(0, left), left + width), slice(max(0, top), top + height)
    shown = got[:, y, x]
    cut = normal[:, max(0, -top) :, max(0, -left) :][:, : shown.shape[1], : shown.shape[2]]
    np.testing.assert_allclose(shown, cut, atol=1e-5)


@pytest.mark.parametrize("name", ["llava tiny", "instructblip", "qwen2.5-vl, small budget"])
def test_a_gradient_on_the_canvas_foretells_what_a_change_of_the_canvas_does(name: str) -> None:
    case = CASES[name]
    images = [grey((130, 75)), grey((75, 130))]
    inputs = case.inputs(*images)
    random = np.random.default_rng(3)
    gradient = random.normal(size=inputs["pixel_values"].shape)
    for index, image in enumerate(images):
        canvas = canvas_of(case.processor, image.size, inputs, index, case.spec)
        change = random.normal(size=(3, canvas.size[1], canvas.size[0]))
        if isinstance(case.spec, ThwGrid):
            rows, start = case.processor.patchify(change, 14, 2, 2)[0], 0
            if index:
                start = int(inputs["image_grid_thw"][0].prod())
            expected = float((rows * gradient[start : start + len(rows)]).sum())
        else:
            expected = float((change * gradient[index]).sum())
        got = gradient_to_canvas(case.spec, gradient, inputs, index, case.config)
        assert float((got * change).sum()) == pytest.approx(expected, rel=1e-4)


def test_a_number_of_tokens_that_does_not_fit_is_reported() -> None:
    case, image = CASES["llava tiny"], grey((100, 80))
    inputs = case.inputs(image)
    canvas = canvas_of(case.processor, image.size, inputs, 0, case.spec)
    with pytest.raises(AttnLensError, match=r"grid that does not fit.*6 rows x 6 cols = 36.*37 image tokens"):
        token_grid(case.spec, canvas, case.config, inputs, 0, 37)


class TurnsTheImage(CLIPImageProcessorPil):
    def resize(self, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        return super().resize(image[:, ::-1].copy(), *args, **kwargs)


@pytest.mark.parametrize(
    ("processor", "said"),
    [
        (clip({"longest_edge": 84}, 84), "longest_edge"),
        (clip({"max_height": 84, "max_width": 84}, 84), "max_height"),
        (CLIPImageProcessorPil(do_pad=True), "do_pad"),
        (CLIPImageProcessorPil(do_thumbnail=True), "do_thumbnail"),
        (TurnsTheImage(), "resize"),
        (Qwen2VLImageProcessorPil(), "_preprocess"),
    ],
    ids=["longest edge", "bounded", "pad", "unknown step", "own code", "another family"],
)
def test_settings_that_are_not_known_are_reported_rather_than_guessed(processor: Any, said: str) -> None:
    inputs = CASES["llava tiny"].inputs(grey((100, 80)))
    with pytest.raises(AttnLensError, match=said):
        canvas_of(processor, (100, 80), inputs, 0, SQUARE)


def test_a_canvas_other_than_the_settings_lead_to_is_reported() -> None:
    processor = CASES["llava tiny"].processor
    inputs = processor(images=[grey((100, 80))], crop_size={"height": 70, "width": 70}, return_tensors="pt")
    with pytest.raises(AttnLensError, match="84 x 84 px, but pixel_values hold 70 x 70"):
        canvas_of(processor, (100, 80), inputs, 0, SQUARE)


def test_a_processor_without_the_grid_s_key_is_reported() -> None:
    case = CASES["llava tiny"]
    with pytest.raises(AttnLensError, match="image_grid_thw.*pixel_values"):
        canvas_of(case.processor, (100, 80), case.inputs(grey((100, 80))), 0, merging())


def test_a_merge_that_does_not_divide_the_patches_is_reported() -> None:
    case, image = CASES["qwen2.5-vl"], grey((100, 80))
    inputs = case.inputs(image)
    with pytest.raises(AttnLensError, match="blocks of 5 x 5"):
        to_canvas(ThwGrid(kind="thw", merge=5), inputs["pixel_values"], inputs, 0, case.config)
