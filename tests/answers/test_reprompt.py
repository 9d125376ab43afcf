"""Claims about asking again: what pictures the model is given, in which order, and that they help."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

import attnlens
from attnlens import AttnLensError, Box, answers
from attnlens._images import crop
from attnlens.adapters import for_model_type
from attnlens.boxes import Region
from attnlens.conformance._report import tiny_lens
from attnlens.pocket import scenes

STAGES = {
    "append": answers.append,
    "append_montage": answers.append_montage,
    "replace": answers.replace,
    "replace_by_montage": answers.replace_by_montage,
    "union": answers.union,
    "outlined": answers.outlined,
    "outlined_union": answers.outlined_union,
    "alone": answers.alone,
}


@pytest.fixture(scope="module")
def lens():
    return attnlens.load("pocket/llava")


@pytest.fixture(scope="module")
def small():
    return [scenes.scene_in_bin(seed, "small", split="validation", task="read") for seed in range(10)]


def cut(image: Image.Image, *box: int) -> Image.Image:
    return image.crop(box)


def marked(image: Image.Image, *boxes: tuple[int, int, int, int]) -> Image.Image:
    """Frames of one pixel around each box, which suits images of fewer than 225 pixels."""
    image = image.copy()
    for x1, y1, x2, y2 in boxes:
        ImageDraw.Draw(image).rectangle((x1 - 1, y1 - 1, x2, y2), outline=(255, 0, 0))
    return image


def pasted(image: Image.Image, size: tuple[int, int], *pieces: tuple[tuple[int, int, int, int], tuple[int, int]]):
    """A picture of the image's mean colour, with the crop of each box at a place."""
    pixels = [image.getpixel((x, y)) for x in range(image.width) for y in range(image.height)]
    mean = tuple(round(sum(pixel[channel] for pixel in pixels) / len(pixels)) for channel in range(3))
    canvas = Image.new("RGB", size, mean)
    for box, place in pieces:
        canvas.paste(image.crop(box), place)
    return canvas


FIRST, SECOND = (100, 80, 140, 110), (10, 20, 60, 50)


def two_images() -> tuple[Image.Image, Image.Image]:
    return tuple(
        scenes.scene_in_bin(seed, "large", split="validation", task="read").image.resize((160, 120)) for seed in (1, 2)
    )


def expected_pictures(stage: str, one: Image.Image, other: Image.Image) -> list[Image.Image]:
    """What two boxes of the first image and one of the second, given in between, have the model see."""
    crops = [cut(one, *FIRST), cut(other, *FIRST), cut(one, *SECOND)]
    canvases = [pasted(one, (90, 60), (FIRST, (50, 30)), (SECOND, (0, 0))), cut(other, *FIRST)]
    unions = [cut(one, 10, 20, 140, 110), cut(other, *FIRST)]
    outlines = [marked(one, FIRST, SECOND), marked(other, FIRST)]
    return {
        "append": [one, other, *crops],
        "append_montage": [one, other, *canvases],
        "replace": crops,
        "replace_by_montage": canvases,
        "union": unions,
        "outlined": [*outlines, *crops],
        "outlined_union": [*outlines, *unions],
        "alone": [one, other],
    }[stage]


class Recorder:
    """Stands in for a reading: keeps the pictures about which a question is asked."""

    def __init__(self, images, seen):
        self.images, self.seen = tuple(images), seen

    def read_alone(self, *images):
        return Recorder(images, self.seen)

    def image_at(self, number):
        return self.images[number]

    def with_image(self, image):
        return Recorder([*self.images, image], self.seen)

    def zoom(self, box, image=0):
        return self.with_image(crop(self.images[image], box))

    def answer(self, question, max_new_tokens):
        self.seen.append((self.images, question, max_new_tokens))


def pictures(stage, images, boxes):
    seen = []
    STAGES[stage](Recorder(images, seen), boxes, "What?", 7)
    ((found, question, max_new_tokens),) = seen
    assert (question, max_new_tokens) == ("What?", 7)
    return [(image.size, image.tobytes()) for image in found]


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_shows_the_model_its_pictures_in_order(stage):
    one, other = two_images()
    boxes = [Box(*FIRST), Region(Box(*FIRST), 1.0, True, image=1), Region(Box(*SECOND), 1.0, True)]
    expected = [(image.size, image.tobytes()) for image in expected_pictures(stage, one, other)]
    assert pictures(stage, (one, other), boxes) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_without_a_box_the_answer_is_to_what_was_read(stage):
    one, other = two_images()
    assert pictures(stage, (one, other), []) == pictures("alone", (one, other), [])


@pytest.mark.parametrize("stage", ["append_montage", "replace_by_montage", "union"])
def test_pictures_of_several_images_follow_in_their_order_whatever_that_of_the_boxes(stage):
    one, other = two_images()
    boxes = [Region(Box(*SECOND), 1.0, True, image=1), Box(*FIRST)]
    expected = [(image.size, image.tobytes()) for image in (cut(one, *FIRST), cut(other, *SECOND))]
    assert pictures(stage, (one, other), boxes)[-2:] == expected


@pytest.mark.parametrize("box", [FIRST, Box(*FIRST), list(FIRST), Region(Box(*FIRST), 1.0, True)], ids=type)
def test_a_box_may_be_a_found_or_four_numbers_of_the_first_image(box):
    one, other = two_images()
    for stage in STAGES:
        assert pictures(stage, (one, other), [box]) == pictures(stage, (one, other), [Box(*FIRST)])


@pytest.mark.parametrize("stage", STAGES)
def test_boxes_may_be_an_array(stage):
    for boxes in ([FIRST, SECOND], [FIRST]):
        assert pictures(stage, two_images(), np.array(boxes)) == pictures(stage, two_images(), boxes)
    assert pictures(stage, two_images(), np.zeros((0, 4))) == pictures("alone", two_images(), [])


def test_of_one_box_the_canvas_and_the_union_are_its_crop():
    one, other = two_images()
    boxes = [Region(Box(*FIRST), 1.0, True, image=1)]
    assert pictures("append_montage", (one, other), boxes) == pictures("append", (one, other), boxes)
    assert pictures("replace_by_montage", (one, other), boxes) == pictures("replace", (one, other), boxes)
    assert pictures("union", (one, other), boxes) == pictures("replace", (one, other), boxes)
    assert pictures("outlined_union", (one, other), boxes) == pictures("outlined", (one, other), boxes)


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "alone"])
def test_a_box_outside_its_image_is_refused(stage):
    with pytest.raises(AttnLensError, match="outside the image"):
        pictures(stage, two_images(), [(500, 500, 600, 600)])


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "alone"])
def test_every_stage_reads_small_signs_that_the_image_alone_does_not_show(lens, small, stage):
    def right(answer, number):
        return sum(answer(lens.read(one.image), around(one, number), one.question).text in one.labels for one in small)

    def around(one, number):
        return [Box(*one.box).square(one.image.size, at_least=80)] * number

    assert right(STAGES[stage], 1) >= right(answers.alone, 1) + 3


@pytest.mark.parametrize("model_type", ["qwen2_vl", "llava_next", "gemma3"])
def test_every_stage_runs_on_models_of_several_views(model_type):
    tiny = tiny_lens(model_type, for_model_type(model_type))
    reading = tiny.read(list(two_images()))
    boxes = [Box(*FIRST), Region(Box(*SECOND), 1.0, True, image=1), Box(*SECOND)]
    for stage in STAGES.values():
        assert len(stage(reading, boxes, "What is it?", 2).tokens) in (1, 2)


@pytest.mark.parametrize("stage", ["append", "append_montage"])
def test_an_appended_crop_is_the_only_new_work(lens, small, stage):
    reading, question = lens.read(small[0].image), small[0].question
    one_image = reading.answer(question, 1).cost.image_tokens
    before = lens.meter.now()
    STAGES[stage](reading, [small[0].box], question, 1)
    assert (lens.meter.now() - before).image_tokens == one_image > 0
