"""ZoomEye (arXiv 2411.16044): a tree of the image, searched by the model's own confidence; no map, no gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from attnlens import _renamed, answers
from attnlens._images import crop
from attnlens.answers import verify
from attnlens.boxes import Region, tree
from attnlens.boxes.tree._tree import enlarged
from attnlens.geometry import Box
from attnlens.lens import Reading
from attnlens.recipes._localization import AnswerStage, Localization, has_local_views
from attnlens.recipes._options import WINDOW, check_kind, check_template
from attnlens.recipes._targets import chosen_targets, is_everywhere, one_of

__all__ = ["Prompts", "locate"]


@dataclass(frozen=True)
class Prompts:
    """What a model is asked about a region, each to be answered with yes or no.

    `existing` and `latent` hold {target}, `answering` holds {question}; each may hold the other too.

    Raises:
        AttnLensError: for a prompt that does not.

    Examples:
        >>> asked = Prompts(latent=Prompts.existing, answering=None)  # the bundled models know one of the three
        >>> recipes.zoomeye.locate(reading, question, prompts=asked).regions[0].box
        Box(x1=200, y1=200, x2=400, y2=400)
    """

    existing: str = "Is there a {target} in the image?"
    """Whether the target is seen in the region."""
    latent: str = "By common sense, could a {target} be found by zooming into this image? Answer Yes or No."
    """Whether it could be found by looking closer."""
    answering: str | None = "Can the question '{question}' be answered from this image? Answer Yes or No."
    """Whether what is seen there answers the question.

    None, for models that cannot say so: how sure the model is of its answer's first token. Not the paper's."""

    def __post_init__(self) -> None:
        check_template("existing", self.existing, "target", "question")
        check_template("latent", self.latent, "target", "question")
        if self.answering is not None:
            check_template("answering", self.answering, "question", "target")


PROMPTS: Mapping[str, Prompts] = MappingProxyType(
    {"pocket": Prompts(latent=Prompts.existing, answering=None)}  # these know one question of the three
)
"""What the models of a family are asked, by the name that adapters give it; others are asked as in `Prompts()`."""


@dataclass
class _Asked:
    """A model's confidences in regions of one image; what is shown of them is read once, and asked about once."""

    whole: Reading
    image: Image.Image
    prompts: Prompts
    target: str
    question: str
    side: float
    """Pixels: regions are shown enlarged to at least this; 1 for as they are."""
    readings: dict[Box, Reading] = field(default_factory=dict)
    known: dict[tuple[str, Box], float] = field(default_factory=dict)

    def existing(self, boxes: Sequence[Box]) -> list[float]:
        return self._of(self.prompts.existing, boxes)

    def latent(self, boxes: Sequence[Box]) -> list[float]:
        return self._of(self.prompts.latent, boxes)

    def answering(self, boxes: Sequence[Box]) -> list[float]:
        if self.prompts.answering is not None:
            return self._of(self.prompts.answering, boxes)
        shown = [self._read(self._shown(box)) for box in boxes]
        return [2 * (float(np.exp(reading.next_token(self.question).max())) - 0.5) for reading in shown]

    def _of(self, prompt: str, boxes: Sequence[Box]) -> list[float]:
        asked = prompt.format(target=self.target, question=self.question)
        shown = [self._shown(box) for box in boxes]
        for box in shown:
            if (asked, box) not in self.known:
                self.known[asked, box] = verify(self._read(box), asked).confidence
        return [self.known[asked, box] for box in shown]

    def _shown(self, box: Box) -> Box:
        """The region as it is shown; small neighbours at the image's edge may be shown as one and the same."""
        return enlarged(box, self.image.size, self.side)

    def _read(self, box: Box) -> Reading:
        if box not in self.readings:
            alone = len(self.whole.images) == 1 and box == Box(0, 0, *self.image.size)
            self.readings[box] = self.whole if alone else self.whole.read_alone(crop(self.image, box))
        return self.readings[box]


def locate(
    reading: Reading,
    question: str,
    *,
    targets: Sequence[str] | Literal["model"] | None = None,
    preset: tree.Preset | None = None,
    prompts: Prompts | None = None,
) -> Localization:
    """The region of the tree where each target's question is answerable, enlarged to the model's input.

    ZoomEye (arXiv 2411.16044) cuts the image into a tree of regions (`attnlens.boxes.tree`) and asks the model about
    them; there is no map. A target that begins with "all " is searched for everywhere (type 2). Of several images each
    is searched; a single target is where the surest find is.

    With several targets, each is searched with "What is the appearance of the {target}?" in the question's place, down
    to the bottom at least once; a model with local views, which can answer that for one of them from the whole image,
    is shown no region.

    A model with local views beside a global one is shown the images with the regions outlined, then their union.
    Another is shown, in the images' place, the union; or a montage, for exactly two regions whose union is more than
    1000 pixels a side.

    Deviation: the whole of a single image, where the search ends at once if the question is answerable there, is no
    crop, and not read again: `confident=False`.

    Args:
        reading: the images, as `lens.read` gives them.
        question: the question, which names what to look for.
        targets: None for those that the question names, "model" for those that the model names, in a text-only pass of
            its own, or a list of phrases such as ["red sign", "all dogs"].
        preset: a model family's settings (`attnlens.boxes.tree.PRESETS`). None: those that the adapter names, or those
            of LLaVA-1.5 with the adapter's window as the input side.
        prompts: what is asked. None: what the adapter's family is asked, or `Prompts()`. The paper's code has longer
            wordings, which are not printed in the paper.

    Returns:
        The regions, best first, with boxes in pixels of the image that each is of, and how to show them; no map.

    Raises:
        AttnLensError: for options of the wrong kind, and for a model that answers neither yes nor no.

    Examples:
        >>> recipes.zoomeye.locate(reading, question, targets=["pink sign"]).regions[0].box
        Box(x1=200, y1=200, x2=400, y2=400)
    """
    check_kind("preset", preset, tree.Preset)
    check_kind("prompts", prompts, Prompts)
    defaults = reading.defaults
    named = preset if preset is not None else tree.PRESETS.get(defaults.preset or "")
    settings = named if named is not None else tree.Preset(defaults.window or WINDOW, bias=0.2)
    prompts = prompts if prompts is not None else PROMPTS.get(defaults.preset or "", Prompts())
    side = settings.input_side * settings.scale
    shown_at = side if settings.variant == "released" else 1
    names = chosen_targets(reading, question, targets)
    found: list[Region] = []
    for name in names:
        wanted = question if len(names) == 1 else f"What is the appearance of the {one_of(name)}?"
        asked = [_Asked(reading, image, prompts, one_of(name), wanted, shown_at) for image in reading.images]
        if len(names) > 1 and has_local_views(reading) and _answerable(asked, settings.threshold):
            return Localization([])
        by_image = [_searched(one, number, settings, name, len(names) > 1) for number, one in enumerate(asked)]
        best = max(by_image, key=lambda regions: max((region.score for region in regions), default=-1.0))
        found += [region for regions in by_image for region in regions] if is_everywhere(name) else best
    regions = _gathered(reading, found, side)
    return Localization(regions, None, presentation(reading, regions))


def _answerable(asked: Sequence[_Asked], threshold: float) -> bool:
    """Whether the question is answerable from one of the whole images."""
    return any(one.answering([Box(0, 0, *one.image.size)])[0] >= threshold for one in asked)


def _searched(asked: _Asked, number: int, settings: tree.Preset, target: str, to_bottom: bool) -> list[Region]:
    """What is found of a target in the image of that number."""
    everywhere = is_everywhere(target)
    root = tree.tree(asked.image.size, settings.input_side, settings.depth_of_all if everywhere else settings.depth)
    if everywhere:
        regions = tree.find_all(root, asked, settings.min_confidence)
    else:
        regions = [tree.find_one(root, asked, settings, to_bottom=to_bottom)]
    return [replace(region, image=number) for region in regions if region.confident]


def _gathered(reading: Reading, found: Sequence[Region], side: float) -> list[Region]:
    """The regions of each image enlarged, and joined where they are near; all of the only image is no region of it."""
    regions = []
    for number, image in enumerate(reading.images):
        own = [region for region in found if region.image == number]
        score = max((region.score for region in own), default=0.0)
        boxes = tree.merge_near([region.box for region in own], image.size, side)
        if len(reading.images) == 1 and Box(0, 0, *image.size) in boxes:
            return [Region(Box(0, 0, *image.size), 0.0, False)]
        regions += [Region(box, score, True, number) for box in boxes]
    return sorted(regions, key=lambda region: -region.score)


def presentation(reading: Reading, regions: Sequence[Region], widest: float = 1000) -> AnswerStage:
    """ZoomEye's final input. With local views: the image with the regions outlined, then their union. Else, in the
    image's place, the union; a montage for exactly two regions whose union is more than `widest` pixels a side."""
    if has_local_views(reading):
        return answers.outlined_union
    whole = Box.around([one.box for one in regions]) if regions else None
    far = whole is not None and len(regions) == 2 and max(whole.width, whole.height) > widest
    return answers.replace_by_montage if far else answers.union


if not TYPE_CHECKING:
    __getattr__ = _renamed.names(__name__, look="locate")
