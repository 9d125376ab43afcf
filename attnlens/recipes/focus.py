"""FOCUS (arXiv 2506.21710): object relevance from cached values, proposals, and a yes or no about each."""

from __future__ import annotations

from collections.abc import Sequence

from attnlens.answers import verify_crops
from attnlens.boxes import Found, focus, propose
from attnlens.importance import ImportanceMap
from attnlens.lens.reading import Reading
from attnlens.maps import EXISTENCE, value_similarity
from attnlens.recipes.look import Look
from attnlens.recipes.targets import targets_in

STEPS = 8
"""Regions of each target that the model is asked about: the paper's largest setting, and its best."""


def look(
    reading: Reading,
    question: str,
    *,
    targets: Sequence[str] | None = None,
    steps: int = STEPS,
    overrun: bool = True,
    layers: tuple[int, int] | None = None,
    preset: focus.Preset | None = None,
) -> Look:
    """The region of each target, by the model's own existence answers; and the map that led there.

    For each of `targets` (None: those that the question names), the relevance map of "Is there a {target} in the
    image?", regions grown on it, and the same question asked about the crops of the first `steps` of them; the surest
    is the target's region. With `overrun`, where all answer no, further regions are asked about until one says yes.
    `layers`: the first and the last whose values make the map, in the place of the preset's.
    `preset`: the paper's settings for a model family; None: its transfer rules for this model. Several targets' maps
    are multiplied for the picture. Raises AttnLensError for a target that is empty, and for a model that answers
    neither yes nor no.
    """
    importance: ImportanceMap | None = None
    found = []
    for target in targets_in(question) if targets is None else targets:
        asked = EXISTENCE.format(target=target)
        one = value_similarity(reading, asked, target=target, layers=layers or _layers(preset))
        settings = preset or transferred(reading, one)
        found.append(ranked(reading, propose(one, **settings.proposing(steps)), asked, steps, overrun))
        importance = one if importance is None else importance * one
    return Look(found, importance)


def ranked(reading: Reading, proposals: Sequence[Found], question: str, steps: int, overrun: bool) -> Found:
    """The proposal of which the model says yes most surely, among the first `steps`, or further on with `overrun`."""
    best = Found(proposals[0].box, -1.0, False)
    for number, one in enumerate(proposals):
        if number >= steps and (best.score > 0.5 or not overrun):
            break
        (verdict,) = verify_crops(reading, [one.box], question)
        if verdict.yes > best.score:
            best = Found(one.box, verdict.yes, one.confident)
    return best


def transferred(reading: Reading, importance: ImportanceMap) -> focus.Preset:
    """The paper's settings for a model that it does not name."""
    lens = reading.lens
    window = lens.spec.defaults.window or max(importance.grid.image_size) / 4
    return focus.transferred(len(lens.structure.layers), importance.grid, window)


def _layers(preset: focus.Preset | None) -> tuple[int, int] | None:
    """The first and the last layer of a preset."""
    return None if preset is None else (preset.layers[0], preset.layers[1] - 1)
