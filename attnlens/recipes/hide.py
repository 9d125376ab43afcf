"""HiDe (arXiv 2510.00054): what the words of each target look at, less what the instruction does, on one canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from attnlens.boxes import Found, components
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Reading
from attnlens.maps import word_attention
from attnlens.recipes.look import Look
from attnlens.recipes.targets import chosen_targets, one_of

THRESHOLD = 0.7
"""The paper's, of a map from 0 to 1."""
COUNT = 4
"""Regions of each target at most; the paper keeps all."""


def look(
    reading: Reading,
    question: str,
    *,
    targets: Sequence[str] | Literal["model"] | None = None,
    count: int = COUNT,
    layer: int | Literal["mean"] | None = None,
    threshold: float = THRESHOLD,
    window: float | None = None,
) -> Look:
    """The regions that stand out above `threshold` in the map of each target's words (`attnlens.maps.word_attention`).

    `targets`: None for those that the question names, "model" for those that the model names (the paper's way, a pass
    of its own), or a list of phrases. `count`: regions of each at most. `layer`: as in the map. `window`: the least
    side of a region in pixels; None: the adapter's. The map for the picture is the mean of all targets'. Of several
    images each is looked at. One pass for each target, and the eager rows of its words.
    """
    least = window or reading.lens.spec.defaults.window or 336
    found: list[Found] = []
    seen: list[list[ImportanceMap]] = [[] for _ in reading.images]
    for target in map(one_of, chosen_targets(reading.lens, question, targets)):
        for number, maps in enumerate(seen):
            maps.append(word_attention(reading, question, target=target, layer=layer, image=number))
            regions = components(maps[-1], least, count=count, sigma=0, threshold=threshold)
            found += [replace(region, image=number) for region in regions if region.confident]
    found.sort(key=lambda region: -region.score)
    return Look(found, ImportanceMap.mean(seen[found[0].image if found else 0]))
