"""The box search against the plain double loop of the ViCrop paper, and what must hold for every map."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlens import AttnLensError, Box, Grid, ImportanceMap
from attnlens.boxes import Region, search
from attnlens.boxes._search import CRITERIA, RATIOS

MAPS_PER_BLOCK = 250


def whole(image_size):
    return Region(Box(0, 0, *image_size), 0.0, False)


def regular(values, image_size):
    values = np.asarray(values, dtype=np.float32)
    return ImportanceMap(values, Grid.regular(*values.shape, image_size))


def placed(first, bw, cell, length, side):
    """The pixels of `bw` cells from cell `first` on, of `cell` in `length` pixels; in whole numbers, so exact."""
    half = int(side // 2)
    centre = (2 * first + bw) * length // (2 * cell)
    start = min(centre - half, (2 * first + 1) * length // (2 * cell))
    stop = max(centre + half, (2 * (first + bw) - 1) * length // (2 * cell) + 1)
    if stop - start >= length:
        return 0, length
    if start < 0:
        return 0, stop - start
    if stop > length:
        return length - (stop - start), length
    return start, stop


def double_loop(values, image_size, window, ratios=RATIOS):
    """{criterion: (box, confident)}: every window at every place, summed one by one, the first strict best of each."""
    values = np.asarray(values, dtype=np.float64)
    (rows, cols), (width, height) = values.shape, image_size
    nothing = dict.fromkeys(CRITERIA, ((0, 0, width, height), False))
    if not np.isfinite(values).all() or values.max() == values.min():
        return nothing
    best = dict.fromkeys(CRITERIA)
    for c in ratios:
        bw = max(1, min(int(window * c / (width / cols)), cols))
        bh = max(1, min(int(window * c / (height / rows)), rows))
        if bw == cols and bh == rows:
            if c == 1:
                return nothing
            continue
        sums, top = {}, None
        for x in range(cols - bw + 1):
            for y in range(rows - bh + 1):
                sums[x, y] = values[y : y + bh, x : x + bw].sum()
                if top is None or sums[x, y] > sums[top]:
                    top = x, y
        x, y = top
        near = [sums[p] for p in [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)] if p in sums]
        delta = sums[top] - sum(near) / len(near)
        x1, x2 = placed(x, bw, cols, width, window * c)
        y1, y2 = placed(y, bh, rows, height, window * c)
        ties = min(sums.values()) == sums[top]
        for criterion, score in (("density", delta / (bw * bh)), ("sum", delta)):
            if best[criterion] is None or score > best[criterion][0]:
                best[criterion] = score, (x1, y1, x2, y2), ties
    return {
        criterion: nothing[criterion] if pick is None or pick[2] else (pick[1], True)
        for criterion, pick in best.items()
    }


def random_case(rng):
    """A map of one of seven kinds (half of them full of ties), an image size and a window."""
    rows, cols = rng.integers(1, 60, 2)
    if rng.random() < 0.8:  # most grids small, where edges and ties are most frequent
        rows, cols = np.ceil(59 ** rng.random(2)).astype(int)
    shape, kind = (rows, cols), rng.integers(7)
    values = (
        rng.lognormal(size=shape),
        rng.lognormal(sigma=2, size=shape),
        rng.random(shape),
        rng.integers(0, 3, shape),
        rng.integers(0, 2, shape) * rng.integers(1, 9, shape),
        np.where(rng.random(shape) < 0.02, 5.0, 0.1),
        np.add.outer(rng.integers(0, 5, rows), rng.integers(0, 5, cols)),
    )[kind]
    image_size = (int(rng.integers(20, 4001)), int(rng.integers(20, 4001)))
    return values.astype(np.float32), image_size, int(rng.choice([rng.integers(50, 401), 224, 336]))


@pytest.mark.parametrize("block", [0, *(pytest.param(b, marks=pytest.mark.slow) for b in range(1, 40))])
def test_boxes_equal_those_of_the_plain_double_loop(block):
    rng = np.random.default_rng(block)
    cropped = 0
    for number in range(MAPS_PER_BLOCK):
        values, image_size, window = random_case(rng)
        expected = double_loop(values, image_size, window)
        for criterion in CRITERIA:
            (found,) = search(regular(values, image_size), window, criterion=criterion)
            assert (tuple(found.box), found.confident) == expected[criterion], (number, criterion)
            cropped += found.confident
    assert cropped > 0.75 * 2 * MAPS_PER_BLOCK  # the comparison is about boxes, not about whole images


def test_boxes_equal_those_of_the_double_loop_on_a_stitched_map_of_120_by_192_cells():
    values = np.random.default_rng(0).lognormal(size=(120, 192)).astype(np.float32)
    expected = double_loop(values, (8192, 5120), 336)
    for criterion in CRITERIA:
        (found,) = search(regular(values, (8192, 5120)), criterion=criterion)
        assert (tuple(found.box), found.confident) == expected[criterion]


def test_a_map_of_120_by_192_cells_is_searched_in_milliseconds():
    importance = regular(np.random.default_rng(0).lognormal(size=(120, 192)), (8192, 5120))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        search(importance)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02


# Properties of every map


@st.composite
def cases(draw, min_cells=1):
    rows, cols = draw(st.integers(min_cells, 40)), draw(st.integers(min_cells, 40))
    values = np.random.default_rng(draw(st.integers(0, 2**32))).lognormal(
        sigma=draw(st.sampled_from([0.1, 1, 3])), size=(rows, cols)
    )
    image_size = draw(st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
    return regular(values, image_size), draw(st.integers(1, 800)), draw(st.sampled_from(CRITERIA))


@given(cases(), st.integers(1, 4))
def test_every_box_is_inside_the_image_and_not_empty(case, count):
    importance, window, criterion = case
    for found in search(importance, window, criterion=criterion, count=count):
        x1, y1, x2, y2 = found.box
        assert 0 <= x1 < x2 <= importance.grid.image_size[0]
        assert 0 <= y1 < y2 <= importance.grid.image_size[1]
        assert all(type(edge) is int for edge in found.box)
        assert math.isfinite(found.score)
        assert found.score >= 0


@given(cases())
def test_a_box_has_the_side_of_a_ratio_times_the_window_or_the_image(case):
    importance, window, criterion = case
    (found,) = search(importance, window, criterion=criterion)
    for length, limit in zip((found.box.width, found.box.height), importance.grid.image_size, strict=True):
        assert length == limit or any(abs(length - window * ratio) <= 2 for ratio in RATIOS)


@given(
    st.integers(0, 2**32), st.integers(3, 12), st.integers(3, 12), st.tuples(st.integers(0, 20), st.integers(0, 20)),
    st.integers(4, 40), st.sampled_from(CRITERIA),
)  # fmt: skip
def test_the_box_moves_with_the_map(seed, rows, cols, shift, cell, criterion):
    patch = np.random.default_rng(seed).lognormal(size=(rows, cols))
    boxes = []
    for row, col in ((40, 40), (40 + shift[0], 40 + shift[1])):
        values = np.zeros((112, 112))
        values[row : row + rows, col : col + cols] = patch
        (found,) = search(regular(values, (112 * cell, 112 * cell)), 8 * cell, criterion=criterion)
        boxes.append(found.box)
    dx, dy = shift[1] * cell, shift[0] * cell
    assert boxes[1] == (boxes[0].x1 + dx, boxes[0].y1 + dy, boxes[0].x2 + dx, boxes[0].y2 + dy)


@given(
    st.integers(1, 40), st.integers(1, 40), st.tuples(st.integers(1, 4000), st.integers(1, 4000)), st.data(),
    st.integers(1, 800), st.sampled_from(CRITERIA), st.sampled_from([0.0, 0.1, 3.0]),
)  # fmt: skip
def test_the_box_holds_the_peak_of_a_single_spike(rows, cols, image_size, data, window, criterion, background):
    values = np.full((rows, cols), background)
    row, col = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    values[row, col] = 7
    importance = regular(values, image_size)
    (found,) = search(importance, window, criterion=criterion)
    cell = importance.grid.cell(row, col)
    assert found.box.x1 <= (cell.x1 + cell.x2) / 2 <= found.box.x2
    assert found.box.y1 <= (cell.y1 + cell.y2) / 2 <= found.box.y2


@given(cases(), st.floats(1e-6, 1e6))
def test_a_positive_factor_changes_no_box(case, factor):
    importance, window, criterion = case
    (first,) = search(importance, window, criterion=criterion)
    (second,) = search(importance * factor, window, criterion=criterion)
    assert second.box == first.box
    assert second.score == pytest.approx(
        first.score * factor, rel=1e-3, abs=1e-6 * float(importance.values.max()) * factor
    )


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "spoil", [lambda v: v * 0, lambda v: v * 0 + 0.1, lambda v: v * 0 - 3, "nan", "inf", "-inf"],
    ids=["zero", "flat", "flat and negative", "one nan", "one inf", "one -inf"],
)  # fmt: skip
def test_a_map_that_says_nothing_gives_the_whole_image_without_confidence(spoil, criterion, count):
    values = np.random.default_rng(1).lognormal(size=(24, 24))
    if isinstance(spoil, str):
        values[3, 4] = float(spoil)
    else:
        values = spoil(values)
    assert search(regular(values, (1000, 800)), criterion=criterion, count=count) == [whole((1000, 800))]


def test_float32_rounding_does_not_make_a_flat_map_confident():
    values = np.full((24, 24), 1 / 576) * (1 + 1e-7 * np.random.default_rng(0).random((24, 24)))
    assert search(regular(values, (1000, 800))) == [whole((1000, 800))]


def test_a_map_whose_windows_all_tie_gives_the_whole_image_without_confidence():
    stripes = np.tile([1.0, 2.0], (1, 8))
    assert search(regular(stripes, (160, 10)), 20, ratios=[1]) == [whole((160, 10))]


# The sharp edges of the published search


@pytest.mark.parametrize("image_size", [(336, 336), (200, 336), (1, 1), (20, 300)])
def test_an_image_no_larger_than_the_window_is_not_cropped(image_size):
    values = np.random.default_rng(2).lognormal(size=(24, 24))
    assert search(regular(values, image_size), 336) == [whole(image_size)]


def test_a_ratio_whose_window_covers_the_map_is_passed_over():
    values = np.random.default_rng(2).lognormal(size=(24, 24))
    with_all = search(regular(values, (400, 400)), 336, criterion="sum")
    assert with_all == search(regular(values, (400, 400)), 336, criterion="sum", ratios=[1])
    assert with_all[0].box.width == 336
    assert with_all[0].confident


@pytest.mark.parametrize(
    ("image_size", "grid"), [((9000, 6000), (24, 24)), ((4800, 2700), (12, 21)), ((20000, 20), (1, 24))]
)
def test_a_cell_wider_than_the_window_is_a_window_of_one_cell_and_never_a_corner(image_size, grid):
    values = np.random.default_rng(3).random(grid)
    row, col = grid[0] // 2, grid[1] // 2
    values[row, col] = 9
    (found,) = search(regular(values, image_size), 200)
    cell = Grid.regular(*grid, image_size).cell(row, col)
    assert found.box.x1 < (cell.x1 + cell.x2) / 2 < found.box.x2
    assert found.box.y1 < (cell.y1 + cell.y2) / 2 < found.box.y2
    assert found.box.width == 200


def test_an_image_narrower_than_the_window_is_cut_only_along_its_length():
    values = np.zeros((24, 24))
    values[12, 12] = 1
    (found,) = search(regular(values, (1000, 300)), 336, ratios=[1])
    assert (found.box.width, found.box.y1, found.box.y2) == (336, 0, 300)


def test_ties_go_to_the_leftmost_and_then_to_the_topmost_window():
    values = np.zeros((10, 10))
    values[1, 6] = values[7, 3] = values[4, 3] = 1
    (found,) = search(regular(values, (1000, 1000)), 100, ratios=[1])
    assert found.box == (300, 400, 400, 500)


def test_the_first_of_equally_good_ratios_wins():
    values = np.zeros((4, 4))
    values[1, 2] = 1
    sides = [search(regular(values, (400, 400)), 100, ratios=ratios)[0].box.width for ratios in ([1, 1.2], [1.2, 1])]
    assert sides == [100, 120]  # both are windows of one cell


def test_density_prefers_a_small_window_where_sum_prefers_a_large_one():
    values = np.zeros((20, 20))
    values[8:12, 8:12] = 1
    values[9, 9] = 1.5
    importance = regular(values, (1000, 1000))
    by_density = search(importance, 50, ratios=[1, 4], criterion="density")[0]
    by_sum = search(importance, 50, ratios=[1, 4], criterion="sum")[0]
    assert (by_density.box.width, by_sum.box.width) == (50, 200)
    assert by_density.score == pytest.approx(0.5)  # 1.5, less the mean of four times 1
    assert by_sum.score == pytest.approx(16.5 - (12.5 * 2 + 12.5 * 2) / 4)


def test_a_box_at_the_edge_is_moved_inside_and_not_shrunk():
    values = np.zeros((10, 10))
    values[9, 9] = 1
    (found,) = search(regular(values, (1000, 1000)), 150, ratios=[1])
    assert found.box == (850, 850, 1000, 1000)


# Grids that are not the whole image


def test_the_box_of_a_centre_crop_lies_where_the_model_looked():
    values = np.zeros((24, 24))
    values[0, 0] = 1
    grid = Grid.regular(24, 24, (1000, 750), region=Box(125, 0, 875, 750))
    (found,) = search(ImportanceMap(values, grid), 62.5, ratios=[1])
    assert found.box == (125, 0, 187, 62)


@pytest.mark.parametrize("peaks", [(7, 8), (8, 7)])
def test_a_window_across_a_gap_gives_a_box_that_holds_the_centres_of_its_outermost_cells(peaks):
    spans = [[100 * tile + 30 + 5 * i, 100 * tile + 35 + 5 * i] for tile in range(2) for i in range(8)]
    values = np.zeros((16, 16))
    values[7:9, 7:9] = np.outer(peaks, peaks)  # at the end of one tile and the beginning of the next
    (found,) = search(ImportanceMap(values, Grid(spans, spans, (200, 200))), 22, ratios=[1])
    assert found.box.x1 <= 67.5 < 132.5 <= found.box.x2
    assert found.box.y1 <= 67.5 < 132.5 <= found.box.y2


def test_padding_is_never_found():
    values = np.random.default_rng(4).random((10, 10))
    values[0, :] = 50  # above the image
    values[6, 6] = 9
    grid = Grid.regular(10, 10, (1000, 500), region=Box(0, -250, 1000, 750))
    (found,) = search(ImportanceMap(values, grid), 100)
    assert found.box.x1 <= 650 <= found.box.x2
    assert found.box.y1 <= 400 <= found.box.y2


def test_a_map_that_stands_out_only_in_the_padding_gives_the_whole_image():
    values = np.ones((10, 10))
    values[0, 3] = 50
    grid = Grid.regular(10, 10, (1000, 500), region=Box(0, -250, 1000, 750))
    assert search(ImportanceMap(values, grid), 100) == [whole((1000, 500))]


# Several boxes


def test_two_spikes_give_two_boxes_the_stronger_first_and_no_third():
    values = np.zeros((30, 30))
    values[5, 5], values[22, 20] = 2, 3
    found = search(regular(values, (1500, 1500)), 200, count=5)
    assert len(found) == 2
    assert [
        (f.box.x1 <= x < f.box.x2 and f.box.y1 <= y < f.box.y2)
        for f, x, y in zip(found, (1025, 275), (1125, 275), strict=True)
    ] == [True, True]
    assert found[0].score > found[1].score


@given(cases(min_cells=5), st.integers(2, 5), st.sampled_from([0.0, 0.1, 0.3, 0.7]))
@settings(max_examples=50)
def test_boxes_overlap_by_at_most_the_threshold_and_do_not_depend_on_how_many_are_wanted(case, count, iou):
    importance, window, criterion = case
    found = search(importance, window, criterion=criterion, count=count, iou=iou)
    assert 1 <= len(found) <= count
    assert found[:1] == search(importance, window, criterion=criterion)
    assert found[:2] == search(importance, window, criterion=criterion, count=2, iou=iou)
    for i, one in enumerate(found):
        assert all(one.box.iou(other.box) <= iou for other in found[:i])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_shoulder_of_a_found_peak_is_not_another_box_and_hides_none(criterion):
    values = np.zeros((1, 20))
    values[0, 5:10] = 9, 8, 7, 6.5, 6
    values[0, 15] = 5
    found = search(regular(values, (200, 10)), 19, ratios=[1], criterion=criterion, count=5, iou=0)
    assert [(f.box.x1 + f.box.x2) / 2 for f in found] == [55, 155]


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"window": math.nan}, "window is nan"),
        ({"window": "336"}, "window is '336'"),
        ({"ratios": ()}, "ratios is"),
        ({"ratios": (1, -2)}, "ratios is"),
        ({"ratios": 2}, "ratios is 2"),
        ({"criterion": "area"}, "expected 'density' or 'sum'"),
        ({"count": 0}, "count is 0"),
        ({"count": 1.5}, "count is 1.5"),
        ({"iou": 1}, "iou is 1"),
        ({"iou": "much"}, "iou is 'much'"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(AttnLensError, match=message):
        search(regular(np.eye(4), (100, 100)), **arguments)


def test_a_bare_array_is_refused_with_the_way_to_wrap_it():
    with pytest.raises(AttnLensError, match="Grid.regular"):
        search(np.eye(4))
