"""Claims about the query contrast: it is the paper's recipe, written plainly on two full eager forwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlens
from attnlens import maps
from attnlens.conformance._report import sample_images
from attnlens.errors import AttnLensError
from attnlens.maps._contrast import strongest
from attnlens.pocket import scenes
from tests import tiny
from tests.lens.reference import reference

QUESTION = "what is written on the red sign?"


def plain(asked: np.ndarray, removed: np.ndarray, count: int) -> np.ndarray:
    """[layers, heads, cells] each, head by head and cell by cell."""
    best, best_score = None, -1.0
    for with_query, without in zip(asked.tolist(), removed.tolist(), strict=True):
        contrasts = [
            [max(0.0, a - b) for a, b in zip(*pair, strict=True)] for pair in zip(with_query, without, strict=True)
        ]
        contrasts.sort(key=lambda cells: -sum(cell * cell for cell in cells))
        top = contrasts[:count]
        score = sum(sum(cell * cell for cell in cells) ** 0.5 for cells in top) / len(top)
        if score > best_score:
            best, best_score = [sum(cells) / len(top) for cells in zip(*top, strict=True)], score
    return np.array(best)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6), st.integers(1, 8))
def test_the_strongest_contrast_equals_the_plain_recipe_on_random_maps(seed, layers, heads, count):
    random = np.random.default_rng(seed)
    asked, removed = (random.uniform(0, 1, (layers, heads, 3, 4)).astype(np.float32) for _ in range(2))
    expected = plain(asked.reshape(layers, heads, 12), removed.reshape(layers, heads, 12), count)
    np.testing.assert_allclose(strongest(asked - removed, count).ravel(), expected, atol=1e-6)


def lens_of(family: tiny.Family, **options: Any) -> Any:
    model, processor = tiny.build(family, **options)
    return attnlens.load(model=model, processor=processor, adapter=family)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("count", [1, 2])
def test_the_map_equals_one_made_from_two_full_eager_forwards(family, count):
    image = tiny.images("landscape", 1)
    found = maps.query_contrast(
        lens_of(family).read(image), QUESTION, top_heads=count, connector_layer=1 if family == "instructblip" else None
    )
    values = []
    for question in (QUESTION, "."):
        full = reference(family, image, question)
        carried = full.attention
        if full.connector is not None:
            carried = carried @ full.connector[1].mean(axis=0)
        values.append(carried)
    expected = plain(*values, count)
    assert expected.max() > 0
    np.testing.assert_allclose(found.values.ravel(), expected, atol=1e-4 * expected.max())


def test_half_of_the_heads_are_top_heads_unless_it_is_said_how_many():
    reading = lens_of("llava", heads=4).read(tiny.images("square", 1))
    made = {count: maps.query_contrast(reading, QUESTION, top_heads=count).values for count in (None, 1, 2, 4, 99)}
    assert (made[None] == made[2]).all()
    assert (made[4] == made[99]).all()
    assert (made[1] != made[2]).any()


def test_a_question_that_is_the_removed_one_adds_nothing():
    reading = lens_of("llava").read(tiny.images("square", 1))
    assert not maps.query_contrast(reading, QUESTION, removed=QUESTION).values.any()


def test_two_traces_give_it_and_that_of_the_removed_question_is_kept():
    lens = lens_of("llava")
    reading = lens.read(tiny.images("square", 1))
    maps.query_contrast(reading, QUESTION)
    before = lens.meter.now()
    maps.query_contrast(reading, "Is there a blue circle?")
    spent = lens.meter.now() - before
    assert (spent.prefills, spent.forwards, spent.backwards) == (0, 2, 0)


def test_each_of_two_images_has_its_own_map():
    images = sample_images()
    reading = lens_of("qwen2_5_vl").read(images)
    for number, image in enumerate(images):
        found = maps.query_contrast(reading, QUESTION, image=number)
        assert found.grid.image_size == image.size
        assert found.values.max() > 0


def test_a_trained_model_s_contrast_stands_out_on_the_target():
    lens = attnlens.load("pocket/llava")
    ratios = []
    for seed in range(6):
        scene = scenes.scene_in_bin(seed, "small", split="validation", task="read")
        ratios.append(maps.query_contrast(lens.read(scene.image), scene.question).attention_ratio(scene.box))
    assert np.median(ratios) > 5


@pytest.mark.parametrize("count", [0, 1.5, "all", -1])
def test_a_number_of_heads_that_is_none_is_refused(count):
    with pytest.raises(AttnLensError, match="expected a whole number of heads"):
        maps.query_contrast(lens_of("llava").read(tiny.images("square", 1)), QUESTION, top_heads=count)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": 1}, "no image 1"),
        ({"connector_layer": 7}, "no connector layer 7"),
        ({"sinks": "drop"}, "expected 'keep'"),
    ],
)
def test_an_option_that_does_not_exist_is_named(options, message):
    with pytest.raises(AttnLensError, match=message):
        maps.query_contrast(lens_of("instructblip").read(tiny.images("square", 1)), QUESTION, **options)
