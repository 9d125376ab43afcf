"""Tiles cover every image, whatever its size and shape, and are all alike."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attnlens import AttnLensError
from attnlens.boxes import tiles

SIDES = st.integers(1, 5000)


@given(st.tuples(SIDES, SIDES), st.sampled_from([64, 333, 1024]))
@example((1, 1), 1024)
@example((20000, 20), 1024)
@example((13, 5), 3)
def test_tiles_are_the_fewest_equal_ones_that_cover_every_pixel(image_size, max_side):
    grid = tiles(image_size, max_side)
    width, height = image_size
    rows, cols = math.ceil(height / max_side), math.ceil(width / max_side)
    assert [len(row) for row in grid] == [cols] * rows
    sizes = {(box.width, box.height) for row in grid for box in row}
    assert sizes == {(math.ceil(width / cols), math.ceil(height / rows))}
    assert max(max(size) for size in sizes) <= max_side
    across, down = np.zeros(width, int), np.zeros(height, int)
    for box in grid[0]:
        assert 0 <= box.x1 < box.x2 <= width
        across[box.x1 : box.x2] += 1
    for row in grid:
        assert all((box.y1, box.y2) == (row[0].y1, row[0].y2) for box in row)
        assert [(box.x1, box.x2) for box in row] == [(box.x1, box.x2) for box in grid[0]]
        assert 0 <= row[0].y1 < row[0].y2 <= height
        down[row[0].y1 : row[0].y2] += 1
    assert across.min() == down.min() == 1
    assert across.sum() - width < cols
    assert down.sum() - height < rows


@pytest.mark.parametrize("image_size", [(1023, 1024), (700, 1000), (512, 1024)])
def test_a_portrait_image_that_fits_one_tile_is_one_tile(image_size):
    assert tiles(image_size) == [[(0, 0, *image_size)]]


@pytest.mark.parametrize(
    ("image_size", "shape", "tile"),
    [
        ((900, 2000), (2, 1), (900, 1000)),
        ((512, 2048), (2, 1), (512, 1024)),
        ((2246, 1582), (2, 3), (749, 791)),
        ((1500, 1600), (2, 2), (750, 800)),
        ((1025, 1024), (1, 2), (513, 1024)),
    ],
)
def test_the_sizes_that_break_the_published_tiling_work(image_size, shape, tile):
    grid = tiles(image_size)
    assert (len(grid), len(grid[0])) == shape
    assert (grid[0][0].width, grid[0][0].height) == tile


def test_the_last_tile_is_aligned_to_the_edge():
    assert [(box.x1, box.x2) for box in tiles((2246, 100))[0]] == [(0, 749), (749, 1498), (1497, 2246)]


@pytest.mark.parametrize("image_size", [(0, 10), (10, -1), (10.5, 10), (10,), "10x10", None, (math.nan, 3)])
def test_an_image_size_that_is_none_is_refused(image_size):
    with pytest.raises(AttnLensError, match="image size is"):
        tiles(image_size)


@pytest.mark.parametrize("max_side", [0, -1024, 10.5, "1024", None])
def test_a_max_side_that_is_no_whole_number_of_pixels_is_refused(max_side):
    with pytest.raises(AttnLensError, match="max_side is"):
        tiles((100, 100), max_side)
