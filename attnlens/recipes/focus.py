"""FOCUS (arXiv 2506.21710): object relevance from cached values, proposals, and a yes or no about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from attnlens.answers import verify_crops
from attnlens.boxes import Found, focus, propose
from attnlens.boxes.suppression import best_first
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Reading
from attnlens.maps import EXISTENCE, value_similarity
from attnlens.recipes.look import Look
from attnlens.recipes.options import check_count, check_kind, check_template
from attnlens.recipes.shown import by_focus
from attnlens.recipes.targets import chosen_targets, is_everywhere, one_of

STEPS = 8
"""Regions of each target that the model is asked about: the paper's largest setting, and its best."""
YES = 0.5
"""Above this probability of yes against no the model says yes."""


def look(
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
    preset: focus.Preset | None = None,
) -> Look:
    """The region of each target, by the model's own existence answers; and the map that led there.

    For each target the relevance map of `existence`, asked of the images as they are read, regions grown on it, and the
    same question asked about the crops of the first `steps` of them. Of a single target (type 1) the surest region is
    its own, and further ones that the model says yes to, up to `count`; with `overrun`, where all answer no, further
    regions are asked about until one says yes. Of a target that begins with "all " (type 2) every region is asked
    about, and those that the model is sure of are kept, overlapping ones as one, however many: `count` is not for
    these. Two targets in the same box are one region. They are shown as `attnlens.recipes.shown.by_focus` says.

    `targets`: None for those that the question names, "model" for those that the model names (`targets_by_model`, a
    pass of its own), or a list of phrases. `existence`: holds {target}, and no other field. `prompt`: whose cache the
    map is read from, the existence question's, as in the paper, or that of the question itself, which its answer needs
    anyway, so that the map adds no pass; for a target that the question does not spell it is the existence question's
    all the same. `layers`: the first and the last whose values make the map, in the place of the preset's. `preset`:
    the paper's settings for a model family; None: those that the adapter names, or the paper's transfer rules with the
    adapter's layers. Of several images the regions of all compete. Several targets' maps are multiplied for the
    picture. Raises AttnLensError for options of the wrong kind, for a target that is empty, and for a model that
    answers neither yes nor no.
    """
    if prompt not in ("existence", "question"):
        raise AttnLensError(f"prompt is {prompt!r}; expected 'existence' or 'question', whose cache is read.")
    check_count(count)
    check_template("existence", existence, "target")
    check_kind("preset", preset, focus.Preset)
    named = preset if preset is not None else focus.PRESETS.get(reading.lens.spec.defaults.preset or "")
    settings = named or transferred(reading)
    if layers is None and named is not None:
        layers = named.layers_of(max(reading.lens.structure.layers) + 1)
    found: list[Found] = []
    seen: list[list[ImportanceMap]] = [[] for _ in reading.images]
    names = chosen_targets(reading.lens, question, targets)
    for target in names:
        name = one_of(target)
        asked, proposals = existence.format(target=name), list[Found]()
        read = question if prompt == "question" and name in question else asked
        for number, maps in enumerate(seen):
            one = value_similarity(reading, read, target=name, layers=layers, image=number)
            proposals += [replace(region, image=number) for region in propose(one, **settings.proposing(steps))]
            maps.append(one)
        proposals.sort(key=lambda region: -region.score)
        if is_everywhere(target):
            found += everywhere(reading, proposals, asked, settings.keep)
        else:
            best = ranked(reading, proposals, asked, steps, overrun)[:count]
            found += [region for place, region in enumerate(best) if not place or region.score > YES]
    found = best_first(found)
    stage = by_focus(reading, found, settings.apart, any(map(is_everywhere, names)))
    return Look(found, ImportanceMap.product(seen[found[0].image if found else 0]), stage)


def ranked(reading: Reading, proposals: Sequence[Found], question: str, steps: int, overrun: bool) -> list[Found]:
    """The first `steps` proposals, and those that `overrun` adds, by how surely the model says yes of each: `score`."""
    found = _asked(reading, proposals[:steps], question)
    for one in proposals[steps:]:
        if not overrun or any(region.score > YES for region in found):
            break
        found += _asked(reading, [one], question)
    return sorted(found, key=lambda region: -region.score)


def everywhere(reading: Reading, proposals: Sequence[Found], question: str, keep: float) -> list[Found]:
    """The proposals of which the model says yes with more than `keep`; those that overlap become one around them."""
    kept = [region for region in _asked(reading, proposals, question) if region.score > keep]
    while pair := next((p for p in combinations(range(len(kept)), 2) if _overlap(*(kept[i] for i in p))), None):
        first, second = (kept[index] for index in pair)
        kept[pair[0]] = replace(first, box=Box.around([first.box, second.box]), score=max(first.score, second.score))
        del kept[pair[1]]
    return kept


def transferred(reading: Reading) -> focus.Preset:
    """The paper's settings for a model that it does not name."""
    lens, grid = reading.lens, reading.grids[0]
    window = lens.spec.defaults.window or max(grid.image_size) / 4
    return focus.transferred(max(lens.structure.layers) + 1, grid, window)


def _asked(reading: Reading, regions: Sequence[Found], question: str) -> list[Found]:
    """The regions, scored by the model's yes; one that nothing chose is not worth a question."""
    asked = [region for region in regions if region.confident]
    verdicts = verify_crops(reading, asked, question) if asked else []
    return [replace(region, score=verdict.yes) for region, verdict in zip(asked, verdicts, strict=True)]


def _overlap(one: Found, other: Found) -> bool:
    return one.image == other.image and one.box.shared(other.box) > 0
