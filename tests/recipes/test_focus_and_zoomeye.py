"""Claims about FOCUS and ZoomEye as recipes: what they ask, in which order, at what cost, and that they find things."""

from __future__ import annotations

import pytest

import attnlens
from attnlens import adapters, maps
from attnlens._images import crop
from attnlens.answers import verify
from attnlens.boxes import Region, tree
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.pocket import scenes
from attnlens.recipes import zoomeye
from attnlens.recipes._targets import targets_in
from attnlens.recipes.focus import _search

EXISTING = "Is there a {target} in the image?"
POCKET = zoomeye.Prompts(EXISTING, EXISTING, None)
ALL_LAYERS = {"layers": (0, 1)}
TYPES = ["llava", "qwen2_vl", "paligemma", "llava_next", "idefics3", "internvl", "mistral3", "glm4v"]


@pytest.fixture(scope="module")
def lens():
    return attnlens.load("pocket/llava")


@pytest.fixture(scope="module")
def small():
    return [scenes.scene_in_bin(seed, "small", split="validation", task="read") for seed in range(12)]


@pytest.mark.parametrize(
    ("question", "targets"),
    [
        ("What is written on the red sign?", ["red sign"]),
        ("Is there a blue sign in the image?", ["blue sign"]),
        ("Which is larger, the cyan sign or the green sign?", ["cyan sign", "green sign"]),
        ("What does the old man say that is on the chair?", ["old man", "chair"]),
    ],
)
def test_targets_are_the_phrases_after_an_article(question, targets):
    assert targets_in(question) == targets


def test_a_question_that_names_nothing_says_how_to_name_it():
    with pytest.raises(AttnLensError, match=r"targets=\['red sign'\]"):
        targets_in("Where are we?")


def right(lens, scenes_, recipe, **options):
    results = [attnlens.ask(lens, one.image, one.question, recipe=recipe, **options) for one in scenes_]
    answers = sum(result.answer in one.labels for result, one in zip(results, scenes_, strict=True))
    return answers / len(scenes_), results


def test_both_find_small_signs_that_the_image_alone_does_not_show(lens, small):
    alone, _ = right(lens, small, "none")
    by_focus, found = right(lens, small, "focus", steps=1, **ALL_LAYERS)
    by_zoomeye, _ = right(lens, small, "zoomeye", prompts=POCKET)
    assert min(by_focus, by_zoomeye) >= alone + 0.3
    assert all(len(result.boxes) == 1 and result.importance is not None for result in found)


def test_the_surest_of_the_first_regions_is_taken_and_no_further_one_is_asked_about(lens, small):
    scene = small[0]
    reading, colour = lens.read(scene.image), scene.question.split(" the ")[1].split()[0]
    asked = EXISTING.format(target=f"{colour} sign")
    boxes = [Box(0, 0, 120, 120), Box(*scene.box), Box(0, 0, *scene.image.size)]
    proposals = [Region(box, 1.0, True) for box in boxes]
    sure = [verify(lens.read(crop(scene.image, box)), asked).yes for box in boxes]
    before = lens.meter.now()
    best, other = _search.ranked(reading, proposals, asked, steps=2, overrun=True)
    assert (lens.meter.now() - before).forwards == 2
    assert best.box == boxes[max(range(2), key=lambda index: sure[index])]
    assert (best.score, other.score) == pytest.approx(sorted(sure[:2], reverse=True), abs=1e-5)


def test_with_overrun_regions_are_asked_about_until_one_says_yes(lens, small):
    scene = small[0]
    reading, colour = lens.read(scene.image), scene.question.split(" the ")[1].split()[0]
    asked = EXISTING.format(target=f"{colour} sign")
    corner = Box(0, 0, 60, 60)
    assert verify(lens.read(crop(scene.image, corner)), asked).yes < 0.5
    proposals = [Region(box, 1.0, True) for box in (corner, corner, Box(*scene.box), corner)]
    before = lens.meter.now()
    assert _search.ranked(reading, proposals, asked, steps=1, overrun=True)[0].box == Box(*scene.box)
    assert (lens.meter.now() - before).prefills == 3
    assert [one.box for one in _search.ranked(reading, proposals, asked, steps=1, overrun=False)] == [corner]


def test_a_map_from_the_question_s_own_cache_adds_no_pass(lens, small):
    scene = small[0]
    (target,) = targets_in(scene.question)

    def looked(**options):
        result = attnlens.ask(lens, scene.image, scene.question, "focus", steps=1, overrun=False, **options)
        return result.importance.values, result.cost.forwards

    values, forwards = looked(prompt="question")
    own = maps.value_similarity(lens.read(scene.image), scene.question, target=target, layers=lens.value_layers)
    assert values == pytest.approx(own.values, rel=1e-4)
    assert forwards == 3  # the question on the image, one region, the answer
    existing, more = looked()
    assert more == 4
    assert existing != pytest.approx(values, rel=1e-4)
    unspelt, most = looked(prompt="question", targets=["round door"])
    assert most == 4
    assert unspelt == pytest.approx(looked(targets=["round door"])[0], rel=1e-4)


def test_a_prompt_that_is_neither_question_is_refused(lens, small):
    with pytest.raises(AttnLensError, match="prompt is 'both'; expected 'existence' or 'question'"):
        attnlens.ask(lens, small[0].image, small[0].question, "focus", prompt="both")


def test_of_several_targets_the_surest_region_comes_first_with_the_map_of_its_image(lens):
    two = [scenes.scene_in_bin(seed, "small", split="validation", task="read") for seed in (1, 2)]
    for images in (two, two[::-1]):
        pictures = [one.image for one in images]
        result = attnlens.ask(lens, pictures, two[0].question, "focus", targets=["red sign", "blue sign"])
        scores = [region.score for region in result.regions]
        assert len(scores) == 2
        assert scores == sorted(scores, reverse=True)
        assert result.importance.grid.image_size == pictures[result.regions[0].image].size


def test_zoomeye_reads_a_region_once_whatever_it_asks(lens, small):
    preset = tree.Preset(100, bias=0.2, depth=1, threshold=1.0, min_threshold=1.0)
    before = lens.meter.now()
    zoomeye.locate(lens.read(small[0].image), small[0].question, preset=preset, prompts=POCKET)
    assert (lens.meter.now() - before).prefills == 5  # the whole and its four parts


@pytest.mark.parametrize("model_type", TYPES)
def test_both_run_without_eager_attention_on(model_type, monkeypatch, no_eager_attention):
    tiny = tiny_lens(model_type, adapters.for_model_type(model_type))
    no_eager_attention(tiny.model)
    monkeypatch.setattr("attnlens.answers._verifier.LEAST", 0.0)  # a random model says anything
    for recipe, options in (("focus", {"steps": 1, "overrun": False}), ("zoomeye", {"preset": tree.Preset(80, 0.2)})):
        result = attnlens.ask(
            tiny, sample_images()[0], "What is on the red sign?", recipe=recipe, max_new_tokens=2, **options
        )
        assert result.cost.prefills > 1


def test_an_unknown_option_is_named(lens, small):
    with pytest.raises(AttnLensError, match="no option layer.*targets, count, steps, overrun"):
        attnlens.ask(lens, small[0].image, small[0].question, recipe="focus", layer=2)


def test_regions_that_are_shown_as_one_are_asked_about_once(lens, small, monkeypatch):
    asked = []

    def counted(reading, question):
        asked.append(reading)
        return verify(reading, question)

    monkeypatch.setattr(zoomeye, "verify", counted)
    image = small[0].image.crop((0, 0, 300, 200))
    confidences = zoomeye._Asked(lens.read(image), image, POCKET, "red sign", small[0].question, 100)
    neighbours = [Box(0, 0, 25, 100), Box(25, 0, 50, 100), Box(50, 0, 75, 100), Box(75, 0, 100, 100)]
    first, second, third, last = confidences.existing(neighbours)
    assert first == second  # both are shown as the 100 pixels at the edge
    assert len(asked) == 3
    assert confidences.existing(neighbours) == [first, second, third, last]
    assert len(asked) == 3
