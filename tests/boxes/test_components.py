"""Connected components against a plain, slow reading of the same words, and what must hold for every map."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlens import AttnLensError, Box, Grid, ImportanceMap
from attnlens.boxes import Region, components


def regular(values, image_size=(1000, 800)):
    values = np.asarray(values, dtype=np.float32)
    return ImportanceMap(values, Grid.regular(*values.shape, image_size))


def whole(importance):
    return [Region(Box(0, 0, *importance.grid.image_size), 0.0, False)]


def blob(values, rows, cols, height=1.0):
    values[rows, cols] = height
    return values


# The plain reading


def mirrored(place, length):
    """Where a place beyond the edge lies, when the map is mirrored there: ... b a | a b c | c b ..."""
    while not 0 <= place < length:
        place = -1 - place if place < 0 else 2 * length - 1 - place
    return place


def blurred_line(line, sigma):
    reach = int(4 * sigma + 0.5)
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(-reach, reach + 1)]
    total = math.fsum(weights)
    return [
        math.fsum(w * line[mirrored(i + step - reach, len(line))] for step, w in enumerate(weights)) / total
        for i in range(len(line))
    ]


def blurred(values, sigma):
    down = [list(line) for line in zip(*(blurred_line(col, sigma) for col in zip(*values, strict=True)), strict=True)]
    return [blurred_line(row, sigma) for row in down]


def plain_elbow(flat):
    """The value furthest below the chord, by the distance of a point to a line; None where none lies below."""
    falling = sorted(flat, reverse=True)
    run, drop = len(falling) - 1, falling[-1] - falling[0]
    best, furthest = None, 1e-12
    for rank, value in enumerate(falling):
        below = (rank * drop - run * (value - falling[0])) / math.hypot(run, drop)
        if below > furthest + 1e-12:
            best, furthest = value, below
    return best


def flooded(kept):
    """Lists of cells that touch, corners included, in reading order of their first cells."""
    left, found = dict.fromkeys(kept), []
    while left:
        ahead, member = [next(iter(left))], []
        while ahead:
            r, c = ahead.pop()
            if (r, c) in left:
                del left[r, c]
                member.append((r, c))
                ahead += [(r + a, c + b) for a, b in itertools.product((-1, 0, 1), repeat=2)]
        found.append(member)
    return found


def centred(start, stop, length, limit):
    first = (start + stop - length) // 2
    first = max(0, min(first, limit - length))
    return first, first + length


def plain_iou(a, b):
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plainly(importance, window, count, sigma, threshold, aspect, iou):
    """[(box, score)] with lists and loops; empty for a map with nothing to choose."""
    grid, (width, height) = importance.grid, importance.grid.image_size
    x = [c for c in range(grid.cols) if grid.x[c][0] < width and grid.x[c][1] > 0]
    y = [r for r in range(grid.rows) if grid.y[r][0] < height and grid.y[r][1] > 0]
    values = [[float(importance.values[r, c]) for c in x] for r in y]
    if not values or not values[0]:
        return []
    if sigma:
        values = blurred(values, sigma)
    flat = [v for row in values for v in row]
    low, high = min(flat), max(flat)
    if high - low <= 1e-6 * max(map(abs, flat)):
        return []
    elbow = plain_elbow(flat)
    if threshold is None:
        keep = (lambda v: v > elbow) if elbow is not None else (lambda v: v == high)
    else:
        keep = lambda v: (v - low) / (high - low) >= threshold  # noqa: E731
    cells = [cell for cell in itertools.product(range(len(y)), range(len(x))) if keep(values[cell[0]][cell[1]])]
    groups = [(math.fsum(values[r][c] - min(low, 0) for r, c in group), group) for group in flooded(cells)]
    boxes = []
    for score, group in sorted(groups, key=lambda one: -one[0]):
        seen = [(*grid.x[x[c]], *grid.y[y[r]]) for r, c in group]
        x1, x2 = max(0, min(s[0] for s in seen)), min(width, max(s[1] for s in seen))
        y1, y2 = max(0, min(s[2] for s in seen)), min(height, max(s[3] for s in seen))
        x1, y1 = min(math.floor(x1 + 0.5), width - 1), min(math.floor(y1 + 0.5), height - 1)
        x2, y2 = max(x1 + 1, math.floor(x2 + 0.5)), max(y1 + 1, math.floor(y2 + 0.5))
        across = min(width, max(x2 - x1, math.ceil(window)))
        down = min(height, max(y2 - y1, math.ceil(window)))
        across, down = max(across, math.ceil(down / aspect)), max(down, math.ceil(across / aspect))
        x1, x2 = centred(x1, x2, min(across, width), width)
        y1, y2 = centred(y1, y2, min(down, height), height)
        box = (x1, y1, x2, y2)
        if box != (0, 0, width, height) and all(plain_iou(box, other) <= iou for other, _ in boxes):
            boxes.append((box, score))
    return boxes[:count]


@st.composite
def maps(draw):
    """Maps of random values, on grids over the whole image, a part of it, more than it, and with gaps."""
    rows, cols = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.lognormal(sigma=1.5, size=(rows, cols)) - draw(st.sampled_from([0, 3]))
    width, height = draw(st.integers(1, 2000)), draw(st.integers(1, 2000))
    regions = [None, Box(width * 0.25, 0, width * 0.75, height), Box(-width / 2, -height, width, height * 1.5)]
    grid = Grid.regular(rows, cols, (width, height), region=draw(st.sampled_from(regions)))
    if draw(st.booleans()):  # gaps and overlaps between columns, as tiles have
        grid = Grid(grid.x + random.uniform(-0.2, 0.2, (cols, 1)) * grid.cell_size[0], grid.y, (width, height))
    return ImportanceMap(values.astype(np.float32), grid)


@st.composite
def settings_of_components(draw):
    return {
        "window": draw(st.sampled_from([1, 50, 133.3, 336])),
        "count": draw(st.integers(1, 9)),
        "sigma": draw(st.sampled_from([0, 0.5, 1.5, 3])),
        "threshold": draw(st.sampled_from([None, None, 0.3, 0.7, 0.9])),
        "aspect": draw(st.sampled_from([1, 1.5, 3, 100])),
        "iou": draw(st.sampled_from([0, 0.3, 0.9])),
    }


@given(maps(), settings_of_components())
def test_components_equal_those_of_the_plain_reading(importance, options):
    expected = plainly(importance, **options)
    found = components(importance, **options)
    if not expected:
        assert found == whole(importance)
    else:
        assert [tuple(one.box) for one in found] == [box for box, _ in expected]
        assert [one.score for one in found] == pytest.approx([score for _, score in expected])
        assert all(one.confident for one in found)


@given(maps(), settings_of_components())
def test_every_box_is_of_ints_inside_the_image_and_keeps_to_its_limits(importance, options):
    width, height = importance.grid.image_size
    for found in components(importance, **options):
        x1, y1, x2, y2 = found.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert all(type(edge) is int for edge in found.box)
        if found.confident:
            assert x2 - x1 >= min(options["window"], width)
            assert y2 - y1 >= min(options["window"], height)
            assert x2 - x1 <= options["aspect"] * (y2 - y1) or y2 - y1 == height
            assert y2 - y1 <= options["aspect"] * (x2 - x1) or x2 - x1 == width


# By example


@pytest.mark.parametrize(("rows", "cols"), [(24, 24), (8, 16)])
def test_smoothing_goes_with_the_size_of_the_map(rows, cols):
    importance = regular(np.random.default_rng(2).lognormal(size=(rows, cols)))
    assert components(importance, window=1) == components(importance, window=1, sigma=1.5 / 24 * max(rows, cols))
    assert components(importance, window=1) != components(importance, window=1, sigma=0)


def test_two_far_regions_are_two_tight_boxes_and_the_larger_sum_is_first():
    values = blob(blob(np.zeros((16, 20)), slice(2, 4), slice(1, 4)), slice(12, 14), slice(14, 19))
    found = components(regular(values), window=50, sigma=0)
    assert [tuple(one.box) for one in found] == [(700, 600, 950, 700), (50, 100, 200, 200)]
    assert [one.score for one in found] == [10, 6]


def test_cells_that_touch_at_a_corner_hang_together():
    values = blob(blob(np.zeros((16, 20)), 3, 4), 4, 5)
    (found,) = components(regular(values), window=1, sigma=0)
    assert found.box == Box(200, 150, 300, 250)


def test_the_cut_is_at_the_elbow_of_the_values():
    # Ranked: 10, 9, 8, then a long flat tail from 1 to 0; the third of the tail's cells is no part of a region.
    values = np.linspace(1, 0, 60).reshape(6, 10)
    values[3, 2:5] = 8, 10, 9
    (found,) = components(regular(values, (1000, 600)), window=1, sigma=0)
    assert found.box == Box(200, 300, 500, 400)
    assert found.score == 27


def test_where_no_value_lies_below_the_chord_only_the_largest_is_kept():
    values = np.full((8, 8), 9.0)
    values[0, :4], values[5, 5] = 0, 10
    (found,) = components(regular(values, (800, 800)), window=1, sigma=0)
    assert found.box == Box(500, 500, 600, 600)


def test_a_threshold_is_a_fraction_of_the_way_from_minimum_to_maximum():
    values = np.full((4, 10), -2.0)
    values[1, 2:6] = 4, 5, 8, 4.9  # 0.6, 0.7, 1.0 and 0.69 of the way from -2 to 8
    assert components(regular(values), window=1, sigma=0, threshold=0.7)[0].box == Box(300, 200, 500, 400)
    assert components(regular(values), window=1, sigma=0, threshold=0.6)[0].box == Box(200, 200, 600, 400)
    assert components(regular(values), window=1, sigma=0, threshold=1)[0].box == Box(400, 200, 500, 400)
    assert components(regular(values), window=1, sigma=0, threshold=0) == whole(regular(values))


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_negative_cells_count_from_the_minimum(threshold):
    values = blob(blob(np.full((16, 20), -1.0), slice(2, 4), slice(1, 4), 1), slice(12, 14), slice(14, 19), 0.5)
    larger, smaller = components(regular(values), window=1, sigma=0, threshold=threshold)
    assert larger.score == 10 * 1.5
    assert smaller.score == 6 * 2


def test_a_long_box_is_made_no_longer_than_aspect_by_growing_its_short_side():
    values = blob(np.zeros((40, 40)), 20, slice(5, 35))
    for aspect, height in ((3, 200), (2, 300), (100, 20)):
        (found,) = components(regular(values, (800, 800)), window=1, sigma=0, aspect=aspect)
        assert (found.box.width, found.box.height) == (600, height)
        assert abs(found.box.y1 + found.box.y2 - 820) <= 1


def test_smoothing_joins_what_lies_close_and_lets_lone_cells_sink():
    values = np.zeros((30, 30))
    values[10:14:2, 10:20:2] = 1.0
    values[25, 25] = 1.5
    scattered = components(regular(values), window=1, sigma=0, count=99)
    joined = components(regular(values), window=1, sigma=1.5, count=99)
    assert len(scattered) == 11
    assert joined[0].box.covers(Box(334, 267, 633, 347))


def test_boxes_that_growing_makes_one_are_given_once():
    values = blob(blob(np.zeros((20, 20)), 10, 8, 2), 10, 11, 1)
    assert len(components(regular(values), window=10, sigma=0)) == 2
    (found,) = components(regular(values), window=400, sigma=0)
    assert found.score == 2


def test_cells_outside_the_image_never_count():
    values = blob(blob(np.zeros((10, 10)), slice(0, 2), slice(None), 9), 5, 5, 1)
    grid = Grid.regular(10, 10, (1000, 800), region=Box(0, -200, 1000, 800))
    (found,) = components(ImportanceMap(values, grid), window=1, sigma=0)
    assert found.box == Box(500, 300, 600, 400)
    (found,) = components(ImportanceMap(values, grid), window=1, sigma=1)
    assert found.box.covers(Box(500, 300, 600, 400))
    assert found.box.y1 > 0


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((8, 8)),
        np.full((8, 8), 3.0),
        np.full((8, 8), -1.0) + np.eye(8) * 1e-8,
        np.where(np.eye(8) > 0, np.nan, 1),
        np.where(np.eye(8) > 0, np.inf, 1),
        np.ones((1, 1)),
    ],
    ids=["zeros", "flat", "rounding", "nan", "inf", "one cell"],
)
def test_a_map_with_nothing_to_choose_gives_the_whole_image_without_confidence(values):
    assert components(regular(values)) == whole(regular(values))


def test_a_map_that_smoothing_makes_flat_gives_the_whole_image_without_confidence():
    spread = regular(np.random.default_rng(0).random((9, 11)))
    assert components(spread, window=10, sigma=5)[0].confident
    assert components(spread, window=10, sigma=3000) == whole(spread)


def test_a_map_that_sees_nothing_of_the_image_gives_the_whole_image_without_confidence():
    away = ImportanceMap(np.eye(4), Grid.regular(4, 4, (100, 100), region=Box(200, 0, 300, 100)))
    assert components(away) == whole(away)


def test_an_image_no_larger_than_the_window_is_not_cropped():
    importance = regular(blob(np.zeros((9, 9)), 4, 4), (300, 200))
    assert components(importance, window=336) == whole(importance)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window is 0"),
        ({"window": "336"}, "window is '336'"),
        ({"count": 0}, "count is 0"),
        ({"sigma": -1}, "sigma is -1"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"threshold": 70}, "threshold is 70"),
        ({"aspect": 0.5}, "aspect is 0.5"),
        ({"iou": 1}, "iou is 1"),
    ],
    ids=str,
)
def test_arguments_of_the_wrong_kind_are_refused(options, words):
    with pytest.raises(AttnLensError, match=words):
        components(regular(np.eye(4)), **options)


def test_a_bare_matrix_is_refused():
    with pytest.raises(AttnLensError, match="expected an ImportanceMap"):
        components(np.eye(4))
