"""Claims about maps of several maps: what they compute, and who gets which option."""

from __future__ import annotations

from functools import partial
from inspect import signature

import numpy as np
import pytest

import attnlens
from attnlens import AttnLensError, Grid, ImportanceMap, Recipe, maps
from attnlens.pocket import scenes

GRID = Grid.regular(2, 2, (20, 20))
ONE, OTHER = [[1, 2], [3, 4]], [[30, 10], [0, 60]]


def fixed(values):
    return lambda reading, question: ImportanceMap(values, GRID)


def scaled(reading, question, factor=1.0, *, shift=0.0):
    return ImportanceMap(np.array(ONE) * factor + shift, GRID)


def masked(reading, question, layer=None, *, shift=0.0):
    return ImportanceMap(np.array(OTHER) + shift, GRID)


@pytest.fixture(scope="module")
def lens():
    return attnlens.load("pocket/llava")


@pytest.fixture(scope="module")
def scene():
    return scenes.scene_in_bin(3, "small", split="validation", task="read")


def test_a_product_is_what_the_maps_agree_on():
    found = maps.product(fixed(ONE), fixed(OTHER))(None, "What?")
    assert found.values.ravel() == pytest.approx(np.array([30, 20, 0, 240]) / 290)


def test_an_average_weighs_every_map_alike_whatever_its_scale():
    found = maps.average(fixed(ONE), fixed(OTHER))(None, "What?")
    assert found.values.ravel() == pytest.approx([(0.1 + 0.3) / 2, (0.2 + 0.1) / 2, 0.3 / 2, (0.4 + 0.6) / 2])
    assert found.values.sum() == pytest.approx(1)


def test_an_option_goes_to_every_map_that_takes_it_and_to_no_other():
    found = maps.average(scaled, masked)(None, "What?", shift=10, layer=3)
    one, other = np.array(ONE) + 10, np.array(OTHER) + 10
    assert found.values == pytest.approx((one / one.sum() + other / other.sum()) / 2)


@pytest.mark.parametrize("combine", [maps.product, maps.average])
def test_an_option_that_no_map_takes_is_named(combine):
    with pytest.raises(AttnLensError, match="option colour. Expected: factor, shift, layer"):
        combine(scaled, masked)(None, "What?", colour=3, shift=1)
    with pytest.raises(AttnLensError, match="option layer. Expected: none"):
        combine(fixed(ONE))(None, "What?", layer=3)


def test_combined_maps_combine_again_and_show_the_options_of_all():
    nested = maps.average(maps.product(scaled, fixed(ONE)), partial(masked, layer=2))
    assert list(signature(nested).parameters) == ["reading", "question", "factor", "shift", "layer"]
    inner = (np.array(ONE) + 1) * np.array(ONE)
    other = np.array(OTHER) + 1
    assert nested(None, "What?", shift=1).values == pytest.approx((inner / inner.sum() + other / other.sum()) / 2)


@pytest.mark.parametrize("combine", [maps.product, maps.average])
def test_what_cannot_be_combined_is_refused(combine):
    with pytest.raises(AttnLensError, match="at least one"):
        combine()
    with pytest.raises(AttnLensError, match="is no map"):
        combine(ImportanceMap(ONE, GRID))
    elsewhere = ImportanceMap(ONE, Grid.regular(2, 2, (30, 20)))
    with pytest.raises(AttnLensError, match="different grids"):
        combine(fixed(ONE), lambda reading, question: elsewhere)(None, "What?")


def test_maps_of_three_methods_multiply_cell_by_cell(lens, scene):
    reading = lens.read(scene.image)
    functions = [maps.relative_attention, maps.gradient_attention, maps.input_gradient]
    parts = [function(reading, scene.question).values.astype(np.float64) for function in functions]
    plain = parts[0] * parts[1] * parts[2]
    found = maps.product(*functions)(reading, scene.question).values
    assert found == pytest.approx(plain / plain.sum(), rel=1e-4, abs=1e-7)


def test_a_recipe_takes_a_combined_map_and_its_options(lens, scene):
    both = maps.product(maps.relative_attention, maps.gradient_attention)
    recipe = Recipe(map=both, search=attnlens.boxes.components)
    result = attnlens.ask(lens, scene.image, scene.question, recipe=recipe, layer="mean", generic="Describe it.")
    assert result.answer in scene.labels
    with pytest.raises(AttnLensError, match="no option colour"):
        attnlens.ask(lens, scene.image, scene.question, recipe=recipe, colour="red")
