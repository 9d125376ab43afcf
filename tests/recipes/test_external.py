"""Claims about external croppers as recipes: what they crop, whom they show what, and what that costs."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import attnlens
from attnlens import AttnLensError, Box, answers, croppers
from attnlens.pocket import scenes
from attnlens.recipes import Recipe
from attnlens.recipes.tools import CLIP, clip, external, sam, yolo
from tests.croppers.models import tiny_clip, tiny_sam, tiny_yolos

QUESTION = "What is written on the red sign?"
BOXES = [(10, 20, 50, 40), (200, 100, 260, 160), (300, 10, 400, 300)]


@pytest.fixture(scope="module")
def lens():
    return attnlens.load("pocket/llava")


@pytest.fixture(scope="module")
def scene():
    return scenes.scene_in_bin(3, "small", split="validation", task="read")


@pytest.fixture
def nothing_loaded():
    loaded = sys.modules["attnlens.recipes.tools"]._loaded
    loaded.cache_clear()
    yield
    loaded.cache_clear()


class Shown:
    """Parts that need no model, and what they were shown."""

    def __init__(self, boxes=(), favourite=None):
        self.boxes, self.favourite = boxes, favourite
        self.crops, self.texts, self.images = [], [], []

    def scorer(self, crops, text):
        self.crops += crops
        self.texts.append(text)
        return [-abs(crop.width * crop.height - (self.favourite or 0)) for crop in crops]

    def regions(self, image):
        self.images.append(image)
        return self.boxes

    def function(self, image, question):
        self.images.append(image)
        self.texts.append(question)
        return self.boxes


class Nameless:
    def __call__(self, image, question):
        return [(0, 0, 10)]


def redness(crops, text):
    """How red a crop is, on the whole: a CLIP that knows one colour."""
    pixels = [np.asarray(crop, dtype=float).mean(axis=(0, 1)) for crop in crops]
    return [float(red - (green + blue) / 2) for red, green, blue in pixels]


def test_clip_crops_where_its_scorer_likes_it_best(lens):
    image = Image.new("RGB", (400, 300), (90, 90, 90))
    image.paste((255, 0, 0), (300, 200, 330, 230))
    (box,) = attnlens.ask(lens, image, QUESTION, recipe="clip", scorer=redness, rounds=40).boxes
    assert box.covers(Box(300, 200, 330, 230))
    assert box.width == box.height <= 60


def test_yolo_and_sam_crop_the_squares_of_the_regions_that_the_scorer_likes_best(lens, scene):
    squares = [Box(10, 10, 50, 50), Box(200, 100, 260, 160)]  # around the first two
    areas = [40 * 20, 60 * 60]
    for recipe, option in (("yolo", "detector"), ("sam", "segmenter")):
        for square, area in zip(squares, areas, strict=True):
            shown = Shown(BOXES, favourite=area)
            options = {option: shown.regions, "scorer": shown.scorer}
            result = attnlens.ask(lens, scene.image, QUESTION, recipe=recipe, **options)
            assert result.boxes == [square]
            assert [crop.size for crop in shown.crops] == [(40, 20), (60, 60), (100, 290)]
        both = attnlens.ask(lens, scene.image, QUESTION, recipe=recipe, count=2, **options)
        assert both.boxes == squares[::-1]


def test_the_answer_is_to_the_image_and_the_crop_behind_it(lens, scene):
    result = attnlens.ask(lens, scene.image, scene.question, recipe=external(lambda *_: [scene.box]))
    human = attnlens.ask(lens, scene.image, scene.question, recipe="human", box=scene.box)
    assert (result.answer, result.first_answer, result.boxes) == (human.answer, human.first_answer, human.boxes)
    assert result.cost.image_tokens == human.cost.image_tokens
    reading = lens.read(scene.image)
    assert result.answer == answers.append(reading, result.boxes, scene.question, 20).text


def test_every_picture_that_another_model_sees_is_counted(lens, scene):
    def spent(recipe, **options):
        return attnlens.ask(lens, scene.image, QUESTION, recipe=recipe, **options).cost.external

    shown = Shown(BOXES)
    assert spent("clip", scorer=shown.scorer) == len(shown.crops) == 80
    assert spent("clip", scorer=shown.scorer, rounds=3) == 12
    assert spent("yolo", detector=shown.regions, scorer=shown.scorer) == 1 + 3
    assert spent("sam", segmenter=shown.regions, scorer=shown.scorer) == 1 + 3
    assert spent("yolo", detector=Shown().regions, scorer=shown.scorer) == 1
    assert spent(external(shown.function)) == 1
    assert spent("rel-att") == spent("none") == 0


def test_the_work_of_the_model_itself_is_that_of_a_human_crop(lens, scene):
    cost = attnlens.ask(lens, scene.image, QUESTION, recipe=external(lambda *_: BOXES[:1])).cost
    human = attnlens.ask(lens, scene.image, QUESTION, recipe="human", box=BOXES[0]).cost
    same = ("prefills", "forwards", "backwards", "image_tokens")
    assert [getattr(cost, field) for field in same] == [getattr(human, field) for field in same]
    assert cost.as_dict().keys() == {*same, "external", "seconds"}
    assert (cost + cost).external == 2
    assert (cost - human).external == 1


@pytest.mark.parametrize("recipe", ["yolo", "sam", "own"])
def test_where_nothing_is_found_nothing_is_cropped(lens, scene, recipe):
    nothing = Shown()
    options = {"yolo": {"detector": nothing.regions}, "sam": {"segmenter": nothing.regions}, "own": {}}[recipe]
    options |= {} if recipe == "own" else {"scorer": nothing.scorer}
    chosen = external(nothing.function) if recipe == "own" else recipe
    result = attnlens.ask(lens, scene.image, scene.question, recipe=chosen, **options)
    assert result.boxes == []
    assert result.answer == result.first_answer
    assert len(nothing.images) == 1
    assert nothing.crops == []


def test_the_scorer_reads_the_question_or_the_text_in_its_place(lens, scene):
    for options, text in (({}, QUESTION), ({"text": "a red sign"}, "a red sign"), ({"text": ""}, "")):
        shown = Shown(BOXES)
        attnlens.ask(lens, scene.image, QUESTION, recipe="clip", scorer=shown.scorer, rounds=1, **options)
        attnlens.ask(lens, scene.image, QUESTION, recipe="yolo", detector=shown.regions, scorer=shown.scorer, **options)
        assert shown.texts == [text, text]


def test_of_several_images_the_best_crops_of_all_are_taken(lens):
    plain, red = Image.new("RGB", (300, 300), (90, 90, 90)), Image.new("RGB", (300, 200), (90, 90, 90))
    red.paste((255, 0, 0), (100, 50, 130, 80))
    result = attnlens.ask(lens, [plain, red], QUESTION, recipe="clip", scorer=redness)
    assert [one.image for one in result.regions] == [1]
    assert result.boxes[0].covers(Box(100, 50, 130, 80))

    def second_only(image, question):
        return [(100, 50, 130, 80)] if image.height == 200 else []

    result = attnlens.ask(lens, [plain, red], QUESTION, recipe=external(second_only))
    assert [(one.image, one.box) for one in result.regions] == [(1, Box(100, 50, 130, 80))]


def test_all_boxes_of_a_function_are_crops_or_as_many_as_are_asked_for(lens, scene):
    shown = Shown(BOXES[:2])
    both = attnlens.ask(lens, scene.image, QUESTION, recipe=external(shown.function))
    assert both.boxes == [Box(10, 10, 50, 50), Box(200, 100, 260, 160)]
    one = attnlens.ask(lens, scene.image, QUESTION, recipe=external(shown.function), count=1)
    assert one.boxes == both.boxes[:1]
    assert shown.texts == [QUESTION] * 2
    assert shown.images[0].size == scene.image.size


def test_a_cropper_is_a_recipe_and_a_box_given_twice_is_one_crop(lens, scene):
    shown = Shown([*BOXES[:2], BOXES[0]], favourite=60 * 60)
    cropper = croppers.rank_regions(shown.regions, shown.scorer, count=2)
    result = attnlens.ask(lens, scene.image, QUESTION, recipe=external(cropper))
    assert result.regions == cropper(scene.image, QUESTION)
    assert result.boxes == [Box(200, 100, 260, 160), Box(10, 10, 50, 50)]
    assert attnlens.ask(lens, scene.image, QUESTION, recipe=external(shown.function)).boxes == result.boxes[::-1]


def test_a_folder_of_another_model_says_which_is_expected(lens, scene, tmp_path):
    for part in tiny_clip():
        part.save_pretrained(tmp_path)
    with pytest.raises(AttnLensError, match="a CLIPModel; expected a SamModel.*segmenter= is where to say which"):
        attnlens.ask(lens, scene.image, QUESTION, recipe="sam", segmenter=tmp_path, scorer=redness)


def test_models_in_folders_choose_what_their_parts_choose(lens, scene, tmp_path):
    ready = {"scorer": tiny_clip(), "detector": tiny_yolos(), "segmenter": tiny_sam()}
    for name, parts in ready.items():
        for part in parts:
            part.save_pretrained(tmp_path / name)
    folder, scorer = tmp_path / "scorer", croppers.clip_scorer(*ready["scorer"])

    def found(recipe, **options):
        return close(attnlens.ask(lens, scene.image, "is it?", recipe=recipe, **options).regions)

    def close(regions):
        # Weights from a file lie elsewhere in memory, and by that a processor may choose the order of its sums: the
        # last digits differ, by under 1e-6 of scores around 1.
        return [replace(one, score=pytest.approx(one.score, abs=1e-4)) for one in regions]

    assert found("clip", scorer=folder) == croppers.clip(scorer)(scene.image, "is it?")
    by_yolo = croppers.rank_regions(croppers.detector(*ready["detector"]), scorer, count=2)(scene.image, "is it?")
    assert by_yolo[0].confident
    assert found("yolo", detector=str(tmp_path / "detector"), scorer=folder, count=2) == by_yolo
    by_sam = croppers.rank_regions(croppers.segmenter(*ready["segmenter"]), scorer)(scene.image, "is it?")
    by_sam = [one for one in by_sam if one.confident]  # at random weights SAM may be sure of nothing
    assert found("sam", segmenter=tmp_path / "segmenter", scorer=str(folder)) == by_sam


def test_a_named_model_is_loaded_once_to_where_the_mllm_is(lens, scene, monkeypatch, nothing_loaded):
    loaded = []

    def make(name, *, device):
        loaded.append((name, device))
        return redness

    monkeypatch.setattr(croppers, "clip_scorer", make)
    for _ in range(2):
        attnlens.ask(lens, scene.image, QUESTION, recipe="clip", rounds=1)
        attnlens.ask(lens, scene.image, QUESTION, recipe="yolo", detector=Shown(BOXES).regions)
    assert loaded == [(CLIP, str(lens.model.device))]


@pytest.mark.parametrize(
    ("recipe", "option", "model"),
    [
        ("clip", "scorer", "openai/clip-vit-base-patch32"),
        ("yolo", "detector", "hustvl/yolos-tiny"),
        ("sam", "segmenter", "facebook/sam-vit-base"),
    ],
)
def test_a_model_that_is_not_here_says_what_to_do(lens, scene, recipe, option, model, monkeypatch, nothing_loaded):
    def missing(*_, **__):
        raise OSError("We couldn't connect to the hub.")

    for owner in ("AutoModel", "AutoModelForObjectDetection"):
        monkeypatch.setattr(f"transformers.{owner}.from_pretrained", missing)
    with pytest.raises(AttnLensError, match=f"'{model}' could not be loaded.*downloaded before.*{option}="):
        attnlens.ask(lens, scene.image, QUESTION, recipe=recipe)


@pytest.mark.parametrize(
    ("look", "option", "given"),
    [(clip, "scorer", 3), (yolo, "detector", None), (sam, "segmenter", torch.nn.Linear(1, 1)), (yolo, "scorer", [])],
)
def test_what_is_neither_a_name_nor_a_function_is_refused(lens, scene, look, option, given):
    ready = {"scorer": redness, "detector": Shown(BOXES).regions, "segmenter": Shown(BOXES).regions}
    taken = {name: part for name, part in ready.items() if name in look.__kwdefaults__}
    recipe = Recipe(locate=partial(look, **{**taken, option: given}))
    with pytest.raises(AttnLensError, match=f"{option} is a {type(given).__name__}; expected a Hugging Face id"):
        attnlens.ask(lens, scene.image, QUESTION, recipe=recipe)


def test_a_function_that_gives_no_box_is_named(lens, scene):
    def mine(image, question):
        return [(0, 0, 10)]

    def mine_too(image):
        return [(900, 0, 100, 10)]

    with pytest.raises(AttnLensError, match="^mine gave a box that cannot be used"):
        attnlens.ask(lens, scene.image, QUESTION, recipe=external(mine))
    with pytest.raises(AttnLensError, match="^mine_too gave a box that cannot be used"):
        attnlens.ask(lens, scene.image, QUESTION, recipe="yolo", detector=mine_too, scorer=redness)
    for function, name in ((partial(mine), "mine"), (Nameless(), "Nameless")):
        with pytest.raises(AttnLensError, match=f"^{name} gave a box that cannot be used"):
            attnlens.ask(lens, scene.image, QUESTION, recipe=external(function))
    with pytest.raises(AttnLensError, match="external\\(\\) got 'mine'; expected a function"):
        external("mine")
