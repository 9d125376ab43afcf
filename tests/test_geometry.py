"""Boxes and grids: the arithmetic that every map, crop and picture rests on."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlens import AttnLensError, Box, Grid
from attnlens._checks import is_count
from attnlens.boxes import tiles
from attnlens.geometry._grid import overlaps

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))


@st.composite
def boxes_in(draw, image_size):
    x1, y1 = (draw(st.integers(0, side - 1)) for side in image_size)
    return Box(x1, y1, draw(st.integers(x1 + 1, image_size[0])), draw(st.integers(y1 + 1, image_size[1])))


@given(SIZES.flatmap(lambda size: st.tuples(boxes_in(size), boxes_in(size))))
def test_iou_equals_the_share_of_pixels(pair):
    def pixels(box):
        return {(x, y) for x in range(box.x1, box.x2) for y in range(box.y1, box.y2)}

    small = [Box(*(edge // 8 for edge in box)) for box in pair]
    one, other = map(pixels, small)
    expected = len(one & other) / len(one | other) if one | other else 0
    assert small[0].iou(small[1]) == pytest.approx(expected)
    assert small[0].area == len(one)


@given(SIZES.flatmap(lambda size: st.tuples(st.just(size), boxes_in(size))), st.integers(0, 100))
def test_a_square_is_the_smallest_that_covers_the_box_inside_the_image(case, at_least):
    size, box = case
    square = box.square(size, at_least)
    side = max(box.width, box.height, at_least)
    assert (square.width, square.height) == (min(side, size[0]), min(side, size[1]))
    assert square.x1 <= box.x1 < box.x2 <= square.x2
    assert square.y1 <= box.y1 < box.y2 <= square.y2
    assert square.clip(size) == square
    assert all(type(edge) is int for edge in square)


def test_a_square_is_centred_where_there_is_room_and_moved_where_there_is_not():
    assert Box(40, 50, 60, 54).square((100, 100)) == (40, 42, 60, 62)
    assert Box(40, 0, 60, 4).square((100, 100)) == (40, 0, 60, 20)
    assert Box(96, 96, 100, 100).square((100, 100), at_least=30) == (70, 70, 100, 100)
    assert Box(1.5, 2, 4, 3).square((100, 100)) == (1.5, 1.25, 4, 3.75)
    assert Box(-50, 40, 10, 44).square((100, 100)) == (0, 37, 10, 47)  # only the part in the image counts


@given(SIZES, st.lists(st.floats(-400, 400), min_size=4, max_size=4))
def test_whole_pixels_are_inside_the_image_and_never_empty(size, edges):
    whole = Box(*edges).to_pixels(size)
    assert 0 <= whole.x1 < whole.x2 <= size[0]
    assert 0 <= whole.y1 < whole.y2 <= size[1]
    assert all(type(edge) is int for edge in whole)


def test_whole_pixels_are_the_nearest():
    assert Box(10.4, 10.5, 20.6, 20.49).to_pixels((100, 100)) == (10, 11, 21, 20)


@pytest.mark.parametrize("value", [(1, 2, 30, 40), [1, 2, 30, 40], np.array([1, 2, 30, 40]), Box(1, 2, 30, 40)])
def test_a_box_may_be_any_four_numbers(value):
    assert Box.from_any(value, (100, 100)) == Box(1, 2, 30, 40)


def test_a_box_that_reaches_out_of_the_image_is_clipped():
    assert Box.from_any((-5, 10, 500, 20), (100, 50)) == (0, 10, 100, 20)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((1, 2, 3), "four finite numbers"),
        ("1,2,3,4", "four finite numbers"),
        (None, "four finite numbers"),
        ((1, 2, math.nan, 4), "four finite numbers"),
        ((1, 2, math.inf, 4), "four finite numbers"),
        (("1", 2, 3, 4), "four finite numbers"),
        ((10, 10, 5, 20), "x1 < x2"),
        ((10, 10, 10, 20), "x1 < x2"),
        ((200, 10, 300, 20), "outside the image, which is 100 x 50"),
        ((100, 0, 101, 5), "outside the image"),
        ((0.1, 0.2, 0.5, 0.6), "fractions of the image"),
    ],
)
def test_a_box_that_is_none_is_refused_with_the_reason(value, message):
    with pytest.raises(AttnLensError, match=message):
        Box.from_any(value, (100, 50))


def test_a_regular_grid_shares_the_image_among_its_cells():
    grid = Grid.regular(3, 4, (400, 90))
    assert (grid.rows, grid.cols, grid.shape) == (3, 4, (3, 4))
    assert grid.cell_size == (100, 30)
    assert grid.cell(2, 1) == (100, 60, 200, 90)
    assert grid.span(0, 1, 2, 4) == (100, 0, 400, 60)
    assert grid.covered == (0, 0, 400, 90)


@given(st.integers(1, 60), st.integers(1, 60), SIZES)
def test_regular_cells_touch_and_end_exactly_at_the_edges(rows, cols, size):
    grid = Grid.regular(rows, cols, size)
    for spans, length in ((grid.x, size[0]), (grid.y, size[1])):
        assert spans[0, 0] == 0
        assert spans[-1, 1] == length
        assert (spans[1:, 0] == spans[:-1, 1]).all()
        assert np.allclose(np.diff(spans, axis=1), length / len(spans))


def test_a_centre_crop_is_a_region_and_leaves_the_rest_unseen():
    grid = Grid.regular(24, 24, (1000, 750), region=Box(125, 0, 875, 750))
    assert grid.covered == (125, 0, 875, 750)
    assert grid.cell(0, 0).x1 == 125
    assert grid.cell_size == (31.25, 31.25)


def test_padding_reaches_outside_the_image():
    assert Grid.regular(10, 10, (100, 50), region=Box(0, -25, 100, 75)).cell(0, 0) == (0, -25, 10, -15)


def test_equal_grids_are_equal_and_hash_alike():
    one, other = Grid.regular(3, 4, (400, 90)), Grid.regular(3, 4, (400, 90))
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != Grid.regular(3, 4, (400, 91))
    assert one != Grid.regular(4, 3, (400, 90))
    assert one != "a grid"
    assert hash(Grid([[-0.0, 1]], [[0, 1]], (1, 1))) == hash(Grid([[0, 1]], [[0, 1]], (1, 1)))


def test_a_grid_cannot_be_changed_from_within_or_without():
    spans = np.array([[0.0, 10.0]])
    grid = Grid(spans, spans, (10, 10))
    spans[:] = 99
    assert grid.cell(0, 0) == (0, 0, 10, 10)
    with pytest.raises(ValueError, match="read-only"):
        grid.x[0, 0] = 1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([], "at least one cell"),
        ([[1, 2, 3]], "at least one cell"),
        ("wide", "at least one cell"),
        ([[0, 1], [3, 2]], r"x\[1\] is \[3.0, 2.0\]"),
        ([[0, 1], [1, math.nan]], r"x\[1\] is \[1.0, nan\]"),
    ],
)
def test_spans_that_are_none_are_refused(x, message):
    with pytest.raises(AttnLensError, match=message):
        Grid(x, [[0, 1]], (10, 10))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2.5, 3), (None, 3)])
def test_a_regular_grid_needs_cells(shape):
    with pytest.raises(AttnLensError, match="expected whole numbers, at least 1"):
        Grid.regular(*shape, (100, 100))


@pytest.mark.parametrize("span", [(0, 0, 4, 1), (-1, 0, 1, 1), (1, 1, 1, 2)])
def test_cells_that_are_not_there_are_refused(span):
    with pytest.raises(AttnLensError, match="not in a grid of 3 x 4"):
        Grid.regular(3, 4, (400, 90)).span(*span)


@given(st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
def test_stitched_tiles_put_every_cell_where_its_tile_saw_it(image_size):
    boxes = tiles(image_size, 1024)
    grids = [[Grid.regular(3, 5, (box.width, box.height)) for box in row] for row in boxes]
    stitched = Grid.stitch(grids, boxes, image_size)
    assert stitched.shape == (3 * len(boxes), 5 * len(boxes[0]))
    for i, row in enumerate(boxes):
        for j, box in enumerate(row):
            cell = grids[i][j].cell(1, 2)
            moved = (cell.x1 + box.x1, cell.y1 + box.y1, cell.x2 + box.x1, cell.y2 + box.y1)
            assert stitched.cell(3 * i + 1, 5 * j + 2) == pytest.approx(moved)
    assert stitched.covered == pytest.approx((0, 0, *image_size))


def test_stitched_centre_crops_leave_gaps():
    boxes = [[Box(0, 0, 100, 50), Box(100, 0, 200, 50)]]
    grid = Grid.regular(2, 2, (100, 50), region=Box(25, 0, 75, 50))
    stitched = Grid.stitch([[grid, grid]], boxes, (200, 50))
    assert stitched.x.tolist() == [[25, 50], [50, 75], [125, 150], [150, 175]]
    assert stitched.cell_size == (37.5, 25)


def test_tiles_that_do_not_line_up_are_refused():
    wide, fine = Grid.regular(2, 2, (50, 50)), Grid.regular(3, 2, (50, 50))
    side_by_side = [[Box(0, 0, 50, 50), Box(50, 0, 100, 50)]]
    with pytest.raises(AttnLensError, match="do not line up"):
        Grid.stitch([[wide, fine]], side_by_side, (100, 50))
    with pytest.raises(AttnLensError, match="same rectangle of both"):
        Grid.stitch([[wide]], side_by_side, (100, 50))
    with pytest.raises(AttnLensError, match="for the crop that its box cuts out"):
        Grid.stitch([[wide, wide]], [[Box(0, 0, 50, 50), Box(50, 0, 90, 50)]], (100, 50))
    with pytest.raises(AttnLensError, match="at least one tile"):
        Grid.stitch([], [], (100, 50))


def test_a_count_is_a_whole_number_from_one_on():
    assert all(map(is_count, [1, 7, np.int64(3)]))
    assert not any(map(is_count, [True, False, np.True_, 0, -1, 2.0, "2", None, math.nan]))


def test_overlaps_are_fractions_of_each_span():
    assert overlaps(np.array([[0.0, 10.0], [10.0, 20.0], [20.0, 30.0]]), 5, 12).tolist() == [0.5, 0.2, 0]


@pytest.mark.parametrize(
    ("crop", "held"),
    [((0, 0, 50, 100), True), ((0, 0, 49, 100), False), ((0, 0, 500, 500), True), ((100, 0, 200, 100), False)],
)
def test_a_crop_holds_a_target_from_half_of_its_area_on(crop, held):
    assert Box(*crop).covers(Box(0, 0, 100, 100)) is held
