"""Whatever the map, the grid and the window: the search gives boxes of whole pixels inside the image, or one error."""

import math

import numpy as np
from hypothesis import strategies as st

from attnlens import AttnLensError, Grid, ImportanceMap
from attnlens.boxes import search
from tests.fuzz.trying import amounts, on_many, outcome

EXTREME = st.sampled_from(
    [0.0, 5e-324, 1e-300, 1e-9, 0.5, 1.0, 336.0, 2.0**31, 1e18, 1e300, 1.7e308, math.inf, math.nan]
)
NUMBERS = st.one_of(
    EXTREME,
    st.floats(),
    st.integers(1, 5000),
    st.sampled_from([400, 5000]).map(lambda digits: 10**digits),
    st.sampled_from([-1, None, "1"]),
)
SIZES = st.one_of(st.integers(1, 4000), st.integers(1, 2**31 - 1), st.sampled_from([0, 2**31, 10**30]))


@st.composite
def spans(draw, count, length):
    """Edges of cells: equal ones, or any, in any order, with gaps and overlaps, inside the image or far away."""
    length = float(length)
    kind = draw(st.sampled_from(["equal", "equal", "any", "any", "extreme"]))
    if kind == "equal":
        start = draw(st.sampled_from([0.0, 0.0, -length / 2, length]))
        edges = np.linspace(start, start + length, count + 1)
        return np.stack([edges[:-1], edges[1:]], axis=1)
    edge = st.floats(-length, 2 * length) if kind == "any" else st.one_of(st.floats(0, 1), EXTREME)
    starts = draw(st.lists(edge, min_size=count, max_size=count))
    lengths = draw(st.lists(st.floats(0.001, max(length / 2, 1)), min_size=count, max_size=count))
    return np.stack([starts, np.add(starts, lengths)], axis=1)


@st.composite
def maps(draw):
    """Values [rows, cols], columns, rows, and the size of the image: what an ImportanceMap is made of."""
    rows, cols = draw(st.integers(1, 10)), draw(st.integers(1, 10))
    edges = st.integers(1, 4000)
    edge = st.one_of(edges, edges, edges, SIZES)
    size = draw(edge), draw(edge)
    plain, rare = st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, 3.4e38, -3.4e38, math.nan])
    number = draw(st.sampled_from([plain, plain, st.one_of(plain, rare)]))
    values = draw(st.lists(number, min_size=rows * cols, max_size=rows * cols))
    return np.reshape(values, (rows, cols)), draw(spans(cols, size[0])), draw(spans(rows, size[1])), size


@amounts(fast=100, long=3000)
def test_every_box_is_of_whole_pixels_inside_the_image(count):
    found = []

    def claim(drawn, window, ratios, criterion, most):
        values, x, y, size = drawn
        importance = outcome(lambda: ImportanceMap(values, Grid(x, y, size)))
        if isinstance(importance, AttnLensError):
            return
        regions = outcome(lambda: search(importance, window, ratios=ratios, criterion=criterion, count=most))
        if isinstance(regions, AttnLensError):
            return
        assert 1 <= len(regions) <= most
        for one in regions:
            x1, y1, x2, y2 = one.box
            assert 0 <= x1 < x2 <= size[0]
            assert 0 <= y1 < y2 <= size[1]
            assert all(type(edge) is int for edge in one.box)
            assert math.isfinite(one.score)
            found.append(one.confident)

    sides = st.integers(1, 500)
    windows = st.one_of(sides, sides, NUMBERS)
    usual = st.just((1, 1.2, 2))
    ratios = st.one_of(usual, usual, st.lists(NUMBERS, max_size=3))
    criteria = st.sampled_from(["density", "sum"])
    on_many(claim, count, maps(), windows, ratios, criteria, st.integers(1, 4))
    assert sum(found) > count / 20  # the claim is about boxes, too, and not about whole images alone
