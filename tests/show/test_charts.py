"""Charts: the same numbers give the same pixels, every series is drawn, and what is missing leaves a gap."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from attnlens.errors import AttnLensError
from attnlens.show import _charts
from attnlens.show._charts import Series

SOME = Series("some", [1, 3, 2], [0.5, 2, 1.5], [1.5, 4, 2.5])
OTHER = Series("other", [2, 1, 1], [1.5, 0.5, 0.5], [2.5, 1.5, 1.5])


def pixels_of(image, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(np.asarray(image).astype(int) - wanted).max(axis=2) < 8).sum())


def test_a_chart_does_not_depend_on_the_users_settings():
    import matplotlib

    first = _charts.layers_chart({"model": [SOME, OTHER]})
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "black"}):
        assert _charts.layers_chart({"model": [SOME, OTHER]}).tobytes() == first.tobytes()
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize("chart", [_charts.layers_chart, lambda panels: _charts.sizes_chart(panels, ["a", "b", "c"])])
def test_every_series_is_drawn_in_its_colour_and_panels_stand_side_by_side(chart):
    one, two = chart({"model": [SOME]}), chart({"model": [SOME, OTHER]})
    assert pixels_of(one, _charts.COLOURS[0]) > 200
    assert pixels_of(one, _charts.COLOURS[1]) == 0
    assert pixels_of(two, _charts.COLOURS[1]) > 200
    assert chart({"one": [SOME], "two": [SOME], "three": [SOME]}).width > one.width
    assert chart({str(number): [SOME] for number in range(4)}).height > 1.5 * one.height


def test_the_axis_holds_the_highest_interval_of_all_panels():
    low, high = Series("low", [1, 1], [1, 1], [1, 1]), Series("high", [50, 50], [40, 40], [60, 60])
    both = _charts.layers_chart({"first": [low], "second": [high]})
    right = np.asarray(both)[:, both.width // 2 :]
    colour = [int(_charts.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
    rows = np.nonzero((np.abs(right.astype(int) - colour).max(axis=2) < 8).sum(axis=1) > 100)[0]
    assert len(rows), "the line of the second panel lies outside its axes"


def test_a_number_that_is_missing_leaves_a_gap():
    gap = Series("gap", [10, math.nan, 90], [5, math.nan, 85], [15, math.nan, 95])
    assert pixels_of(_charts.sizes_chart({"model": [gap]}, ["a", "b", "c"], joined=2), _charts.COLOURS[0]) > 50
    assert pixels_of(_charts.layers_chart({"model": [gap]}), _charts.COLOURS[0]) > 50


def test_nothing_to_draw_and_nothing_to_draw_with_are_told(monkeypatch):
    with pytest.raises(AttnLensError, match="nothing to chart"):
        _charts.layers_chart({})
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AttnLensError, match=r"pip install 'attnlens\[plot\]'"):
        _charts.layers_chart({"model": [SOME]})
