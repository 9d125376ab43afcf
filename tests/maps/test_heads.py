"""Claims about localization heads: elbow, components and entropy are the paper's, written again in plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlens
from attnlens import maps
from attnlens.errors import AttnLensError
from attnlens.maps._heads import Head, focused, rank_heads, spatial_entropy
from attnlens.pocket import scenes
from tests import tiny
from tests.lens.reference import reference

QUESTION = "what is written on the red sign?"


def flooded(cells: list[list[float]]) -> float:
    """The entropy of the masses of the 8-connected pieces above the mean, by a flood fill."""
    values = [value for row in cells for value in row]
    mean = sum(values) / len(values)
    left = {(r, c) for r, row in enumerate(cells) for c, value in enumerate(row) if value > mean}
    masses = []
    while left:
        piece = [left.pop()]
        for r, c in piece:
            near = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            piece += near
        masses.append(sum(cells[r][c] for r, c in piece))
    total = sum(masses)
    return -sum(mass / total * math.log(mass / total) for mass in masses) if masses else math.inf


def above(sums: np.ndarray) -> list[tuple[int, int]]:
    """Where the sums are that come before the sorted ones, largest first, lie farthest below the straight line from
    first to last; the largest alone where none lies below it."""
    ordered = sorted(sums.ravel().tolist(), reverse=True)
    last = len(ordered) - 1
    below = {i: ordered[0] + (ordered[-1] - ordered[0]) * i / last - ordered[i] for i in range(1, last)}
    first = max(below, key=lambda i: below[i], default=0)
    limit = ordered[first] if below and below[first] > 0 else ordered[1]
    return [(i, j) for i, row in enumerate(sums.tolist()) for j, one in enumerate(row) if one > limit]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 8]))
def test_spatial_entropy_equals_that_of_a_flood_fill(seed, rows, cols, power):
    values = np.random.default_rng(seed).uniform(0, 1, (2, 3, rows, cols)) ** power
    found = spatial_entropy(values.astype(np.float32))
    expected = [[flooded(one.astype(np.float32).astype(float).tolist()) for one in some] for some in values]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_piece_has_no_entropy_two_equal_ones_that_of_a_coin_and_a_flat_map_is_never_chosen():
    one, corner, two = np.zeros((3, 6, 6), dtype=np.float32)
    one[1:3, 1:3] = 1
    corner[1, 1] = corner[2, 2] = 1
    two[0, 0] = two[4, 4] = 1
    flat = np.full((6, 6), 0.5, dtype=np.float32)
    assert spatial_entropy(np.stack([one, corner, two, flat])).tolist() == [0, 0, pytest.approx(math.log(2)), math.inf]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 6))
def test_heads_above_the_elbow_come_by_entropy_then_by_attention(seed, layers, heads):
    random = np.random.default_rng(seed)
    sums = random.uniform(0, 1, (layers, heads)) ** 4  # convex: few look much
    entropies = random.integers(0, 3, (layers, heads)).astype(float)
    numbers = [3 * layer + 1 for layer in range(layers)]
    expected = sorted((entropies[at], -sums[at], (numbers[at[0]], at[1])) for at in above(sums))
    found = rank_heads(numbers, sums, entropies)
    assert [one.head for one in found] == [head for _, _, head in expected]
    assert [one.entropy for one in found] == [entropy for entropy, _, _ in expected]


def lens_of(family: tiny.Family, **options: Any) -> Any:
    model, processor = tiny.build(family, **options)
    return attnlens.load(model=model, processor=processor, adapter=family)


def carried(family: tiny.Family, image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Every head's map and its attention to the image, from a full eager forward."""
    full = reference(family, image, QUESTION)
    rows = full.attention if full.connector is None else full.attention @ full.connector[0].mean(axis=0)
    return rows, full.attention.sum(axis=-1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_map_is_the_mean_of_the_raw_attention_of_the_heads(family):
    image = tiny.images("landscape", 1)
    found = maps.head_attention(lens_of(family).read(image), QUESTION, [(2, 1), (0, 0), (1, 1)], connector_layer=0)
    rows, _ = carried(family, image)
    expected = (rows[2, 1] + rows[0, 0] + rows[1, 1]) / 3
    np.testing.assert_allclose(found.values.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_without_heads_the_three_most_focused_of_this_sample_are_averaged(family):
    image = tiny.images("portrait", 1)
    reading = lens_of(family).read(image)
    options = {"connector_layer": 0} if family == "instructblip" else {}
    rows, sums = carried(family, image)
    found = maps.head_attention(reading, QUESTION, **options)
    kept = above(sums)
    grid = [rows[i, j].reshape(found.grid.shape).astype(float).tolist() for i, j in kept]
    order = sorted(range(len(kept)), key=lambda n: (round(flooded(grid[n]), 6), -sums[kept[n]]))
    chosen = [kept[n] for n in order[:3]]
    assert [tuple(one.head) for one in focused(reading, QUESTION, **options)[:3]] == chosen
    expected = sum(rows[head] for head in chosen) / len(chosen)
    np.testing.assert_allclose(found.values.ravel(), expected, atol=1e-5)


def test_one_trace_gives_it():
    lens = lens_of("llava")
    reading = lens.read(tiny.images("square", 1))
    reading.trace(QUESTION)
    before = lens.meter.now()
    maps.head_attention(reading, QUESTION)
    maps.head_attention(reading, QUESTION, [Head(0, 1)])
    assert (lens.meter.now() - before).forwards == 0


def test_the_second_of_two_images_is_looked_at_by_itself():
    images = tiny.images("portrait", 2)
    reading = lens_of("qwen2_5_vl").read(images)
    full = reference("qwen2_5_vl", images, QUESTION)
    found = maps.head_attention(reading, QUESTION, [(1, 0)], image=1)
    assert found.grid.image_size == images[1].size
    np.testing.assert_allclose(found.values.ravel(), full.attention[1, 0, -found.values.size :], atol=1e-5)


def test_a_trained_model_s_focused_heads_look_at_the_target():
    lens = attnlens.load("pocket/llava")
    ratios = []
    for seed in range(6):
        scene = scenes.scene_in_bin(seed, "small", split="validation", task="read")
        ratios.append(maps.head_attention(lens.read(scene.image), scene.question).attention_ratio(scene.box))
    assert np.median(ratios) > 5


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([(9, 0)], "no head 0 at layer 9"),
        ([(0, 2)], "no head 2 at layer 0"),
        ([(0, -1)], "no head -1"),
        ([], "the list is empty"),
        *(
            (heads, "expected pairs")
            for heads in [[1], "x", [(2,)], [(2, 1, 3)], 3, (2, 1), {"a": 1}, [(2.0, 1.0)], [[2, "1"]], [(True, 0)]]
        ),
    ],
)
def test_a_head_that_is_not_there_is_named(heads, message):
    with pytest.raises(AttnLensError, match=message):
        maps.head_attention(lens_of("llava").read(tiny.images("square", 1)), QUESTION, heads)


@pytest.mark.parametrize("heads", [[[2, 1], [0, 0]], np.array([(2, 1), (0, 0)])], ids=type)
def test_heads_may_be_lists_or_an_array(heads):
    reading = lens_of("llava").read(tiny.images("square", 1))
    expected = maps.head_attention(reading, QUESTION, [(2, 1), (0, 0)]).values
    np.testing.assert_array_equal(maps.head_attention(reading, QUESTION, heads).values, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda reading, **options: maps.head_attention(reading, QUESTION, [(0, 1), (2, 0)], **options),
        lambda reading, **options: maps.word_attention(
            reading, QUESTION, target="red sign", layer="mean", instruction=0, sigma=0, **options
        ),
        lambda reading, **options: maps.query_contrast(reading, QUESTION, top_heads=1, **options),
    ],
    ids=["heads", "words", "contrast"],
)
def test_a_sink_stands_out_from_nothing(make, monkeypatch):
    reading = lens_of("llava").read(tiny.images("square", 1))
    kept = make(reading).values
    sink = kept.argmax()
    marks = np.zeros((3, kept.size), dtype=bool)
    marks[:, sink] = True
    monkeypatch.setattr(type(reading), "sinks", lambda *_: marks)
    found = make(reading, sinks="mask").values
    others = np.delete(found.ravel(), sink)
    assert found.ravel()[sink] - others.min() <= 0.1 * (others.max() - others.min())
