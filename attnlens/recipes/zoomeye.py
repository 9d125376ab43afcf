"""ZoomEye (arXiv 2411.16044): a tree of the image, searched by the model's own confidence; no map, no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from attnlens.answers import verify
from attnlens.boxes import Found, tree
from attnlens.geometry import Box
from attnlens.images import crop
from attnlens.lens.reading import Reading
from attnlens.recipes.look import Look
from attnlens.recipes.targets import targets_in


@dataclass(frozen=True)
class Prompts:
    """What a model is asked about a region, with {target} and {question}; each to be answered with yes or no."""

    existing: str = "Is there a {target} in the image?"
    latent: str = "By common sense, could a {target} be found by zooming into this image? Answer Yes or No."
    answering: str | None = "Can the question '{question}' be answered from this image? Answer Yes or No."
    """None, for models that cannot say so: how sure the model is of its answer's first token. Not the paper's."""


@dataclass
class _Asked:
    """A model's confidences in regions of an image, each asked for once."""

    reading: Reading
    prompts: Prompts
    target: str
    question: str
    readings: dict[Box, Reading] = field(default_factory=dict)
    known: dict[tuple[str, Box], float] = field(default_factory=dict)

    def existing(self, boxes: Sequence[Box]) -> list[float]:
        return self._of(self.prompts.existing, boxes)

    def latent(self, boxes: Sequence[Box]) -> list[float]:
        return self._of(self.prompts.latent, boxes)

    def answering(self, boxes: Sequence[Box]) -> list[float]:
        if self.prompts.answering is not None:
            return self._of(self.prompts.answering, boxes)
        return [2 * (float(np.exp(self._read(box).next_token(self.question).max())) - 0.5) for box in boxes]

    def _of(self, prompt: str, boxes: Sequence[Box]) -> list[float]:
        asked = prompt.format(target=self.target, question=self.question)
        for box in boxes:
            if (asked, box) not in self.known:
                self.known[asked, box] = verify(self._read(box), asked).confidence
        return [self.known[asked, box] for box in boxes]

    def _read(self, box: Box) -> Reading:
        """A region is read once, whatever is asked about it."""
        if box not in self.readings:
            whole = box == Box(0, 0, *self.reading.image.size)
            self.readings[box] = self.reading if whole else self.reading.lens.read(crop(self.reading.image, box))
        return self.readings[box]


def look(
    reading: Reading,
    question: str,
    *,
    targets: Sequence[str] | None = None,
    preset: tree.Preset | None = None,
    prompts: Prompts | None = None,
) -> Look:
    """The region of the tree where each target's question is answerable, enlarged to the model's input.

    `targets`: None for those that the question names; one that begins with "all " is searched for everywhere (type 2).
    With several, each is searched with "What is the appearance of the {target}?" in the question's place, down to the
    bottom at least once. `preset`: a model family's settings (`attnlens.boxes.tree.PRESETS`); None: those of LLaVA-1.5
    with the adapter's window as the input side. `prompts`: what is asked; the paper's code has longer wordings, which
    are not printed in the paper. Raises AttnLensError for a model that answers neither yes nor no.
    """
    names = targets_in(question) if targets is None else list(targets)
    settings = preset or tree.Preset(reading.lens.spec.defaults.window or 336, bias=0.2)
    found = []
    for name in names:
        everywhere = name.startswith("all ")
        wanted = question if len(names) == 1 else f"What is the appearance of the {name}?"
        asked = _Asked(reading, prompts or Prompts(), name.removeprefix("all "), wanted)
        depth = settings.depth_of_all if everywhere else settings.depth
        root = tree.tree(reading.image.size, settings.input_side, depth)
        if everywhere:
            found += tree.find_all(root, asked, settings.least)
        else:
            found.append(tree.find_one(root, asked, settings, to_bottom=len(names) > 1))
    side = settings.input_side * settings.scale
    boxes = tree.gathered([one.box for one in found if one.confident], reading.image.size, side)
    return Look([Found(box, max(one.score for one in found), True) for box in boxes])
