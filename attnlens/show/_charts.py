"""Charts of measurements with their intervals: curves over layers, accuracies over sizes. One panel per model.

They are drawn with matplotlib (the extra `plot`), on settings of their own, so that the same numbers give the same
pixels whatever the user's configuration.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from attnlens.errors import AttnLensError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#6B7280", "#CC79A7")
"""Blue, vermilion, green (Okabe and Ito's, told apart with any colour vision), grey, purple."""
MARKERS = ("o", "s", "^", "D", "v")
INK, MUTED, LINE = "#181B21", "#4B5160", "#D6D9DE"
PANEL = (3.4, 3.1)
"""Inches: width and height of a panel."""
LEAST_WIDTH = 5.4
"""Inches: so that the legend under a single panel fits."""
DPI = 160
ACROSS = 3
"""Panels in a row."""


@dataclass(frozen=True)
class Series:
    """Points with intervals under one name: `mean`, `low` and `high` have a number, or NaN, for each x."""

    name: str
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def available() -> None:
    """Raises AttnLensError, with what to install, when there is nothing to draw with."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise AttnLensError(
            "The charts are drawn with matplotlib, which is not installed. Install it: pip install 'attnlens[plot]'."
        ) from None


def layers_chart(panels: Mapping[str, Sequence[Series]]) -> Image.Image:
    """The attention ratio over the layers: by panel title, the series to compare, each with a band. RGB.

    A series has a number for every layer, from 0. The line at 1 is a box that gets what any box of its size gets.
    """

    def draw(axes: Any, series: Sequence[Series]) -> None:
        axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for number, one in enumerate(series):
            x, colour = list(range(len(one.mean))), COLOURS[number % len(COLOURS)]
            axes.fill_between(x, one.low, one.high, color=colour, alpha=0.18, linewidth=0, zorder=2)
            axes.plot(x, one.mean, color=colour, marker=MARKERS[number % len(MARKERS)], label=one.name, zorder=3)
        axes.set_xlabel("layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        # The panels share their axis, which stops growing once it is set: so each sets what all need.
        axes.set_ylim(0, top)

    highs = (value for series in panels.values() for one in series for value in one.high)
    top = 1.06 * max([1.0, *(value for value in highs if math.isfinite(value))])
    return _chart(panels, "attention ratio", draw)


def sizes_chart(panels: Mapping[str, Sequence[Series]], sizes: Sequence[str], joined: int | None = None) -> Image.Image:
    """Accuracy, in per cent, over sizes: by panel title, the series to compare, with intervals as bars. RGB.

    A series has a number for each of `sizes`. Lines join the first `joined` of them (by default all): those that are
    one scale.
    """
    count = len(sizes) if joined is None else joined

    def draw(axes: Any, series: Sequence[Series]) -> None:
        for number, one in enumerate(series):
            shift = (number - (len(series) - 1) / 2) * 0.09
            x, colour = [index + shift for index in range(len(sizes))], COLOURS[number % len(COLOURS)]
            bars = [_differences(one.mean, one.low), _differences(one.high, one.mean)]
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(x[:count], one.mean[:count], color=colour, linewidth=1.4, zorder=2)
            look = {"color": colour, "marker": marker, "linestyle": "none", "elinewidth": 1.3}
            axes.errorbar(x, one.mean, yerr=bars, label=one.name, zorder=3, **look)
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlim(-0.45, len(sizes) - 0.55)
        axes.set_ylim(-3, 103)
        axes.set_yticks(range(0, 101, 20))
        axes.set_xlabel("size of the target")

    return _chart(panels, "right answers, %", draw)


def _chart(panels: Mapping[str, Sequence[Series]], label: str, draw: Any) -> Image.Image:
    if not panels:
        raise AttnLensError("There is nothing to chart. Give at least one panel: {'model': [series]}.")
    available()
    import matplotlib
    from matplotlib.figure import Figure

    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure((max(LEAST_WIDTH, PANEL[0] * across), PANEL[1] * down + 0.45), dpi=DPI, layout="constrained")
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes, (title, series) in zip(grid.flat, panels.items(), strict=False):
            draw(axes, series)
            axes.set_title(title, loc="left")
        for row in grid:
            row[0].set_ylabel(label)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        handles, names = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=max(1, len(names)))
        return _pixels(figure)


def _pixels(figure: Any) -> Image.Image:
    """What the figure looks like, as pixels alone: no version, no date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    with Image.open(buffer) as drawn:
        return drawn.convert("RGB")


def _differences(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Lengths of error bars; never below 0, which matplotlib refuses and rounding could give."""
    return [
        max(0.0, top - bottom) if top == top and bottom == bottom else math.nan
        for top, bottom in zip(above, below, strict=True)
    ]


_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "errorbar.capsize": 2.5,
    "font.size": 10,
    "grid.color": "#ECEEF1",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
