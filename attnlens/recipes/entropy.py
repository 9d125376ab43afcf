"""Entropy-Gradient Grounding (arXiv 2604.08456): regions of the entropy gradient, looked at again while it narrows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from attnlens import _renamed
from attnlens._checks import is_whole
from attnlens.answers._reprompt import crop_of
from attnlens.boxes import Region, components
from attnlens.boxes._suppression import best_first
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.maps import entropy_gradient
from attnlens.recipes._localization import Localization
from attnlens.recipes._options import side_of

__all__ = ["locate"]

ROUNDS = 15
"""The paper's cap of further looks."""


def locate(
    reading: Reading, question: str, *, count: int = 2, rounds: int = ROUNDS, window: float | None = None
) -> Localization:
    """The `count` regions that what the model is in doubt about depends on, each narrowed by further looks.

    The regions are the components of the entropy gradient (`attnlens.maps.entropy_gradient`,
    `attnlens.boxes.components`). Each is then read alone, and the first component of its own entropy gradient takes its
    place, as long as the map's entropy falls, and at most `rounds` times for all of them (Entropy-Gradient Grounding,
    arXiv 2604.08456). Each look is a forward and a backward pass. Of several images the regions of all compete.

    What the paper leaves open: the entropy is that of the map's cells over that of a flat map, so that crops with fewer
    tokens compare; a region that no longer shrinks is done.

    Args:
        reading: the images, as `lens.read` gives them.
        question: the question, some text.
        count: how many regions there are at most; the paper's 2.
        rounds: how many further looks there are at most, 0 for none; the paper's cap is 15.
        window: the least side of a region in pixels. None: the adapter's.

    Returns:
        The regions, best first, with boxes in pixels of the image that each is of, and the first map of the image that
        the best of them lies in.

    Raises:
        AttnLensError: for options of the wrong kind, and where `maps.entropy_gradient` does.

    Examples:
        >>> [tuple(one.box) for one in recipes.entropy.locate(reading, question, rounds=0).regions]
        [(120, 200, 280, 320), (40, 40, 160, 160)]
    """
    least = side_of(reading, window)
    if not (is_whole(rounds) and rounds >= 0):
        raise AttnLensError(f"rounds is {rounds!r}; expected a whole number of further looks, 0 for none (paper: 15).")
    maps = [entropy_gradient(reading, question, image=number) for number in range(len(reading.images))]
    found = best_first(
        replace(region, image=number)
        for number, one in enumerate(maps)
        for region in components(one, least, count=count)
    )[:count]
    regions, left = [], rounds
    for region in found:
        narrowed, used = _narrowed(reading, question, region, spread(maps[region.image]), least, left)
        regions.append(narrowed)
        left -= used
    return Localization(regions, maps[regions[0].image])


def spread(importance: ImportanceMap) -> float:
    """The map's entropy over that of a flat map on its grid: 0 for one cell, 1 for none; infinity where it has none."""
    cells = importance.values.size
    entropy = importance.entropy() / math.log(cells) if cells > 1 else math.nan
    return entropy if math.isfinite(entropy) else math.inf


def _narrowed(
    reading: Reading, question: str, region: Region, before: float, least: float, rounds: int
) -> tuple[Region, int]:
    """The region after at most `rounds` further looks, and how many there were."""
    for used in range(rounds):
        if not region.confident or max(region.box.width, region.box.height) <= least:
            return region, used
        importance = entropy_gradient(reading.read_alone(crop_of(reading, region)), question)
        (inner, *_), after = components(importance, least, count=1), spread(importance)
        if after >= before or not inner.confident:
            return region, used + 1
        x, y, _, _ = region.box
        box = inner.box
        region, before = replace(region, box=Box(box.x1 + x, box.y1 + y, box.x2 + x, box.y2 + y)), after
    return region, rounds


if not TYPE_CHECKING:
    __getattr__ = _renamed.names(__name__, look="locate")
