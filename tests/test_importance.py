"""Importance maps: values on cells, and what they say about pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attnlens import AttnLensError, Box, Grid, ImportanceMap
from attnlens.boxes import search, tiles


def regular(values, image_size):
    values = np.asarray(values)
    return ImportanceMap(values, Grid.regular(*values.shape, image_size))


@st.composite
def maps(draw):
    """A map on an even grid over the image, a centre crop of it, or it with padding."""
    rows, cols = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    out, inn = draw(st.floats(-0.4, 0.4)), draw(st.floats(-0.4, 0.4))
    region = Box(out * width, inn * height, (1 - out) * width, (1 - inn) * height)
    values = np.random.default_rng(draw(st.integers(0, 999))).random((rows, cols))
    return ImportanceMap(values, Grid.regular(rows, cols, (width, height), region))


def test_values_are_float32_copied_and_read_only():
    values = np.ones((2, 3), np.float32)
    m = regular(values, (30, 20))
    values[:] = 9
    assert m.values.dtype == np.float32
    assert (m.values == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        m.values[0, 0] = 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 2)), r"A grid that does not fit: the map has 3 x 2 cells \(rows x cols\), its grid has 2 x 3"),
        (np.ones(6), r"values.reshape\(grid.shape\)"),
        (np.ones((1, 2, 3)), "expected \\[rows, cols\\]"),
        ([[1, 2, 3], [4]], "no matrix of numbers"),
        ([["a", "b", "c"]] * 2, "no matrix of numbers"),
        (np.ones((2, 3), complex), "complex numbers"),
        (None, "expected \\[rows, cols\\]"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, message):
    with pytest.raises(AttnLensError, match=message):
        ImportanceMap(values, Grid.regular(2, 3, (30, 20)))


def test_a_grid_that_is_none_is_refused():
    with pytest.raises(AttnLensError, match="Grid.regular"):
        ImportanceMap(np.ones((2, 3)), (30, 20))


# Pixels


@given(maps())
def test_every_pixel_has_the_value_of_the_cell_that_holds_its_centre(m):
    width, height = m.grid.image_size
    shown = m.to_pixels()
    assert shown.shape == (height, width)
    assert shown.dtype == np.float32
    for y in range(0, height, 7):
        for x in range(0, width, 7):
            cells = [
                m.values[row, col]
                for row, (top, bottom) in enumerate(m.grid.y)
                for col, (left, right) in enumerate(m.grid.x)
                if left <= x + 0.5 < right and top <= y + 0.5 < bottom
            ]
            assert shown[y, x] == (cells[0] if cells else 0)


def test_unseen_pixels_are_zero_even_when_smooth():
    grid = Grid.regular(2, 2, (100, 50), region=Box(25, 0, 75, 50))
    for smooth in (False, True):
        shown = ImportanceMap(np.ones((2, 2)), grid).to_pixels(smooth)
        assert (shown[:, 25:75] == 1).all()
        assert shown[:, :25].sum() == shown[:, 75:].sum() == 0


def test_smooth_pixels_are_bilinear_between_cell_centres():
    shown = regular([[0, 4], [8, 12]], (40, 40)).to_pixels(smooth=True)
    assert shown[0, 0] == 0
    assert shown[39, 39] == 12
    # Centres lie at 10 and 30: the pixel centred at 14.5 is 0.225 of the way.
    assert shown[14, 14] == pytest.approx(0.225 * 4 + 0.225 * 8)
    assert shown[0, 20] == pytest.approx(4 * (20.5 - 10) / 20)


def test_the_gap_between_tiles_is_unseen_and_an_overlap_goes_to_the_nearer_cell():
    gap = ImportanceMap([[1, 2]], Grid([[0, 4], [6, 10]], [[0, 1]], (10, 1)))
    assert gap.to_pixels()[0].tolist() == [1, 1, 1, 1, 0, 0, 2, 2, 2, 2]
    overlap = ImportanceMap([[1, 2]], Grid([[0, 6], [4, 10]], [[0, 1]], (10, 1)))
    assert overlap.to_pixels()[0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]


# Sums and ratios


@given(maps(), st.data())
def test_the_sum_inside_a_box_weighs_cells_by_the_area_inside(m, data):
    width, height = m.grid.image_size
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height)))
    expected = 0.0
    for row in range(m.grid.rows):
        for col in range(m.grid.cols):
            cell = m.grid.cell(row, col)
            across = max(0, min(cell.x2, box.x2) - max(cell.x1, box.x1))
            down = max(0, min(cell.y2, box.y2) - max(cell.y1, box.y1))
            expected += float(m.values[row, col]) * across * down / cell.area
    assert m.inside(box) == pytest.approx(expected)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999), st.data())
def test_the_attention_ratio_is_the_sum_over_the_mean_of_all_positions(rows, cols, seed, data):
    values = np.random.default_rng(seed).random((rows, cols))
    bh, bw = data.draw(st.integers(1, rows)), data.draw(st.integers(1, cols))
    row, col = data.draw(st.integers(0, rows - bh)), data.draw(st.integers(0, cols - bw))
    sums = [values[y : y + bh, x : x + bw].sum() for y in range(rows - bh + 1) for x in range(cols - bw + 1)]
    expected = values[row : row + bh, col : col + bw].sum() / np.mean(sums)
    box = (col * 10, row * 7, (col + bw) * 10, (row + bh) * 7)
    assert regular(values, (cols * 10, rows * 7)).attention_ratio(box) == pytest.approx(expected, rel=1e-5)


@given(maps(), st.data())
def test_a_flat_map_has_an_attention_ratio_of_one_wherever_it_saw_the_image(m, data):
    seen = m.grid.covered.clip(m.grid.image_size)
    x1, x2 = sorted(data.draw(st.floats(0, 1)) * seen.width + seen.x1 for _ in range(2))
    y1, y2 = sorted(data.draw(st.floats(0, 1)) * seen.height + seen.y1 for _ in range(2))
    if min(x2 - x1, y2 - y1) > 1e-3 and max(x2, y2) > 1:
        flat = ImportanceMap(np.ones(m.grid.shape), m.grid)
        assert flat.attention_ratio((x1, y1, x2, y2)) == pytest.approx(1)


def test_the_attention_ratio_of_a_box_smaller_than_a_cell_is_that_of_the_cell():
    values = np.ones((4, 4))
    values[1, 2] = 17  # the mean is 2
    assert regular(values, (400, 400)).attention_ratio((220, 120, 280, 180)) > 6
    assert regular(values, (400, 400)).attention_ratio((200, 100, 300, 200)) == pytest.approx(8.5)


def test_the_attention_ratio_of_a_centre_crop_compares_with_what_was_seen():
    grid = Grid.regular(4, 4, (800, 400), region=Box(200, 0, 600, 400))
    values = np.ones((4, 4))
    values[1, 2] = 17
    assert ImportanceMap(values, grid).attention_ratio((400, 100, 500, 200)) == pytest.approx(8.5)


def test_a_map_of_zeros_has_no_attention_ratio():
    assert math.isnan(regular(np.zeros((4, 4)), (40, 40)).attention_ratio((0, 0, 10, 10)))


# Arithmetic


def test_maps_multiply_cell_by_cell_and_by_numbers():
    m = regular([[1, 2], [3, 4]], (20, 20))
    assert (m * m).values.tolist() == [[1, 4], [9, 16]]
    for product in (m * 2, 2 * m, m * np.float64(2), np.float32(2) * m):
        assert product.values.tolist() == [[2, 4], [6, 8]]
    with pytest.raises(TypeError):
        m * "2"
    with pytest.raises(TypeError):
        m * np.ones((2, 2))


def test_the_mean_of_maps_is_cell_by_cell():
    one, other = regular([[1, 2]], (20, 20)), regular([[3, 6]], (20, 20))
    assert ImportanceMap.mean([one, other]).values.tolist() == [[2, 4]]
    assert ImportanceMap.mean([one]).values.tolist() == [[1, 2]]
    with pytest.raises(AttnLensError, match="at least one"):
        ImportanceMap.mean([])


def test_maps_on_different_grids_do_not_mix():
    one, other = regular([[1, 2]], (20, 20)), regular([[3, 6]], (20, 21))
    with pytest.raises(AttnLensError, match="different grids: 1 x 2 cells"):
        one * other
    with pytest.raises(AttnLensError, match="different grids"):
        ImportanceMap.mean([one, other])


def test_a_normalised_map_sums_to_one():
    m = regular([[1, 2], [3, 4]], (20, 20)).normalised()
    assert m.values.tolist() == pytest.approx(np.array([[0.1, 0.2], [0.3, 0.4]]))
    assert (regular(np.zeros((2, 2)), (20, 20)).normalised().values == 0).all()


@pytest.mark.parametrize("cell", [math.nan, math.inf, -9])
def test_a_map_without_a_positive_sum_is_not_normalised(cell):
    with pytest.raises(AttnLensError, match="expected a positive number"):
        regular([[1, 2], [3, cell]], (20, 20)).normalised()


@given(st.integers(1, 5), st.integers(0, 999))
def test_the_product_of_maps_is_that_of_their_cells_and_sums_to_one(number, seed):
    cells = np.random.default_rng(seed).random((number, 3, 4))
    expected = [[math.prod(one[row, col] for one in cells) for col in range(4)] for row in range(3)]
    total = math.fsum(map(math.fsum, expected))
    product = ImportanceMap.product([regular(one, (40, 30)) for one in cells])
    assert product.values / np.array(expected) == pytest.approx(1 / total, rel=1e-5)


@given(st.lists(st.floats(1e-30, 1e30), min_size=3, max_size=3))
def test_the_scale_of_a_map_does_not_count_in_a_product(scales):
    one, other = regular([[1, 2], [3, 4]], (20, 20)), regular([[4, 3], [1, 0]], (20, 20))
    product = ImportanceMap.product([one * scales[0], other * scales[1], one * scales[2]])
    assert product.values.ravel() == pytest.approx(np.array([4, 12, 9, 0]) / 25, rel=1e-5)


def test_the_product_of_many_maps_does_not_vanish():
    m = regular([[1e-20, 2e-20], [1e-20, 1e-20]], (20, 20))
    assert ImportanceMap.product([m] * 40).values[0, 1] == pytest.approx(1)


def test_maps_that_agree_on_nothing_have_a_product_of_zeros():
    one, other = regular([[1, 0]], (20, 20)), regular([[0, 1]], (20, 20))
    assert ImportanceMap.product([one, other]).values.tolist() == [[0, 0]]
    assert ImportanceMap.product([one, one * 0]).values.tolist() == [[0, 0]]
    assert not search(ImportanceMap.product([one, other]), window=5)[0].confident


def test_a_product_needs_maps_on_the_same_grid():
    with pytest.raises(AttnLensError, match="at least one"):
        ImportanceMap.product([])
    with pytest.raises(AttnLensError, match="different grids"):
        ImportanceMap.product([regular([[1, 2]], (20, 20)), regular([[1, 2]], (20, 21))])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 999), st.floats(1e-20, 1e20))
def test_the_entropy_is_that_of_the_cells_as_probabilities_in_nats(rows, cols, seed, scale):
    values = np.random.default_rng(seed).random((rows, cols)) ** 4
    values[0, 0] = 0.5
    values[values < 0.01] = 0
    m = regular(values, (60, 60)) * scale
    p = [value / values.sum() for value in values.ravel() if value > 0]
    assert m.entropy() == pytest.approx(-math.fsum(one * math.log(one) for one in p), rel=1e-5, abs=1e-6)


def test_the_entropy_is_greatest_for_a_flat_map_and_zero_for_a_single_cell():
    assert regular(np.ones((3, 4)), (40, 30)).entropy() == pytest.approx(math.log(12))
    assert regular([[0, 7], [0, 0]], (40, 30)).entropy() == 0
    assert math.isnan(regular(np.zeros((3, 4)), (40, 30)).entropy())


@pytest.mark.parametrize("cell", [math.nan, math.inf, -0.5])
def test_maps_that_are_no_shares_of_a_whole_have_no_entropy_and_no_product(cell):
    m = regular([[1, 2], [3, cell]], (20, 20))
    with pytest.raises(AttnLensError, match="expected finite ones of 0 or more"):
        m.entropy()
    with pytest.raises(AttnLensError, match="expected finite ones of 0 or more"):
        ImportanceMap.product([m])


def test_stitched_maps_lie_where_their_tiles_were():
    boxes = tiles((1500, 2000), 1024)
    parts = [[regular(np.full((2, 3), 10 * i + j), (750, 1000)) for j in range(2)] for i in range(2)]
    m = ImportanceMap.stitch(parts, boxes, (1500, 2000))
    assert m.grid.shape == (4, 6)
    shown = m.to_pixels()
    assert [shown[500, 300], shown[500, 1200], shown[1500, 300], shown[1500, 1200]] == [0, 1, 10, 11]


# Pictures


@pytest.mark.parametrize("image_size", [(1, 1), (7, 3), (2000, 2), (2, 2000), (100, 80)])
@pytest.mark.parametrize("values", [np.eye(3), np.zeros((1, 1)), np.full((2, 2), np.nan), [[np.inf, 1]]])
def test_an_overlay_is_an_rgb_picture_of_the_images_size(image_size, values):
    overlaid = regular(values, image_size).overlay(Image.new("RGB", image_size, "white"), box=(0, 0, *image_size))
    assert (overlaid.mode, overlaid.size) == ("RGB", image_size)


def test_an_overlay_is_brightest_where_the_map_is_greatest():
    values = np.zeros((4, 4))
    values[1, 2] = 5
    picture = np.asarray(regular(values, (400, 400)).overlay(Image.new("RGB", (400, 400)), alpha=1)).sum(axis=2)
    y, x = np.unravel_index(picture.argmax(), picture.shape)
    assert 200 <= x < 300
    assert 100 <= y < 200


def test_an_overlay_without_heat_is_the_image():
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    assert (np.asarray(regular(np.eye(3), (40, 30)).overlay(image, alpha=0)) == image).all()


def test_what_was_not_seen_and_what_is_not_finite_is_grey():
    red = Image.new("RGB", (100, 50), "red")
    grid = Grid.regular(1, 2, (100, 50), region=Box(20, 0, 80, 50))
    overlaid = np.asarray(ImportanceMap([[1, math.nan]], grid).overlay(red)).astype(int)
    is_grey = overlaid.max(axis=2) == overlaid.min(axis=2)
    assert is_grey[:, :20].all()
    assert is_grey[:, 50:].all()
    assert not is_grey[:, 20:50].any()


def test_the_outline_of_a_box_is_drawn_around_it_and_hides_nothing_of_it():
    m = regular(np.zeros((2, 2)), (100, 100))
    plain, boxed = (np.asarray(m.overlay(Image.new("RGB", (100, 100)), box=box)) for box in (None, (20, 30, 60, 70)))
    changed = np.argwhere((plain != boxed).any(axis=2))
    assert changed.min(axis=0).tolist() == [28, 18]
    assert changed.max(axis=0).tolist() == [71, 61]
    assert (boxed[29, 40] == (0, 255, 0)).all()
    assert (boxed[28, 40] == (0, 0, 0)).all()
    assert (boxed[30:70, 20:60] == plain[30:70, 20:60]).all()


def test_an_overlay_on_another_image_is_refused():
    with pytest.raises(AttnLensError, match="80 x 60 pixels"):
        regular(np.eye(3), (40, 30)).overlay(Image.new("RGB", (80, 60)))
    with pytest.raises(AttnLensError, match="alpha is 7"):
        regular(np.eye(3), (40, 30)).overlay(Image.new("RGB", (40, 30)), alpha=7)
