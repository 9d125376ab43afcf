"""Claims about what FOCUS, HiDe, entropy and ZoomEye make of options, on maps and verdicts that are made up."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attnlens.answers import Verdict
from attnlens.boxes import Region, tree
from attnlens.errors import AttnLensError
from attnlens.geometry import Box, Grid
from attnlens.importance import ImportanceMap
from attnlens.recipes import entropy, hide, zoomeye
from attnlens.recipes._options import check_template
from attnlens.recipes.focus import _presets
from attnlens.recipes.focus import _search as by_focus

QUESTION = "Which is larger, the red sign or the blue sign?"
ONE = "What does the red sign say?"


def read(images=1, side=100):
    """What a recipe needs of a reading before a model is asked."""
    defaults = SimpleNamespace(preset=None, window=1)
    grids = (Grid.regular(10, 10, (side, side)),) * images
    layouts = (SimpleNamespace(views=(1,)),) * images
    pictures = (Image.new("RGB", (side, side)),) * images
    return SimpleNamespace(images=pictures, defaults=defaults, depth=4, grids=grids, layouts=layouts)


def squares(*sides):
    """A map with a square of ones of each number of cells a side, one below the other."""
    values, row = np.zeros((10, 10), dtype=np.float32), 0
    for side in sides:
        values[row : row + side, :side] = 1
        row += side + 1
    return ImportanceMap(values, Grid.regular(10, 10, (100, 100)))


def test_hide_finds_the_best_regions_of_each_target_over_all_images_and_each_box_once(monkeypatch):
    maps = {"red sign": (squares(2), squares(4, 1), squares(3)), "blue sign": (squares(1), squares(4), squares(2))}
    monkeypatch.setattr(hide, "word_attention", lambda *_, target, image, **__: maps[target][image])

    def found(**options):
        return [(one.image, one.box.width) for one in hide.locate(read(3), QUESTION, **options).regions]

    assert found(count=1, targets=["red sign"]) == [(1, 40)]
    assert found(count=3, targets=["red sign"]) == [(1, 40), (2, 30), (0, 20)]
    assert found(targets=["red sign"]) == [(1, 40), (2, 30), (0, 20), (1, 10)]
    assert found(count=1) == [(1, 40)]  # the same for both
    assert found(count=2) == [(1, 40), (2, 30), (2, 20)]


def test_hide_hands_on_how_many_words_the_instruction_has(monkeypatch):
    given = []
    monkeypatch.setattr(hide, "word_attention", lambda *_, instruction, **__: given.append(instruction) or squares(2))
    hide.locate(read(), ONE)
    hide.locate(read(), ONE, instruction=0)
    assert given == [None, 0]


@pytest.mark.parametrize("recipe", [hide, entropy], ids=["hide", "entropy"])
@pytest.mark.parametrize("window", [0, False, True, "x", -1, float("nan")], ids=repr)
def test_a_window_that_is_no_side_is_refused(recipe, window):
    with pytest.raises(AttnLensError, match=f"window is {window!r}; expected the least side"):
        recipe.locate(read(), ONE, window=window)


@pytest.mark.parametrize("rounds", [-1, 1.5, "3", True, None], ids=repr)
def test_rounds_that_are_no_number_of_looks_are_refused(rounds):
    with pytest.raises(AttnLensError, match=f"rounds is {rounds!r}; expected a whole number of further looks"):
        entropy.locate(read(), ONE, rounds=rounds)


def focused(monkeypatch, sureness, maps=None, **options):
    """What FOCUS finds where the model says yes with these probabilities, target by target."""
    left = iter(sureness)
    monkeypatch.setattr(by_focus, "value_similarity", lambda *_, **__: maps or squares(1, 1, 1))
    monkeypatch.setattr(by_focus, "verify_crops", lambda _, asked, __: [Verdict(next(left), 1.0) for _ in asked])
    preset = _presets.Preset((0, 4), smallest=1, largest=1)
    return by_focus.locate(read(), options.pop("question", ONE), preset=preset, **options).regions


@pytest.mark.parametrize(
    ("sureness", "count", "expected"),
    [
        ((0.9, 0.8, 0.7), 2, [0.9, 0.8]),
        ((0.9, 0.2, 0.7), 3, [0.9, 0.7]),
        ((0.4, 0.3, 0.2), 3, [0.4]),
        ((0.4, 0.9, 0.5), 2, [0.9]),
    ],
)
def test_further_regions_of_a_target_are_those_that_the_model_says_yes_to(monkeypatch, sureness, count, expected):
    assert [one.score for one in focused(monkeypatch, sureness, count=count)] == expected


def test_of_everything_wanted_all_is_found_whatever_the_count(monkeypatch):
    assert len(focused(monkeypatch, (0.9, 0.8, 0.7), question="How many red signs are there?", count=1)) == 3


def test_two_targets_in_the_same_box_are_one_region_the_surer(monkeypatch):
    (found,) = focused(monkeypatch, (0.6, 0.9), squares(1), question=QUESTION)
    assert found == Region(Box(0, 0, 10, 10), 0.9, True)


@pytest.mark.parametrize("count", [0, "2", True, 1.5], ids=repr)
def test_a_count_of_focus_that_is_none_is_refused(count):
    with pytest.raises(AttnLensError, match=f"count is {count!r}; expected a whole number"):
        by_focus.locate(read(), ONE, count=count)


BROKEN = [None, 3, "", "Is there a sign?", "Is there a {target}{other}?", "{target} {", "{target} {}", "{target.x}"]


@pytest.mark.parametrize("text", BROKEN, ids=repr)
def test_a_question_that_a_target_cannot_be_put_into_is_refused(text):
    words = re.escape(f"is {text!r}; expected a question that holds {{target}}")
    with pytest.raises(AttnLensError, match=f"^existence {words}"):
        by_focus.locate(read(), ONE, existence=text)
    for field in ("existing", "latent"):
        with pytest.raises(AttnLensError, match=f"^{field} {words}"):
            zoomeye.Prompts(**{field: text})


def test_each_prompt_of_zoomeye_holds_what_it_asks_about_and_may_hold_the_other():
    with pytest.raises(AttnLensError, match=r"^answering is .*holds \{question\}"):
        zoomeye.Prompts(answering="Is there a {target}?")
    zoomeye.Prompts("{target}, {question}?", "{{}} {target}?", "{question} {target}?")
    zoomeye.Prompts(answering=None)
    with pytest.raises(AttnLensError, match="no other field"):
        check_template("existence", "{target} {question}", "target")


@pytest.mark.parametrize(
    ("look", "option", "given", "expected"),
    [
        (by_focus.locate, "preset", "llava-1.5", "attnlens.recipes.focus.Preset"),
        (by_focus.locate, "preset", tree.PRESETS["llava-1.5"], "attnlens.recipes.focus.Preset"),
        (by_focus.locate, "preset", {}, "attnlens.recipes.focus.Preset"),
        (zoomeye.locate, "preset", _presets.PRESETS["llava-1.5"], "attnlens.boxes.tree.Preset"),
        (zoomeye.locate, "preset", "", "attnlens.boxes.tree.Preset"),
        (zoomeye.locate, "prompts", {}, "attnlens.recipes.zoomeye.Prompts"),
        (zoomeye.locate, "prompts", "pocket", "attnlens.recipes.zoomeye.Prompts"),
    ],
    ids=lambda given: getattr(given, "__name__", str(given))[:20],
)
def test_settings_of_another_kind_are_refused(look, option, given, expected):
    with pytest.raises(AttnLensError, match=f"^{option} is .*expected an? {re.escape(expected)}, or None"):
        look(read(), ONE, **{option: given})


def answerable(monkeypatch, images):
    """What ZoomEye finds in images that answer the question as they are."""
    monkeypatch.setattr(zoomeye._Asked, "answering", lambda _, boxes: [1.0] * len(boxes))
    return zoomeye.locate(read(images, 400), ONE, preset=tree.Preset(100, 0.2)).regions


def test_a_question_answerable_from_the_only_image_needs_no_crop(monkeypatch):
    assert answerable(monkeypatch, 1) == [Region(Box(0, 0, 400, 400), 0.0, False)]


def test_of_several_images_the_whole_of_one_is_a_choice(monkeypatch):
    assert answerable(monkeypatch, 2) == [Region(Box(0, 0, 400, 400), 1.0, True)]
