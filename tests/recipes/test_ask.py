"""`ask` puts the stages together, says what each cost, and refuses what does not fit."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import attnlens
from attnlens import answers, boxes, maps, recipes
from attnlens.boxes import Region
from attnlens.errors import AttnLensError
from attnlens.geometry import Box, Grid
from attnlens.recipes import Localization
from tests import tiny

QUESTION = "what is written on the red sign?"


@pytest.fixture(scope="module")
def lens() -> Any:
    model, processor = tiny.build("llava")
    return attnlens.load(model=model, processor=processor, adapter="llava")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return tiny.images("landscape", 1)[0].resize((900, 700))


@pytest.mark.parametrize("name", [n for n in recipes.names() if n not in ("human", "clip", "yolo", "sam")])
def test_every_bundled_recipe_answers(
    lens: Any, image: Image.Image, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnlens.answers._verifier.LEAST", 0.0)  # a random model says yes to nothing
    result = attnlens.ask(lens, image, QUESTION, recipe=name, max_new_tokens=3)
    assert (result.importance is None) == (name in ("none", "zoomeye"))
    assert len(result.boxes) <= {"entropy": 2, "hide": 4}.get(name, 1)
    assert (result.cost.backwards > 0) == recipes.card(name).gradient


def test_the_answer_is_that_of_the_image_and_its_crop(lens: Any, image: Image.Image) -> None:
    result = attnlens.ask(lens, image, QUESTION, recipe="rel-att", max_new_tokens=6)
    crop = image.crop(tuple(int(v) for v in result.boxes[0]))
    assert result.first_answer == lens.read(image).answer(QUESTION, 6).text
    assert result.answer == lens.read([image, crop]).answer(QUESTION, 6).text


def test_the_map_of_an_answer_costs_no_prefill_of_its_own(lens: Any, image: Image.Image) -> None:
    cost = attnlens.ask(lens, image, QUESTION, recipe="rel-att", max_new_tokens=3).cost
    assert (cost.prefills, cost.backwards, cost.image_tokens) == (2, 0, 2 * 36)
    human = attnlens.ask(lens, image, QUESTION, recipe="human", box=(0, 0, 300, 300), max_new_tokens=3).cost
    assert (human.prefills, human.image_tokens) == (2, 2 * 36)


def test_a_question_dependent_connector_costs_whole_prompts() -> None:
    model, processor = tiny.build("instructblip")
    lens = attnlens.load(model=model, processor=processor, adapter="instructblip")
    cost = attnlens.ask(lens, tiny.images("square", 1)[0].resize((500, 500)), QUESTION, max_new_tokens=3).cost
    assert (cost.prefills, cost.image_tokens) == (3, 8 + 8 + 16)


def test_human_crops_the_smallest_square_that_covers_the_box(lens: Any, image: Image.Image) -> None:
    result = attnlens.ask(lens, image, QUESTION, recipe="human", box=(100, 100, 200, 140), max_new_tokens=2)
    assert result.boxes == [Box(100, 70, 200, 170)]


def test_replace_answers_to_the_crop_alone(lens: Any, image: Image.Image) -> None:
    reading, box = lens.read(image), Box(10, 20, 200, 220)
    expected = lens.read(image.crop((10, 20, 200, 220))).answer(QUESTION, 5).tokens
    assert answers.replace(reading, [box], QUESTION, 5).tokens == expected
    assert answers.replace(reading, [], QUESTION, 5).tokens == reading.answer(QUESTION, 5).tokens


def test_two_crops_are_appended_one_after_the_other(lens: Any, image: Image.Image) -> None:
    first, second = Box(10, 20, 200, 220), Box(300, 300, 420, 400)
    images = [image, *(image.crop(tuple(map(int, box))) for box in (first, second))]
    expected = lens.read(images).answer(QUESTION, 5).tokens
    assert answers.append(lens.read(image), [first, second], QUESTION, 5).tokens == expected


def test_a_map_on_which_nothing_stands_out_leads_to_no_crop(lens: Any, image: Image.Image) -> None:
    def flat(reading: Any, question: str) -> attnlens.ImportanceMap:
        return attnlens.ImportanceMap(np.ones((6, 6)), reading.grids[0])

    result = attnlens.ask(lens, image, QUESTION, attnlens.Recipe(map=flat, search=boxes.search), max_new_tokens=4)
    assert result.boxes == []
    assert result.answer == result.first_answer


def test_a_recipe_of_ones_own_takes_any_callables(lens: Any, image: Image.Image) -> None:
    recipe = attnlens.Recipe(
        map=lambda reading, question: maps.gradient_attention(reading, question, layer=0),
        search=lambda importance: [Region(Box(0, 0, 50, 60), 1.0, True)],
        answer=answers.replace,
    )
    result = attnlens.ask(lens, image, QUESTION, recipe, max_new_tokens=4)
    assert result.boxes == [Box(0, 0, 50, 60)]
    assert result.answer == lens.read(image.crop((0, 0, 50, 60))).answer(QUESTION, 4).text


def test_the_window_comes_from_the_adapter_unless_the_recipe_says(
    lens: Any, image: Image.Image, tmp_path: Path
) -> None:
    by_default = attnlens.ask(lens, image, QUESTION, recipe="rel-att", max_new_tokens=2)
    expected = boxes.search(by_default.importance, window=lens.adapter.defaults.window)[0].box
    assert by_default.boxes == [expected]
    file = tmp_path / "own.yaml"
    file.write_text(
        "map: {name: relative-attention, layer: 1}\nsearch: {window: 100, criterion: sum, count: 2}\nanswer: replace\n"
    )
    own = attnlens.ask(lens, image, QUESTION, recipe=file, max_new_tokens=2)
    importance = maps.relative_attention(lens.read(image), QUESTION, layer=1)
    assert own.boxes == [f.box for f in boxes.search(importance, window=100, criterion="sum", count=2)]


def test_a_result_saves_its_picture_and_makes_the_folder(lens: Any, image: Image.Image, tmp_path: Path) -> None:
    result = attnlens.ask(lens, image, QUESTION, max_new_tokens=2)
    assert Image.open(result.save(tmp_path / "new" / "out.png")).format == "PNG"
    with pytest.raises(AttnLensError, match="cannot be written"):
        result.save(tmp_path / "out.what")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "rel-at"}, "rel-att"),
        ({"recipe": "missing.yaml"}, "no file"),
        ({"recipe": "human"}, "Give box="),
        ({"recipe": "rel-att", "box": (0, 0, 5, 5)}, "takes no box"),
        ({"recipe": "human", "box": (5, 5, 1, 1)}, "x1 < x2"),
        ({"recipe": "none", "layer": 1}, "looks for nothing"),
        ({"recipe": "pure-grad", "layer": 1}, "no option layer"),
        ({"recipe": "rel-att", "layer": 44}, "no layer 44"),
        ({"recipe": "rel-att", "layer": True}, "no layer True"),
        ({"recipe": "rel-att", "box": 3}, "takes no box, but got 3"),
        ({"recipe": "rel-att", "colour": 1}, r"Expected: ((?!image)\w+, )+(?!image)\w+\.$"),
        ({"recipe": "human", "box": (5, 5, 1, 1), "gate": 0}, "x1 < x2"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": "3"}, "max_new_tokens is '3'"),
        ({"count": True}, "count is True"),
        ({"recipe": attnlens.Recipe(locate=lambda reading, question, **_: Localization([])), "count": 0}, "count is 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    lens: Any, image: Image.Image, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(AttnLensError, match=message):
        attnlens.ask(lens, image, QUESTION, **arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("map: {name: heat}", "map.name"),
        ("colour: red", "colour"),
        ("map: {name: input-gradient, layer: 3}", "layer"),
        ("search: {window: -4}\nmap: {name: input-gradient}", "search.window"),
        ("- 1", "the file"),
        ("map: {name: input-gradient}\ntiles: true", "tiles: found True"),
        ("map: {name: input-gradient}\ngate: true", "gate: found True"),
        ("map: {name: input-gradient}\ngate: '0.5'", "gate: found '0.5'"),
        ("map: {name: input-gradient}\nsearch: {window: true}", "search.window: found True"),
        ("map: {name: input-gradient}\nsearch: {window: '120'}", "search.window: found '120'"),
        ("map: {name: input-gradient}\nsearch: {count: true}", "search.count: found True"),
        ("map: {name: input-gradient}\nsearch: {count: '2'}", "search.count: found '2'"),
        ("map: {name: input-gradient, image: 1}", "each gets its map"),
        ("map: []", "the key map, but names no map"),
        ("map:", "the key map, but names no map"),
        ("combine: average", "the key combine, but names no map"),
        ("search: {window: 100}\ntiles: 100", "the key search, tiles, but names no map"),
    ],
)
def test_a_recipe_file_that_does_not_fit_says_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(AttnLensError, match=message):
        recipes.find(file)


def test_a_recipe_file_takes_whole_numbers_where_others_would_do(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("map: {name: input-gradient}\nsearch: {window: 120}\ngate: 1\ntiles: 700\n")
    recipe = recipes.find(file)
    assert (recipe.search.keywords, recipe.gate, recipe.tiles) == ({"window": 120}, 1, 700)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"search": boxes.search}, "has search, but no map"),
        ({"tiles": 100}, "has tiles, but no map"),
        ({"locate": lambda reading, question: Localization([]), "tiles": 100}, "has tiles, but no map"),
        ({"map": "relative-attention"}, "map is 'relative-attention'.*-> ImportanceMap"),
        ({"map": max}, "map is <built-in function max>.*-> ImportanceMap"),
        ({"map": maps.relative_attention, "search": 3}, r"search is 3.*-> list\[Region\]"),
        ({"locate": "focus"}, "locate is 'focus'.*-> Localization"),
        ({"answer": None}, "answer is None.*-> Answer"),
        ({"answer": "append"}, "answer is 'append'.*-> Answer"),
        ({"gate": True}, "gate is True"),
        ({"gate": "x"}, "gate is 'x'"),
        ({"gate": math.nan}, "gate is nan"),
        ({"gate": 1.5}, "gate is 1.5"),
    ],
)
def test_stages_that_do_not_go_together_are_no_recipe(stages: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnLensError, match=message):
        attnlens.Recipe(**stages)


def two_images() -> Any:
    """What a recipe asks of a reading of two images, for maps that ask for nothing more."""
    return SimpleNamespace(images=(None, None), defaults=SimpleNamespace(window=None))


def numbered(reading: Any, question: str, *, image: int = 0, **options: Any) -> attnlens.ImportanceMap:
    """A map that says which image it is of, and the options it got, in its cells."""
    return attnlens.ImportanceMap(np.full((1, 2), image + options.get("layer", 0)), Grid.regular(1, 2, (10, 10)))


def test_of_several_images_a_region_that_stands_out_comes_before_one_that_does_not() -> None:
    def search(importance: attnlens.ImportanceMap) -> list[Region]:
        return [Region(Box(0, 0, 5, 5), *((0.0, False) if importance.values[0, 0] == 0 else (-1.0, True)))]

    seen = attnlens.Recipe(map=numbered, search=search).localize(two_images(), QUESTION)
    assert seen.regions == [Region(Box(0, 0, 5, 5), -1.0, True, image=1)]
    assert seen.importance.values[0, 0] == 1


def test_options_that_only_a_map_with_any_takes_go_to_it() -> None:
    def search(importance: attnlens.ImportanceMap, count: int = 1) -> list[Region]:
        return [Region(Box(0, 0, 5, 5), float(importance.values[0, 0]), True)] * count

    seen = attnlens.Recipe(map=numbered, search=search).localize(two_images(), QUESTION, layer=2, count=3)
    assert [one.score for one in seen.regions] == [3, 3, 3]


@pytest.mark.parametrize("given", [None, [], [(0, 0, 5, 5)], "x", 3])
def test_a_search_that_gives_no_region_is_named(given: Any) -> None:
    def mine(importance: attnlens.ImportanceMap) -> Any:
        return given

    with pytest.raises(AttnLensError, match="The search mine gave .*expected a list of attnlens.boxes.Region"):
        attnlens.Recipe(map=numbered, search=mine).localize(two_images(), QUESTION)


@pytest.mark.parametrize("given", [None, [], Localization([(0, 0, 5, 5)]), Localization(None)])
def test_a_look_that_gives_none_is_named(given: Any) -> None:
    def mine(reading: Any, question: str) -> Any:
        return given

    with pytest.raises(
        AttnLensError, match=r"The locate mine gave .*expected attnlens.recipes.Localization\(regions\)"
    ):
        attnlens.Recipe(locate=mine).localize(two_images(), QUESTION)


def test_an_answer_that_is_none_is_named(lens: Any, image: Image.Image) -> None:
    def mine(reading: Any, regions: Any, question: str, max_new_tokens: int) -> str:
        return "7"

    recipe = attnlens.Recipe(answer=mine)
    with pytest.raises(AttnLensError, match="The answer mine gave '7'; expected an Answer"):
        attnlens.ask(lens, image, QUESTION, recipe, box=(0, 0, 50, 50), max_new_tokens=1)


@pytest.mark.parametrize("question", ["", "  ", None, 3])
def test_a_question_is_some_text_or_nothing_is_run(image: Image.Image, question: Any) -> None:
    with pytest.raises(AttnLensError, match="The question is .*expected some text"):
        attnlens.ask(None, image, question, recipes.external(lambda image, question: pytest.fail("was run")))


def test_a_warning_says_how_few_stood_out_unless_the_model_was_sure(
    lens: Any, image: Image.Image, recwarn: pytest.WarningsRecorder
) -> None:
    nothing = recipes.external(lambda image, question: [])
    result = attnlens.ask(lens, image, QUESTION, nothing, count=3, gate=0, max_new_tokens=1)
    assert result.skipped_crop
    assert not recwarn
    with pytest.warns(UserWarning, match="3 regions were asked for, and 0 stood out"):
        result = attnlens.ask(lens, image, QUESTION, nothing, count=3, max_new_tokens=1)
    assert not result.skipped_crop


def test_a_prompt_that_is_too_long_is_told_of_every_remedy(lens: Any) -> None:
    with pytest.raises(AttnLensError, match="fewer or smaller images, or ask for fewer regions .count=. or new tokens"):
        lens._host.check_context(10**9)


def test_every_recipe_has_a_card_of_single_lines() -> None:
    for name in recipes.names():
        card = recipes.card(name)
        assert all(len(text.splitlines()) == 1 for text in (card.signal, card.passes, card.regions))
        assert name == "none" or "arXiv" in card.source


FIXED = ("none", "human", "rel-att", "grad-att", "pure-grad", "laser", "loc-heads")
"""Recipes whose passes do not depend on what they find."""


def passes(text: str) -> int:
    """Those that a card states, such as "1 tail, 2 tokens; the crop"."""
    return sum(map(int, re.findall(r"(\d+) (?:tail|token|whole)", text))) + text.endswith("the crop")


@pytest.mark.parametrize("name", FIXED)
def test_a_recipe_costs_what_its_card_states_and_with_a_gate_what_the_docs_state(
    lens: Any, image: Image.Image, name: str
) -> None:
    given = {"box": (0, 0, 300, 300)} if name == "human" else {}

    def cost(**gate: float) -> Any:
        return attnlens.ask(lens, image, QUESTION, recipe=name, max_new_tokens=2, **given, **gate).cost

    plain, unsure, sure = cost(), cost(gate=1.0), cost(gate=0.0)
    assert plain.forwards == 1 + passes(recipes.card(name).passes)
    again = 1 if name in ("rel-att", "laser") else 0
    assert unsure.forwards == plain.forwards + again
    assert (unsure.prefills, unsure.backwards) == (plain.prefills, plain.backwards)
    assert sure.forwards == 1
    assert not again or (plain.forwards, unsure.forwards) == (5, 6)
