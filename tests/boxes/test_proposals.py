"""The region proposals of FOCUS against a plain, slow reading of its step IV, and what must hold for every map."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlens import AttnLensError, Box, Grid, ImportanceMap
from attnlens.boxes import Region
from attnlens.boxes._proposals import propose
from attnlens.boxes._suppression import suppress
from attnlens.recipes.focus import _presets


def regular(values, image_size=(1000, 800)):
    values = np.asarray(values, dtype=np.float32)
    return ImportanceMap(values, Grid.regular(*values.shape, image_size))


def whole(importance):
    return [Region(Box(0, 0, *importance.grid.image_size), 0.0, False)]


def plain_iou(a, b):
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def cells_around(row, col, side, rows, cols):
    """The cells of a square around a cell, as far as they are on the map; the odd one right and below."""
    before = (side - 1) // 2
    offsets = range(-before, side - before)
    return [
        (row + down, col + across)
        for down, across in itertools.product(offsets, offsets)
        if 0 <= row + down < rows and 0 <= col + across < cols
    ]


def plainly(importance, anchors, smallest, largest, distance, threshold, iou):
    """[(box, score)] by the words of the paper, with lists and loops; None for a map with nothing to choose."""
    grid, values = importance.grid, importance.values.tolist()
    rows, cols = len(values), len(values[0])
    flat = [v for row in values for v in row]
    if not all(map(math.isfinite, flat)) or max(flat) == min(flat) or (rows <= smallest and cols <= smallest):
        return None
    width, height = grid.image_size
    for r, c in itertools.product(range(rows), range(cols)):
        (left, right), (top, bottom) = grid.x[c].tolist(), grid.y[r].tolist()
        if left >= width or right <= 0 or top >= height or bottom <= 0:
            values[r][c] = min(flat)
    lowest = min(flat)
    shift = -lowest if lowest < 0 else 0
    ranking = sorted(itertools.product(range(rows), range(cols)), key=lambda cell: -values[cell[0]][cell[1]])
    chosen = []
    for r, c in ranking[:anchors]:
        near = any((r - a) ** 2 + (c - b) ** 2 < distance**2 for a, b in chosen)
        if values[r][c] > lowest and not near:
            chosen.append((r, c))
    boxes = []
    for r, c in chosen:
        kept = cells_around(r, c, smallest, rows, cols)
        side = smallest + 2
        while side <= largest:
            grown = cells_around(r, c, side, rows, cols)
            mean = math.fsum(values[a][b] + shift for a, b in grown) / len(grown)
            if mean < threshold * (values[r][c] + shift) or len(grown) == rows * cols:
                break
            kept, side = grown, side + 2
        seen = [(*grid.x[b], *grid.y[a]) for a, b in kept]
        x1, x2 = max(0, min(s[0] for s in seen)), min(width, max(s[1] for s in seen))
        y1, y2 = max(0, min(s[2] for s in seen)), min(height, max(s[3] for s in seen))
        x1, y1 = min(math.floor(x1 + 0.5), width - 1), min(math.floor(y1 + 0.5), height - 1)
        box = x1, y1, max(x1 + 1, math.floor(x2 + 0.5)), max(y1 + 1, math.floor(y2 + 0.5))
        if all(plain_iou(box, other) <= iou for other, _ in boxes):
            boxes.append((box, values[r][c]))
    return boxes


@st.composite
def maps(draw):
    """Maps with and without ties, on grids over the whole image, a part of it, more than it, and with gaps."""
    rows, cols = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["lognormal", "ties", "spikes", "negative", "smooth"]))
    if kind == "lognormal":
        values = random.lognormal(size=(rows, cols))
    elif kind == "ties":
        values = random.integers(0, 4, (rows, cols))
    elif kind == "spikes":
        values = np.where(random.random((rows, cols)) < 0.1, 8.0, 0.25)
    elif kind == "negative":
        values = random.integers(-4, 5, (rows, cols))
    else:
        y, x = np.ogrid[:rows, :cols]
        values = 64 / (1 + (y - random.integers(rows)) ** 2 + (x - random.integers(cols)) ** 2)
    width, height = draw(st.integers(1, 2000)), draw(st.integers(1, 2000))
    region = draw(
        st.sampled_from([None, Box(width * 0.25, 0, width * 0.75, height), Box(-width / 2, -3, width, height * 1.5)])
    )
    grid = Grid.regular(rows, cols, (width, height), region=region)
    if draw(st.booleans()):  # gaps and overlaps between columns, as tiles have
        jitter = random.uniform(-0.2, 0.2, (cols, 1)) * grid.cell_size[0]
        grid = Grid(grid.x + jitter, grid.y, (width, height))
    return ImportanceMap(values.astype(np.float32), grid)


@st.composite
def settings_of_propose(draw):
    smallest = draw(st.integers(1, 6))
    return {
        "anchors": draw(st.integers(1, 250)),
        "smallest": smallest,
        "largest": draw(st.integers(smallest, 12)),
        "distance": draw(st.sampled_from([0, 1, 1.5, 2, 3, 5])),
        "threshold": draw(st.sampled_from([0, 0.25, 0.5, 0.75, 1])),
        "iou": draw(st.sampled_from([0, 0.1, 0.3, 0.7])),
    }


@given(maps(), settings_of_propose())
def test_proposals_equal_those_of_the_plain_reading(importance, options):
    expected = plainly(importance, **options)
    found = propose(importance, **options)
    if not expected:
        assert found == whole(importance)
    else:
        assert [(tuple(one.box), one.score) for one in found] == expected
        assert all(one.confident for one in found)


@given(maps(), settings_of_propose())
def test_every_box_is_of_ints_inside_the_image_and_not_empty(importance, options):
    width, height = importance.grid.image_size
    for found in propose(importance, **options):
        x1, y1, x2, y2 = found.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert all(type(edge) is int for edge in found.box)


@given(maps(), settings_of_propose())
def test_no_two_proposals_overlap_too_much_and_they_are_ranked(importance, options):
    found = propose(importance, **options)
    assert all(a.box.iou(b.box) <= options["iou"] + 1e-9 for a, b in itertools.combinations(found, 2))
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=12), st.sampled_from([0, 0.25, 0.5, 0.75]))
def test_suppression_equals_the_plain_loop(corners, iou):
    boxes = [Box(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in corners]
    kept = []
    for index, box in enumerate(boxes):
        if all(plain_iou(box, boxes[other]) <= iou for other in kept):
            kept.append(index)
    assert suppress(boxes, iou) == kept


def peak(side=11, at=(5, 5), reach=1):
    """A map that is 1 within `reach` cells of a cell, and 0 elsewhere."""
    values = np.zeros((side, side))
    values[at[0] - reach : at[0] + reach + 1, at[1] - reach : at[1] + reach + 1] = 1
    values[at] = 2
    return regular(values, (side * 10, side * 10))


def test_a_region_grows_while_half_of_its_anchor_is_left_on_average():
    narrow, wide = peak(reach=1), peak(reach=2)
    assert propose(narrow, anchors=1, largest=7)[0].box == (40, 40, 70, 70)  # 10 / 25 is less than half of 2
    assert propose(wide, anchors=1, largest=7)[0].box == (30, 30, 80, 80)  # 26 / 25 is more; 26 / 49 is not
    assert propose(wide, anchors=1, largest=4)[0].box == (40, 40, 70, 70)  # never more than the largest


def test_a_region_at_the_corner_is_cut_by_the_map_not_moved():
    values = np.zeros((10, 10))
    values[0, 9] = 1
    assert propose(regular(values, (100, 100)))[0].box == (80, 0, 100, 20)


def test_an_anchor_next_to_a_better_one_is_dropped():
    values = np.zeros((9, 9))
    values[4, 4], values[4, 5], values[4, 8] = 3, 2, 1
    importance = regular(values, (90, 90))
    assert [one.score for one in propose(importance, iou=0.9, distance=2)] == [3, 1]
    assert [one.score for one in propose(importance, iou=0.9, distance=1)] == [3, 2, 1]


def test_a_centre_crop_is_mapped_to_the_pixels_that_the_model_saw():
    values = np.zeros((8, 8))
    values[4, 0] = 1
    importance = ImportanceMap(values, Grid.regular(8, 8, (1000, 800), region=Box(100, 0, 900, 800)))
    assert propose(importance)[0].box == (100, 300, 300, 600)


def test_a_peak_in_the_padding_is_no_proposal():
    values = np.zeros((6, 6))
    values[5, 2], values[2, 2] = 9, 1
    importance = ImportanceMap(values, Grid.regular(6, 6, (60, 40), region=Box(0, 0, 60, 60)))
    (found,) = propose(importance, largest=3)
    assert found == Region(Box(10, 10, 40, 40), 1.0, True)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((9, 9)),
        np.zeros((9, 9)),
        np.full((9, 9), math.nan),
        np.where(np.eye(9) == 1, math.inf, 0),
        np.eye(3),
        np.eye(2),
        [[5]],
    ],
    ids=["flat", "zero", "nan", "inf", "as small as a region", "smaller", "one cell"],
)
def test_a_map_that_chooses_nothing_gives_the_whole_image_without_confidence(values):
    importance = regular(values)
    assert propose(importance) == whole(importance)


def test_one_nan_is_enough_to_distrust_a_map():
    values = np.eye(9)
    values[8, 0] = math.nan
    assert propose(regular(values)) == whole(regular(values))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"anchors": 0}, "anchors is 0"),
        ({"anchors": 2.5}, "anchors is 2.5"),
        ({"smallest": 0}, "smallest is 0"),
        ({"largest": "5"}, "largest '5'"),
        ({"smallest": 6, "largest": 5}, "smallest <= largest"),
        ({"distance": -1}, "distance is -1"),
        ({"distance": math.nan}, "distance is nan"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"iou": 1}, "iou is 1"),
        ({"iou": None}, "iou is None"),
    ],
    ids=str,
)
def test_nonsense_is_refused_with_what_was_expected(options, words):
    with pytest.raises(AttnLensError, match=words):
        propose(regular(np.eye(9)), **options)


def test_a_matrix_is_refused():
    with pytest.raises(AttnLensError, match="expected an ImportanceMap"):
        propose(np.eye(9))


# Presets


@pytest.mark.parametrize(
    ("name", "steps", "anchors", "largest", "distance", "layers", "min_confidence"),
    [
        ("llava-1.5", 3, 15, 5, 3, range(14, 32), 0.6),
        ("llava-1.5", 4, 30, 5, 3, range(14, 32), 0.6),
        ("llava-1.5/vstar", 8, 30, 5, 2, range(14, 32), 0.6),
        ("llava-onevision", 1, 30, 5, 2, range(21, 28), 0.5),
        ("llava-onevision/vstar", 4, 30, 9, 2, range(21, 28), 0.5),
    ],
)
def test_presets_are_the_papers_tables(name, steps, anchors, largest, distance, layers, min_confidence):
    preset = _presets.PRESETS[name]
    assert preset.proposing(steps) == {
        "anchors": anchors, "smallest": 3, "largest": largest, "distance": distance, "threshold": 0.5, "iou": 0.3,
    }  # fmt: skip
    assert (range(*preset.layers), preset.min_confidence) == (layers, min_confidence)
    assert propose(regular(np.eye(24)), **preset.proposing(steps))[0].confident


@given(st.integers(1, 120), st.integers(4, 60), st.integers(4, 60), st.integers(50, 9000), st.sampled_from([224, 336]))
def test_a_transferred_preset_obeys_the_papers_rules_where_they_can_be_met(layers, rows, cols, width, window):
    grid = Grid.regular(rows, cols, (width, round(width * rows / cols) or 1))
    preset = _presets.transfer_preset(layers, grid, window)
    first, end = preset.layers
    assert end == layers
    assert 0 <= first < end
    assert layers < 8 or 0.25 <= (end - first) / layers <= 0.6
    cell = math.sqrt(grid.cell_size[0] * grid.cell_size[1])
    sides = [side for side in range(3, max(rows, cols) + 1, 2) if window <= side * cell <= 2 * window]
    assert preset.largest % 2 == 1
    assert not sides or preset.largest in sides
    assert propose(ImportanceMap(np.eye(rows, cols), grid), **preset.proposing())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": (32, 14)}, "first < end"),
        ({"layers": (0, 4), "smallest": 7}, "smallest <= largest"),
        ({"layers": (0, 4), "anchors": 10}, "few_anchors <= anchors"),
        ({"layers": (0, 4), "min_confidence": 2}, "min_confidence is 2"),
        ({"layers": (0, 99), "depth": 32}, "of 32 layers; expected .first, end."),
        *(({"layers": layers}, "layers is ") for layers in (3, "ab", (1,), (0.5, 1.5), (True, 3), (-1, 2), None)),
        *(({"layers": (1, 3), "depth": depth}, "depth is ") for depth in (0, -4, "4", True, 4.0)),
        *(
            ({"layers": (1, 3), name: value}, f"{name} is {value!r}")
            for name, value in [
                ("anchors", "x"), ("anchors", 40.5), ("few_anchors", 0), ("smallest", 0), ("largest", 5.0),
                ("distance", -1), ("distance", math.nan), ("distance", None), ("threshold", None), ("threshold", True),
                ("iou", 1), ("iou", "x"), ("min_confidence", math.nan),
                ("merge_distance", -1), ("merge_distance", "x"), ("merge_distance", math.nan),
            ]
        ),
    ],
    ids=str,
)  # fmt: skip
def test_contradictory_presets_are_refused(options, words):
    with pytest.raises(AttnLensError, match=words):
        _presets.Preset(**options)


@pytest.mark.parametrize(
    ("layers", "of", "depth", "expected"),
    [
        ((14, 32), 32, 32, (14, 31)),
        ((14, 32), 32, 4, (2, 3)),
        ((21, 28), 28, 32, (24, 31)),
        ((30, 32), 32, 4, (3, 3)),
        ((31, 32), 32, 1, (0, 0)),
        ((0, 1), 32, 4, (0, 0)),
        ((1, 3), None, 4, (1, 2)),
    ],
)
def test_the_layers_of_a_preset_are_there_in_a_model_of_any_depth(layers, of, depth, expected):
    assert _presets.Preset(layers, of).layers_of(depth) == expected


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((0, 336), {}, "layer_count is 0"),
        ((32, 0), {}, "window is 0"),
        ((32, 336), {"share": 0}, "share is 0"),
    ],
    ids=str,
)
def test_a_preset_cannot_be_transferred_to_a_model_of_nothing(arguments, options, words):
    layers, window = arguments
    with pytest.raises(AttnLensError, match=words):
        _presets.transfer_preset(layers, Grid.regular(4, 4, (10, 10)), window, **options)
    with pytest.raises(AttnLensError, match="steps is 0"):
        _presets.PRESETS["llava-1.5"].proposing(steps=0)
