"""The settings of FOCUS for a model family (arXiv 2506.21710, tables 7 and 12), and its rules for other models.

>>> relevance = maps.value_similarity(reading, question, target="pink sign")
>>> preset = PRESETS["llava-1.5"]
>>> boxes.propose(relevance, **preset.proposing(steps=8))[0].box
Box(x1=120, y1=200, x2=240, y2=320)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from attnlens import _renamed
from attnlens._checks import check_count, is_count, is_number, is_whole
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid

FEW_STEPS = 4
"""With fewer questions than this, FOCUS starts from `few_anchors`."""


@_renamed.arguments(keep="min_confidence", apart="merge_distance")
@dataclass(frozen=True)
class Preset:
    """The settings of FOCUS for one model family.

    Raises:
        AttnLensError: for settings that contradict each other, or are of another kind.

    Examples:
        >>> Preset(layers=(14, 32), depth=32, largest=7).proposing(steps=8)["largest"]
        7
    """

    layers: tuple[int, int]
    """(first, end), half-open, 0-based, of the layers whose values make the relevance map."""
    depth: int | None = None
    """How many layers the model has that `layers` are of; None: any number."""
    anchors: int = 30
    """Of how many cells, the most relevant ones, regions are grown; this and the next six: see `propose`."""
    few_anchors: int = 30
    """The same where fewer than 4 regions are to be asked about."""
    smallest: int = 3
    """Cells on a side of a region before it grows."""
    largest: int = 5
    """Cells on a side: a region grows while it has at most so many."""
    distance: float = 2
    """Cells: an anchor that is closer than this to a better one is dropped."""
    threshold: float = 0.5
    """A region grows while the mean relevance inside is at least this fraction of its anchor's."""
    iou: float = 0.3
    """A region that overlaps a better one by an intersection over union above this is dropped."""
    min_confidence: float = 0.6
    """The probability of yes above which a region counts as one of several targets (type 2)."""
    merge_distance: float | None = 1200
    """How far apart, in original pixels, two targets have to be for a montage of both instead of one crop.

    None for models that get every crop by itself."""

    def __post_init__(self) -> None:
        if self.depth is not None and not is_count(self.depth):
            raise AttnLensError(f"depth is {self.depth!r}; expected a number of layers, at least 1, or None for any.")
        if not _is_range(self.layers, self.depth):
            raise AttnLensError(
                f"layers is {self.layers!r}, of {self.depth or 'any number of'} layers; expected (first, end), two "
                "whole numbers with 0 <= first < end, 0-based, and end at most the number of layers."
            )
        for name in ("anchors", "few_anchors", "smallest", "largest"):
            if not is_count(getattr(self, name)):
                raise AttnLensError(f"{name} is {getattr(self, name)!r}; expected a whole number, at least 1.")
        if not self.smallest <= self.largest:
            raise AttnLensError(
                f"The smallest region has {self.smallest} cells on a side, the largest {self.largest}. "
                "Expected smallest <= largest."
            )
        if not self.few_anchors <= self.anchors:
            raise AttnLensError(
                f"few_anchors is {self.few_anchors} and anchors {self.anchors}; expected few_anchors <= anchors."
            )
        for name in ("threshold", "iou", "min_confidence"):
            value = getattr(self, name)
            if not (is_number(value) and 0 <= value <= 1) or (name == "iou" and value == 1):
                raise AttnLensError(f"{name} is {value!r}; expected a number from 0 to 1 (iou: below 1).")
        for name, unit in (("distance", "cells"), ("merge_distance", "pixels")):
            value = getattr(self, name)
            if not (is_number(value) and value >= 0) and not (name == "merge_distance" and value is None):
                raise AttnLensError(f"{name} is {value!r}; expected a number of {unit}, at least 0.")

    if not TYPE_CHECKING:  # words of 0.1.0
        keep, apart = _renamed.Renamed("min_confidence"), _renamed.Renamed("merge_distance")

    def layers_of(self, depth: int) -> tuple[int, int]:
        """The first and the last of the layers, in a model of `depth` layers: as deep as in the preset's.

        At least one layer, which is there; a preset without a depth names its layers themselves.

        Args:
            depth: how many layers the model has.

        Returns:
            (first, last), 0-based, both of them included.

        Examples:
            >>> PRESETS["llava-1.5"].layers_of(32), PRESETS["llava-1.5"].layers_of(40)
            ((14, 31), (18, 39))
        """
        first, end = self.layers
        if self.depth is not None:
            first, end = min(round(first * depth / self.depth), depth - 1), round(end * depth / self.depth)
        return first, max(first, end - 1)

    def proposing(self, steps: int = 8) -> dict[str, Any]:
        """The options of `attnlens.boxes.propose`, where `steps` regions are to be asked about.

        Args:
            steps: how many regions are to be asked about; with fewer than 4, FOCUS starts from `few_anchors`.

        Returns:
            The options by name, for `propose(importance, **options)`.

        Raises:
            AttnLensError: unless `steps` is a whole number, at least 1.

        Examples:
            >>> PRESETS["llava-1.5"].proposing(steps=2)["anchors"], PRESETS["llava-1.5"].proposing(steps=8)["anchors"]
            (15, 30)
        """
        check_count("steps", steps, "regions to ask about")
        return {
            "anchors": self.few_anchors if steps < FEW_STEPS else self.anchors,
            "smallest": self.smallest,
            "largest": self.largest,
            "distance": self.distance,
            "threshold": self.threshold,
            "iou": self.iou,
        }


def _is_range(layers: Any, depth: int | None) -> bool:
    """Whether it is (first, end) in order, half-open, of `depth` layers; None: of any."""
    if not isinstance(layers, tuple | list) or len(layers) != 2 or not all(map(is_whole, layers)):
        return False
    first, end = layers
    return bool(0 <= first < end and (depth is None or end <= depth))


# Layers: the paper's own ablation has "layers 0-32" of a 32-layer model, so its ranges are 0-based and half-open. For
# LLaVA-OneVision its table says 21..28 and its text 14..28; the table's are the ones under "last 25-60%" by themselves.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "llava-1.5": Preset((14, 32), 32, few_anchors=15, distance=3),
        "llava-1.5/vstar": Preset((14, 32), 32, few_anchors=15, distance=2),
        "llava-onevision": Preset((21, 28), 28, min_confidence=0.5, merge_distance=None),
        "llava-onevision/vstar": Preset((21, 28), 28, largest=9, min_confidence=0.5, merge_distance=None),
    }
)
"""The settings of the paper's table, by model family.

The names with /vstar are the settings for the V* benchmark where they differ."""


def transfer_preset(layer_count: int, grid: Grid, window: float, *, share: float = 0.5) -> Preset:
    """The settings for a model without a preset of its own, by the paper's transfer rules, on the map of one image.

    The layers are the last `share` of the model's. The largest region spans one to two times `window`: of sides 3, 5,
    7, ... cells of `grid` the one whose span in original pixels comes closest to 1.5 times (the smaller of equals), so
    that a step of two cells lands inside where any does. It has no more cells than the map's longer side. Everything
    else is as for LLaVA-1.5.

    Args:
        layer_count: how many layers the model has.
        grid: the cells of the image's map.
        window: the vision encoder's base resolution in pixels.
        share: the fraction of the layers, above 0 and at most 1, rounded up to whole layers (paper: 25 to 60 %; 56 and
            25 % in its presets).

    Returns:
        The preset; its `layers` are the model's own.

    Raises:
        AttnLensError: for numbers of the wrong kind.

    Examples:
        >>> preset = transfer_preset(28, Grid.regular(24, 24, (1344, 1344)), window=336)
        >>> preset.layers, preset.largest
        ((14, 28), 9)
    """
    if not is_count(layer_count):
        raise AttnLensError(f"layer_count is {layer_count!r}; expected the model's number of layers, at least 1.")
    if not (is_number(share) and 0 < share <= 1):
        raise AttnLensError(f"share is {share!r}; expected a fraction of the layers, above 0, at most 1 (0.25 to 0.6).")
    if not (is_number(window) and window > 0):
        raise AttnLensError(f"window is {window!r}; expected the encoder's base resolution in pixels, above 0.")
    cell = math.sqrt(math.prod(grid.cell_size))
    sides = range(3, max(3, *grid.shape) + 1, 2)
    largest = min(sides, key=lambda side: abs(side * cell - 1.5 * window))
    first = layer_count - math.ceil(layer_count * share)
    return Preset((first, layer_count), few_anchors=15, largest=largest)
