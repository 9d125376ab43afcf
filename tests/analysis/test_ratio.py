"""The ratios equal the paper's figure, worked out pixel by pixel from the arrays of two traces."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

import attnlens
from attnlens import Grid, ImportanceMap, maps
from attnlens.analysis import attention_ratios
from attnlens.errors import AttnLensError
from attnlens.importance import box_ratios
from tests import tiny

QUESTION = "what is written on the red sign?"
GENERIC = "Write a general description of the image."
SIDE = 84  # of the tiny models' vision input: a square image of it has whole-pixel cells of 14
BOX = (14, 28, 42, 42)


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest) -> tiny.Family:
    return request.param


@pytest.fixture(scope="module")
def reading(family: tiny.Family) -> Any:
    model, processor = tiny.build(family)
    lens = attnlens.load(model=model, processor=processor, adapter=family)
    return lens.read(tiny.images("square", 1)[0].resize((SIDE, SIDE)))


def relative(reading: Any, layer: int, k: int, head: int | None) -> np.ndarray:
    """A_rel [rows, cols] at one pair of layers, from the traces' arrays in float64."""

    def attended(question: str) -> np.ndarray:
        trace = reading.trace(question)
        rows = trace.attention[layer].astype(float)
        tokens = rows.mean(axis=0) if head is None else rows[head]
        if trace.connector_attention is None:
            return tokens
        patches = trace.connector_attention[k].astype(float).mean(axis=0)
        return sum(weight * patch for weight, patch in zip(tokens, patches, strict=True))

    reference = attended(GENERIC)
    values = attended(QUESTION) / (reference + 1e-6 * reference.mean())
    return values.reshape(reading.trace(QUESTION).grid.shape)


def ratio(pixels: np.ndarray, box: tuple[int, int, int, int], step: int) -> float:
    """The sum inside `box` over the mean of the sums at every `step` pixels: a plain double loop."""
    x1, y1, x2, y2 = box
    height, width = pixels.shape
    sums = [
        pixels[y : y + y2 - y1, x : x + x2 - x1].sum()
        for y in range(0, height - (y2 - y1) + 1, step)
        for x in range(0, width - (x2 - x1) + 1, step)
    ]
    return pixels[y1:y2, x1:x2].sum() / np.mean(sums)


@pytest.mark.parametrize("heads", [False, True], ids=["head mean", "each head"])
def test_every_ratio_is_the_paper_s(family, reading, heads):
    found = attention_ratios(reading, QUESTION, BOX, heads=heads)
    connector = {"instructblip": 2}.get(family, 1)
    assert found.shape == (connector, 3, 2)[: 2 + heads]
    assert found.dtype == np.float64
    step = SIDE // reading.trace(QUESTION).grid.cols
    for index in np.ndindex(found.shape):
        k, layer, head = (*index, None)[:3]
        pixels = np.kron(relative(reading, layer, k, head), np.ones((step, step)))
        assert found[index] == pytest.approx(ratio(pixels, BOX, step), rel=1e-4)
    assert len(np.unique(found.round(6))) == found.size  # every one of them is another


def test_all_layers_together_are_the_maps_of_each(reading):
    values, grid = maps.relative_attention_by_layer(reading, QUESTION)
    assert grid == reading.trace(QUESTION).grid
    for k, layer in np.ndindex(values.shape[:2]):
        single = maps.relative_attention(reading, QUESTION, layer=layer, connector_layer=k if len(values) > 1 else None)
        assert np.allclose(values[k, layer], single.values, rtol=1e-5)
        ratios = attention_ratios(reading, QUESTION, BOX)
        assert ratios[k, layer] == pytest.approx(single.attention_ratio(BOX), rel=1e-5)


def test_the_released_variant_divides_plainly_by_its_own_prompt(reading):
    values, _ = maps.relative_attention_by_layer(reading, QUESTION, variant="released")
    single = maps.relative_attention(reading, QUESTION, layer=1, connector_layer="mean", variant="released")
    if len(values) == 1:
        assert np.array_equal(values[0, 1], single.values)
    paper, _ = maps.relative_attention_by_layer(reading, QUESTION)
    assert not np.allclose(values, paper)


def test_an_image_that_the_reading_does_not_hold_is_named(reading):
    with pytest.raises(AttnLensError, match="no image 1"):
        maps.relative_attention_by_layer(reading, QUESTION, image=1)


def test_a_box_outside_the_image_is_refused(reading):
    with pytest.raises(AttnLensError, match="outside the image"):
        attention_ratios(reading, QUESTION, (100, 100, 120, 120))


@pytest.mark.parametrize("region", [None, attnlens.Box(20, 0, 80, 60)], ids=["all seen", "centre crop"])
@pytest.mark.parametrize("box", [(3, 4, 33, 21), (0, 0, 100, 60), (95, 1, 100, 3)])
def test_many_maps_at_once_have_the_ratios_of_each(region, box):
    values = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    values[0, 1] = 0
    values[1, 0, 2, 2] = np.nan
    grid = Grid.regular(4, 5, (100, 60), region)
    found = box_ratios(values, grid, box)
    assert found.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert found[index] == pytest.approx(ImportanceMap(values[index], grid).attention_ratio(box), nan_ok=True)
    assert np.isnan(found[0, 1])
    assert np.isnan(found[1, 0])


def test_ratios_cost_next_to_nothing_beyond_two_traces():
    model, processor = tiny.build("llava", layers=4, heads=4, side=336)
    lens = attnlens.load(model=model, processor=processor, adapter="llava")
    reading = lens.read(Image.new("RGB", (400, 300), "red"))
    before = lens.meter.now()
    attention_ratios(reading, QUESTION, (10, 10, 60, 60))
    first = lens.meter.now() - before
    assert first.prefills == 1  # the image comes with the first question
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        attention_ratios(reading, QUESTION, (10, 10, 60, 60), heads=True)
        seconds.append(time.perf_counter() - start)
    assert (lens.meter.now() - before).forwards == first.forwards
    assert min(seconds) < 0.01
