"""`ask` puts the stages together, says what each cost, and refuses what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import attnlens
from attnlens import answers, boxes, maps, recipes
from attnlens.boxes import Found
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
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
    monkeypatch.setattr("attnlens.answers.verifier.LEAST", 0.0)  # a random model says yes to nothing
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
        search=lambda importance: [Found(Box(0, 0, 50, 60), 1.0, True)],
        answer=answers.replace,
    )
    result = attnlens.ask(lens, image, QUESTION, recipe, max_new_tokens=4)
    assert result.boxes == [Box(0, 0, 50, 60)]
    assert result.answer == lens.read(image.crop((0, 0, 50, 60))).answer(QUESTION, 4).text


def test_the_window_comes_from_the_adapter_unless_the_recipe_says(
    lens: Any, image: Image.Image, tmp_path: Path
) -> None:
    by_default = attnlens.ask(lens, image, QUESTION, recipe="rel-att", max_new_tokens=2)
    expected = boxes.search(by_default.importance, window=lens.spec.defaults.window)[0].box
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
    ],
)
def test_a_recipe_file_that_does_not_fit_says_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(AttnLensError, match=message):
        recipes.named(file)


def test_every_recipe_has_a_card_of_single_lines() -> None:
    for name in recipes.names():
        card = recipes.card(name)
        assert all(len(text.splitlines()) == 1 for text in (card.signal, card.passes, card.regions))
        assert name == "none" or "arXiv" in card.source
