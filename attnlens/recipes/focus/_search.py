"""FOCUS (arXiv 2506.21710): object relevance from cached values, proposals, and a yes or no about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from attnlens._checks import check_count
from attnlens.answers import verify_crops
from attnlens.boxes import Region, propose
from attnlens.boxes._suppression import best_first
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading
from attnlens.maps import EXISTENCE, value_similarity
from attnlens.recipes._localization import Localization
from attnlens.recipes._options import check_kind, check_template
from attnlens.recipes._targets import chosen_targets, is_everywhere, one_of
from attnlens.recipes.focus._presentation import presentation
from attnlens.recipes.focus._presets import PRESETS, Preset, transfer_preset

STEPS = 8
"""Regions of each target that the model is asked about: the paper's largest setting, and its best."""
YES = 0.5
"""Above this probability of yes against no the model says yes."""


def locate(
    reading: Reading,
    question: str,
    *,
    targets: Sequence[str] | Literal["model"] | None = None,
    count: int = 1,
    steps: int = STEPS,
    overrun: bool = True,
    existence: str = EXISTENCE,
    prompt: Literal["existence", "question"] = "existence",
    layers: tuple[int, int] | None = None,
    preset: Preset | None = None,
) -> Localization:
    """The region of each target, by the model's own existence answers; and the map that led there.

    For each target the relevance map of `existence`, asked of the images as they are read, regions grown on it
    (`attnlens.boxes.propose`), and the same question asked about the crops of the first `steps` of them (FOCUS, arXiv
    2506.21710).

    Of a single target (type 1) the surest region is its own, and further ones that the model says yes to, up to
    `count`. Of a target that begins with "all " (type 2) every region is asked about, and those that the model is sure
    of are kept, overlapping ones as one, however many. Two targets in the same box are one region. Of several images
    the regions of all compete.

    A model with local views beside a global one is shown the images with the regions outlined, then each crop. Another
    is shown, in the images' place, the union of the regions, or a montage where their centres are more than the
    preset's `merge_distance` apart, and for type 2.

    Args:
        reading: the images, as `lens.read` gives them.
        question: the question, which names what to look for.
        targets: None for those that the question names, "model" for those that the model names, in a text-only pass of
            its own, or a list of phrases such as ["red sign", "all dogs"].
        count: how many regions there are at most of a single target; not for those that begin with "all ".
        steps: how many regions of each target the model is asked about; 8 is the paper's largest setting, and its best.
        overrun: where the model says no to all of these, further ones are asked about until it says yes to one.
        existence: the question about a target; it holds {target}, and no other field.
        prompt: whose cache the map is read from, the existence question's ("existence"), as in the paper, or that of
            the question itself ("question"), which its answer needs anyway, so that the map adds no pass; for a target
            that the question does not spell it is the existence question's all the same.
        layers: the first and the last layer whose values make the map, in the place of the preset's. None: the
            preset's, or the adapter's where there is no preset.
        preset: the paper's settings for a model family (`PRESETS`). None: those that the adapter names, or the paper's
            transfer rules (`transfer_preset`) with the adapter's layers.

    Returns:
        The regions, best first, with boxes in pixels of the image that each is of; the score is the probability of yes.
        The map for the picture is of the image that the best region lies in; those of several targets are multiplied.

    Raises:
        AttnLensError: for options of the wrong kind, for a target that is empty, and for a model that answers neither
            yes nor no.

    Examples:
        >>> located = recipes.focus.locate(reading, question, targets=["pink sign"], steps=4)
        >>> located.regions[0].box, round(located.regions[0].score, 2)
        (Box(x1=120, y1=200, x2=240, y2=320), 1.0)
    """
    if prompt not in ("existence", "question"):
        raise AttnLensError(f"prompt is {prompt!r}; expected 'existence' or 'question', whose cache is read.")
    check_count("count", count, "regions")
    check_template("existence", existence, "target")
    check_kind("preset", preset, Preset)
    named = preset if preset is not None else PRESETS.get(reading.defaults.preset or "")
    settings = named or transferred(reading)
    if layers is None and named is not None:
        layers = named.layers_of(reading.depth)
    names = chosen_targets(reading, question, targets)
    found: list[Region] = []
    maps: list[list[ImportanceMap]] = [[] for _ in reading.images]
    for target in names:
        asked = existence.format(target=one_of(target))
        read = question if prompt == "question" and one_of(target) in question else asked
        for number, known in enumerate(maps):
            known.append(value_similarity(reading, read, target=one_of(target), layers=layers, image=number))
        proposals = proposed([known[-1] for known in maps], settings, steps)
        if is_everywhere(target):
            found += everywhere(reading, proposals, asked, settings.min_confidence)
        else:
            found += surest(ranked(reading, proposals, asked, steps, overrun), count)
    found = best_first(found)
    stage = presentation(reading, found, settings.merge_distance, any(map(is_everywhere, names)))
    return Localization(found, ImportanceMap.product(maps[found[0].image if found else 0]), stage)


def proposed(maps: Sequence[ImportanceMap], settings: Preset, steps: int) -> list[Region]:
    """The regions grown on a target's map of each image, best first."""
    grown = [
        replace(region, image=number)
        for number, one in enumerate(maps)
        for region in propose(one, **settings.proposing(steps))
    ]
    return sorted(grown, key=lambda region: -region.score)


def surest(regions: Sequence[Region], count: int) -> list[Region]:
    """The first of `regions`, and further ones that the model says yes to, up to `count`."""
    return [region for place, region in enumerate(regions[:count]) if not place or region.score > YES]


def ranked(reading: Reading, proposals: Sequence[Region], question: str, steps: int, overrun: bool) -> list[Region]:
    """The first `steps` proposals, and those that `overrun` adds, by how surely the model says yes of each: `score`."""
    found = _asked(reading, proposals[:steps], question)
    for one in proposals[steps:]:
        if not overrun or any(region.score > YES for region in found):
            break
        found += _asked(reading, [one], question)
    return sorted(found, key=lambda region: -region.score)


def everywhere(reading: Reading, proposals: Sequence[Region], question: str, min_confidence: float) -> list[Region]:
    """The proposals of which the model says yes with more than `min_confidence`; those that overlap become one around
    them."""
    kept = [region for region in _asked(reading, proposals, question) if region.score > min_confidence]
    while pair := next((p for p in combinations(range(len(kept)), 2) if _overlap(*(kept[i] for i in p))), None):
        first, second = (kept[index] for index in pair)
        kept[pair[0]] = replace(first, box=Box.around([first.box, second.box]), score=max(first.score, second.score))
        del kept[pair[1]]
    return kept


def transferred(reading: Reading) -> Preset:
    """The paper's settings for a model that it does not name."""
    grid = reading.grids[0]
    window = reading.defaults.window or max(grid.image_size) / 4
    return transfer_preset(reading.depth, grid, window)


def _asked(reading: Reading, regions: Sequence[Region], question: str) -> list[Region]:
    """The regions, scored by the model's yes; one that nothing chose is not worth a question."""
    asked = [region for region in regions if region.confident]
    verdicts = verify_crops(reading, asked, question) if asked else []
    return [replace(region, score=verdict.yes) for region, verdict in zip(asked, verdicts, strict=True)]


def _overlap(one: Region, other: Region) -> bool:
    return one.image == other.image and one.box.shared(other.box) > 0
