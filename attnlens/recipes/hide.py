"""HiDe (arXiv 2510.00054): what the words of each target look at, less what the instruction does, in one montage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from attnlens import _renamed
from attnlens.boxes import Region, components
from attnlens.boxes._suppression import best_first
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.maps import word_attention
from attnlens.recipes._localization import Localization
from attnlens.recipes._options import side_of
from attnlens.recipes._targets import chosen_targets, one_of

__all__ = ["locate"]

THRESHOLD = 0.7
"""The paper's, of a map from 0 to 1."""
COUNT = 4
"""Regions of each target at most, over all images; the paper keeps all."""


def locate(
    reading: Reading,
    question: str,
    *,
    targets: Sequence[str] | Literal["model"] | None = None,
    count: int = COUNT,
    layer: int | Literal["mean"] | None = None,
    instruction: int | None = None,
    threshold: float = THRESHOLD,
    window: float | None = None,
) -> Localization:
    """The regions that stand out above `threshold` in the map of each target's words (`attnlens.maps.word_attention`).

    HiDe (arXiv 2510.00054). Two targets in the same box are one region. One pass for each target, and the eager rows of
    its words.

    Args:
        reading: the images, as `lens.read` gives them.
        question: the question, which names what to look for.
        targets: None for those that the question names, "model" for those that the model names (the paper's way, a
            text-only pass of its own), or a list of phrases such as ["red sign", "dog"].
        count: how many regions of each target there are at most, the best of all images; the paper keeps all.
        layer: whose attention makes the map: a layer's number, "mean" for all of them, or None for the adapter's.
        instruction: how many of the first words are the instruction's, as in the map; 0 for a question whose first
            words are all the target's. None: as the map has it.
        threshold: what stands out, of a map from 0 to 1; the paper's 0.7.
        window: the least side of a region in pixels. None: the adapter's.

    Returns:
        The regions, best first, with boxes in pixels of the image that each is of. The map for the picture is the mean
        of all targets', of the image that the best region lies in.

    Raises:
        AttnLensError: for targets that are no list of phrases, for other options of the wrong kind, and where the map
            does.

    Examples:
        >>> [tuple(one.box) for one in recipes.hide.locate(reading, question, targets=["pink sign"]).regions]
        [(30, 30, 130, 130), (150, 210, 250, 310)]
    """
    least = side_of(reading, window)
    found: list[Region] = []
    seen: list[list[ImportanceMap]] = [[] for _ in reading.images]
    for target in map(one_of, chosen_targets(reading, question, targets)):
        own: list[Region] = []
        for number, maps in enumerate(seen):
            maps.append(
                word_attention(reading, question, target=target, layer=layer, instruction=instruction, image=number)
            )
            regions = components(maps[-1], least, count=count, sigma=0, threshold=threshold)
            own += [replace(region, image=number) for region in regions if region.confident]
        found += best_first(own)[:count]
    found = best_first(found)
    return Localization(found, ImportanceMap.mean(seen[found[0].image if found else 0]))


if not TYPE_CHECKING:
    __getattr__ = _renamed.names(__name__, look="locate")
