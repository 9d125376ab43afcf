"""One small patch is painted into an image: the tokens whose pixels change must be those whose cells it lies in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attnlens.geometry import Grid
from attnlens.lens._layouts import Layout, Processed, View

Numbers = NDArray[np.float64]
Box = tuple[int, int, int, int]
Features = Mapping[str, Any]

SIZES = [(401, 299), (333, 517), (1000, 60), (120, 120), (31, 20)]
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")

COUNT = 8  # patches painted into one image
SHARE = 0.75  # of a painted patch, that must lie in one cell for this cell to be the one that changes most
REACH = 2.0  # of the bicubic kernel, in pixels of the original image or of the canvas, whichever is larger


def processed(processor: Any, image: Image.Image, config: Any) -> Processed:
    return Processed(image.size, dict(processor([image], return_tensors="pt")), processor, config)


def grey(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, (110, 120, 130))


def painted(size: tuple[int, int], box: Box) -> Image.Image:
    image = grey(size)
    image.paste((200, 210, 30), box)
    return image


def difference(before: Features, after: Features, key: str = "pixel_values") -> Numbers:
    """By how much every number of a feature differs."""
    return np.abs(np.asarray(after[key].float(), dtype=np.float64) - np.asarray(before[key].float(), dtype=np.float64))


def assert_painted_patches_are_where_the_layout_says(
    processor: Any,
    size: tuple[int, int],
    layout: Layout,
    canvases: Sequence[tuple[int, int]],
    changes: Callable[[Features, Features], Numbers],
) -> None:
    """`canvases`: (width, height) of each view's, in canvas pixels. `changes`: how much each token's pixels differ."""
    before = processor([grey(size)], return_tensors="pt")
    for box in boxes(layout.grid, COUNT):
        changed = changes(before, processor([painted(size, box)], return_tensors="pt"))
        assert changed.shape == layout.cells.shape
        assert not changed[layout.cells < 0].any()
        for view, canvas, found in zip(layout.views, canvases, _by_view(layout, changed), strict=True):
            scale = np.array(canvas) / np.array([view.grid.covered.width, view.grid.covered.height])
            reach = REACH * np.maximum(1.0, 1.0 / scale) + 1.0  # kernels end at whole pixels
            near = (_distances(view.grid, box) <= reach).all(axis=-1)
            assert not found[~near].any(), (box, view.grid.shape)
            shared = _overlaps(view.grid, box)
            if shared.max() >= SHARE * (box[2] - box[0]) * (box[3] - box[1]):
                assert found.argmax() == shared.argmax(), (box, view.grid.shape)


def assert_canvas_is_the_resized_image(view: View, pixels: Any, image: Image.Image, canvas: tuple[int, int]) -> None:
    """`image` is smooth, so that another resize of it to the view's canvas is nearly the same."""
    assert view.pixels is not None
    found = view.pixels(np.asarray(pixels, dtype=np.float32))[0]
    assert found.shape == (3, canvas[1], canvas[0])
    expected = np.asarray(image.resize(canvas, Image.Resampling.BILINEAR), dtype=np.float32).transpose(2, 0, 1)
    expected = expected / 127.5 - 1  # the image processors here have mean and deviation 0.5
    assert np.abs(found - expected).max() < 0.06


def smooth(size: tuple[int, int]) -> Image.Image:
    """Red from left to right, green from top to bottom, blue across."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    return Image.fromarray(np.uint8(np.round(255 * np.stack([x, y, (x + 2 * y) / 3], axis=-1))))


def _by_view(layout: Layout, changed: Numbers) -> Iterator[Numbers]:
    """[rows, cols] of each view: the largest change of a cell's tokens."""
    start = 0
    for view in layout.views:
        found = np.zeros(view.count)
        own = (layout.cells >= start) & (layout.cells < start + view.count)
        np.maximum.at(found, layout.cells[own] - start, changed[own])
        yield found.reshape(view.grid.shape)
        start += view.count


def _overlaps(grid: Grid, box: Box) -> Numbers:
    """[rows, cols]: the area that each cell shares with a box of the original image."""
    across = np.minimum(grid.x[:, 1], box[2]) - np.maximum(grid.x[:, 0], box[0])
    down = np.minimum(grid.y[:, 1], box[3]) - np.maximum(grid.y[:, 0], box[1])
    return np.outer(np.maximum(down, 0), np.maximum(across, 0))


def _distances(grid: Grid, box: Box) -> Numbers:
    """[rows, cols, 2]: the gap, in x and in y, between each cell and the box."""
    gaps = []
    for spans, low, high in ((grid.x, box[0], box[2]), (grid.y, box[1], box[3])):
        gaps.append(np.maximum(0, np.maximum(spans[:, 0] - high, low - spans[:, 1])))
    return np.stack(np.broadcast_arrays(gaps[0][None, :], gaps[1][:, None]), axis=-1)


def boxes(grid: Grid, count: int) -> list[Box]:
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
