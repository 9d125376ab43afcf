"""Questions about images, with their right answers and, where known, the box that the answer is in.

A data set is a JSON file, the form in which the ViCrop authors publish theirs: a list of objects with `id`, `question`,
`labels` (all right answers), `image_path` and `bbox` ([x1, y1, x2, y2], half-open, in pixels of the original image);
`bbox`, `group` and `task` may be missing. An `image_path` is relative to the folder of the file. `scene:` and the id of
a pocket scene stand for an image that is painted when it is opened.

>>> pocket_examples("test", ["small"], ["colour"], count=300)[7].image_path
'scene:test/small/colour/7'
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from attnlens import _files
from attnlens._images import open_image
from attnlens.errors import AttnLensError, quoted
from attnlens.geometry import Box
from attnlens.pocket import scenes

SCENE = "scene:"
_SCENE_PATH = re.compile(rf"{SCENE}([^/]+)/([^/]+)/([^/]+)/([0-9]{{1,18}})")
MOST = 100_000
"""Scenes of one bin and task, a few minutes' work; a benchmark takes hundreds."""
_SHOWN = 10  # bad entries in one message; the rest is counted


@dataclass(frozen=True)
class Example:
    """One question about an image, with its right answers and, where known, the box that the answer is in."""

    id: str
    """Its name, which no other example of a data set has."""
    question: str
    """What is asked about the image."""
    labels: tuple[str, ...]
    """All right answers."""
    image_path: str
    """An absolute path, one relative to the working directory, or "scene:SPLIT/BIN/TASK/SEED" for a pocket scene."""
    box: Box | None = None
    """(x1, y1, x2, y2), half-open, in pixels of the original image, of what the answer is in; None where unknown."""
    group: str | None = None
    """The size bin of its target; None where unknown."""
    task: str | None = None
    """The kind of question; None where unknown."""

    def open(self) -> Image.Image:
        """The image, upright, RGB.

        Returns:
            The picture in the file, with its EXIF orientation applied, or the scene, which is painted now.

        Raises:
            AttnLensError: where there is no image, where the box lies outside it, and where the question or the box is
                not that of the scene.

        Examples:
            >>> attnlens.evaluate.pocket_examples("test", ["small"], ["read"], count=1)[0].open().mode
            'RGB'
        """
        scene = self._scene()
        if scene is not None:
            return scene.image
        if not os.path.exists(_files.expanded(self.image_path)):
            raise AttnLensError(
                f"Example {self.id!r}: there is no image {quoted(self.image_path)}. A relative image_path is looked "
                "for from the folder of the JSON file: put the image there, or correct image_path in that file."
            )
        try:
            image = open_image(self.image_path)
            if self.box is not None:
                Box.from_any(self.box, image.size)
        except AttnLensError as error:
            raise AttnLensError(f"Example {self.id!r}, image {self.image_path!r}: {error}") from None
        return image

    def size(self) -> tuple[int, int]:
        """The size of the image, in pixels; a scene is not painted for it.

        Returns:
            Width and height, those of the upright image.

        Raises:
            AttnLensError: as `open` does.

        Examples:
            >>> example = attnlens.evaluate.pocket_examples("test", ["small"], ["read"], count=1)[0]
            >>> example.size() == example.open().size
            True
        """
        scene = self._scene()
        return self.open().size if scene is None else scene.size

    def _scene(self) -> scenes.Scene | None:
        """The pocket scene that the path names; None where it names a file."""
        if not self.image_path.startswith(SCENE):
            return None
        found = _SCENE_PATH.fullmatch(self.image_path)
        if found is None:
            raise AttnLensError(
                f"Example {self.id!r}: image_path is {quoted(self.image_path)}; expected {SCENE}SPLIT/BIN/TASK/SEED, "
                f"for example {SCENE}test/small/read/7."
            )
        split, bin_name, task, seed = found.groups()
        scene = scenes.scene_in_bin(int(seed), bin_name, split=split, task=task)
        if (self.question, self.box) != (scene.question, scene.box):
            raise AttnLensError(
                f"Example {self.id!r} asks {self.question!r} about the box {_corners(self.box)}; the scene "
                f"{self.image_path!r} is made for {scene.question!r} and {_corners(scene.box)}. The data set was made "
                "by another version of attnlens, or edited: make it again with `attnlens data make`, or write its "
                "images to files with --images before you change it."
            )
        return scene


def pocket_examples(split: str, bins: Iterable[str], tasks: Iterable[str], count: int) -> list[Example]:
    """The small-detail benchmark: the first `count` scenes of a split for each of those bins and tasks.

    Scenes are laid out, about a millisecond each, and painted when they are opened.

    Args:
        split: the stream that the scenes are drawn from, one of `scenes.SPLITS`: `train`, `validation`, `test`,
            `report` or `again`.
        bins: sizes of the target, of `scenes.BINS`: `small`, `medium`, `large`, `high`. What is named twice counts
            once.
        tasks: kinds of question, of `scenes.TASKS`: `read`, `colour`, `exists`, `larger`, `left`, `describe`. What is
            named twice counts once.
        count: how many scenes of each bin and task, 1 to 100,000.

    Returns:
        The examples, bin by bin, and task by task in each. Their `id` is SPLIT/BIN/TASK/SEED.

    Raises:
        AttnLensError: for a `count` out of range, and for a name that is none of those.

    Examples:
        >>> attnlens.evaluate.pocket_examples("test", ["small"], ["colour"], count=8)[7].image_path
        'scene:test/small/colour/7'
    """
    if not 1 <= count <= MOST:
        raise AttnLensError(f"count is {count}; expected at least 1 example of each bin and task, and at most {MOST}.")
    tasks = tuple(dict.fromkeys(tasks))
    found = []
    for bin_name in dict.fromkeys(bins):
        for task in tasks:
            for seed in range(count):
                scene = scenes.scene_in_bin(seed, bin_name, split=split, task=task)
                name = f"{split}/{bin_name}/{task}/{seed}"
                box = None if scene.box is None else Box(*scene.box)
                found.append(Example(name, scene.question, scene.labels, SCENE + name, box, bin_name, task))
    return found


def with_boxes(examples: Iterable[Example], why: str) -> list[Example]:
    """Those examples that have a box.

    Args:
        examples: examples with and without a box.
        why: what the boxes are for; in the error it completes "... needs boxes".

    Returns:
        The examples with a box, in their order; at least one.

    Raises:
        AttnLensError: when none has a box.

    Examples:
        >>> examples = attnlens.evaluate.pocket_examples("test", ["small"], ["read", "describe"], count=2)
        >>> [example.id for example in attnlens.evaluate.with_boxes(examples, "an attention ratio")]
        ['test/small/read/0', 'test/small/read/1']
    """
    examples = list(examples)
    found = [example for example in examples if example.box is not None]
    if not found:
        raise AttnLensError(
            f"None of the {len(examples)} examples has a box, and {why} needs boxes. Give each entry of the JSON file "
            '"bbox": [x1, y1, x2, y2], in pixels of the original image, around what the question is about.'
        )
    return found


def read(path: str | os.PathLike[str]) -> list[Example]:
    """The examples of a JSON file, with image paths that hold from the working directory.

    The file is a list of objects with `id`, `question`, `labels` (all right answers), `image_path` and `bbox`
    ([x1, y1, x2, y2], half-open, in pixels of the original image). `bbox`, `group` and `task` may be missing. An
    `image_path` is relative to the folder of the file. `scene:` and the id of a pocket scene stand for an image that is
    painted when it is opened.

    Also read: a single string as `labels`, numbers as `id` and labels, `bbox` in a list of one, `box` as its name.
    Other fields are passed over.

    Args:
        path: the JSON file; a leading `~` is the home folder.

    Returns:
        The examples, in the order of the file. Images are not opened.

    Raises:
        AttnLensError: where the file cannot be read or is no list of objects; and one error that names every bad entry
            (the first ten, and how many more).

    Examples:
        >>> examples = attnlens.evaluate.pocket_examples("test", ["small"], ["read"], count=3)
        >>> attnlens.evaluate.write("read.json", examples)
        >>> attnlens.evaluate.read("read.json") == examples
        True
    """
    source = _files.expanded(path)
    entries = _entries(source)
    examples: list[Example] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        try:
            example = _Entry.model_validate(entry).example(source.parent)
        except ValidationError as error:
            problems.extend(_explained(index, entry, error))
            continue
        if example.id in seen:
            problems.append(
                f"entry {index} (id {example.id!r}): id: the same as of entry {seen[example.id]}; "
                "expected an id of its own for each entry"
            )
        seen.setdefault(example.id, index)
        examples.append(example)
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise AttnLensError("\n  ".join([f"{str(source)!r} is not a valid data set:", *problems[:_SHOWN], *more]))
    return examples


def write(path: str | os.PathLike[str], examples: Iterable[Example]) -> None:
    """Writes examples as JSON, one a line; images below the folder of the file are named relative to it.

    The file is replaced whole or not at all. Images are not written: `export` does that.

    Args:
        path: the JSON file. Its folder is made where it is missing.
        examples: what is written, in this order.

    Raises:
        AttnLensError: where the file cannot be written.

    Examples:
        >>> examples = attnlens.evaluate.pocket_examples("test", ["small"], ["read"], count=3)
        >>> attnlens.evaluate.write("written/signs.json", examples)
        >>> attnlens.evaluate.read("written/signs.json")[2].id
        'test/small/read/2'
    """
    target = _files.writable(path, "The data set")
    lines = [json.dumps(_plain(example, target.parent), ensure_ascii=False) for example in examples]
    try:
        with _files.replacing(target) as part:
            part.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    except OSError as error:
        raise AttnLensError(f"The data set cannot be written to {str(target)!r}: {error.strerror}.") from None


def export(path: str | os.PathLike[str], examples: Iterable[Example]) -> list[Example]:
    """Like `write`, with every image as a PNG file in the folder `images` beside the JSON; returns what was written.

    For scripts that do not know attnlens. The JSON comes last, so that it never names an image that is not there.

    Args:
        path: the JSON file. Its folder, and `images` in it, are made where they are missing.
        examples: what is written, in this order. Each is opened.

    Returns:
        The examples as the file has them, with the PNG files as their `image_path`.

    Raises:
        AttnLensError: where a file cannot be written, and where an example cannot be opened.

    Examples:
        >>> examples = attnlens.evaluate.pocket_examples("test", ["small"], ["read"], count=1)
        >>> [example.image_path for example in attnlens.evaluate.export("exported/signs.json", examples)]
        ['exported/images/00000-test-small-read-0.png']
    """
    target = _files.writable(path, "The data set")
    folder = _files.writable(target.parent / "images" / "_", "The data set").parent
    written = []
    for index, example in enumerate(examples):
        name = re.sub(r"[^\w.-]+", "-", example.id)[:80]
        file = folder / f"{index:05d}-{name}.png"  # the number keeps apart what the cleaned ids do not
        image = example.open()
        try:
            with _files.replacing(file) as part:
                image.save(part, format="PNG")
        except OSError as error:
            raise AttnLensError(f"An image cannot be written to {str(file)!r}: {error.strerror or error}.") from None
        written.append(replace(example, image_path=str(file)))
    write(target, written)
    return written


class _Entry(BaseModel):
    """One entry of the file, as it may be written."""

    model_config = ConfigDict(coerce_numbers_to_str=True, str_strip_whitespace=True)

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    labels: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    image_path: str = Field(min_length=1)
    bbox: list[Annotated[float, Field(strict=True, allow_inf_nan=False)]] | None = Field(
        default=None, min_length=4, max_length=4, validation_alias=AliasChoices("bbox", "box")
    )
    group: str | None = None
    task: str | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _one_label(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("bbox", mode="before")
    @classmethod
    def _one_box(cls, value: Any) -> Any:
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @field_validator("bbox")
    @classmethod
    def _in_order(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and not (value[0] < value[2] and value[1] < value[3]):
            raise ValueError(
                "expected x1 < x2 and y1 < y2; of (x, y, width, height) make [x, y, x + width, y + height]"
            )
        return value

    @field_validator("image_path")
    @classmethod
    def _known_scene(cls, value: str) -> str:
        if value.startswith(SCENE):
            if not _SCENE_PATH.fullmatch(value):
                raise ValueError(f"expected {SCENE}SPLIT/BIN/TASK/SEED, SEED of at most 18 digits")
            return value
        try:
            _files.expanded(value)
        except AttnLensError as error:
            raise ValueError(str(error)) from None
        return value

    def example(self, folder: Path) -> Example:
        path = self.image_path
        if not path.startswith(SCENE):
            path = str(folder / _files.expanded(path))
        box = None if self.bbox is None else Box(*self.bbox)
        return Example(self.id, self.question, tuple(self.labels), path, box, self.group, self.task)


def _entries(source: Path) -> list[Any]:
    try:
        data = _files.read_json(source)
    except OSError as error:
        raise AttnLensError(
            f"The data set {str(source)!r} cannot be read: {error.strerror}. Expected a JSON file; "
            "`attnlens data make` writes one."
        ) from None
    except ValueError as error:
        raise AttnLensError(
            f"{str(source)!r} is not JSON: {error}. Expected one list of objects with id, question, labels, image_path."
        ) from None
    if not isinstance(data, list) or not data:
        seen = "an empty list" if data == [] else f"one {type(data).__name__}"
        raise AttnLensError(
            f"{str(source)!r} holds {seen}; expected a list of objects with id, question, labels, image_path."
        )
    return data


def _explained(index: int, entry: Any, error: ValidationError) -> Iterator[str]:
    """For each bad field of an entry: where, what was seen, what is expected."""
    name = f" (id {entry['id']!r})" if isinstance(entry, dict) and "id" in entry else ""
    for problem in error.errors(include_url=False):
        where = ".".join(map(str, problem["loc"])) or "the entry"
        if problem["type"] == "missing":
            yield f"entry {index}{name}: {where}: missing; it has {', '.join(map(repr, entry))}"
            continue
        seen = repr(problem["input"])
        seen = seen if len(seen) <= 80 else seen[:77] + "..."
        yield f"entry {index}{name}: {where}: {seen}; {problem['msg'].removeprefix('Value error, ')}"


def _plain(example: Example, folder: Path) -> dict[str, Any]:
    """What the file says of an example."""
    path = example.image_path
    if not path.startswith(SCENE):
        whole, base = Path(os.path.abspath(_files.expanded(path))), Path(os.path.abspath(folder))
        path = (whole.relative_to(base) if whole.is_relative_to(base) else whole).as_posix()
    plain: dict[str, Any] = {
        "id": example.id,
        "question": example.question,
        "labels": list(example.labels),
        "image_path": path,
    }
    if example.box is not None:
        plain["bbox"] = _corners(example.box)
    plain |= {key: value for key, value in (("group", example.group), ("task", example.task)) if value is not None}
    return plain


def _corners(box: Sequence[float] | None) -> list[float] | None:
    """A box for JSON, whole numbers as such."""
    return None if box is None else [int(edge) if float(edge).is_integer() else float(edge) for edge in box]
