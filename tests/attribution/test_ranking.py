"""Claims about the ranking: each figure is what its examples say, and data that cannot rank is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

import attnlens
from attnlens import boxes, maps
from attnlens.attribution import Candidate, Ranking, rank
from attnlens.errors import AttnLensError
from tests import tiny

QUESTIONS = ("what is written on the red sign?", "Is there a blue circle in this picture?")


@dataclass(frozen=True)
class Example:
    id: str
    question: str
    labels: tuple[str, ...]
    image: Image.Image
    box: tuple[int, int, int, int] | None

    def open(self) -> Image.Image:
        return self.image


def lens_of(family: tiny.Family) -> Any:
    model, processor = tiny.build(family)
    spec = attnlens.adapters.find(family)
    window = spec.defaults.model_copy(update={"window": 30})
    return attnlens.load(model=model, processor=processor, adapter=spec.model_copy(update={"defaults": window}))


def examples() -> list[Example]:
    corners = [(20, 20, 60, 50), (40, 30, 90, 80)]
    images = tiny.images("square")
    return [
        Example(str(i), question, (f"label {i}",), image, box)
        for i, (question, image, box) in enumerate(zip(QUESTIONS, images, corners, strict=True))
    ]


def ranking(values: list[list[float]], right: list[bool] | None = None, candidates: Any = None) -> Ranking:
    array = np.array(values)
    candidates = candidates or tuple(Candidate(layer) for layer in range(array.shape[1]))
    judged = None if right is None else np.array(right)
    return Ranking(candidates, array, array > 1, judged, depth=array.shape[1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("heads", [False, True], ids=["layers", "heads too"])
def test_every_candidate_has_the_ratio_and_the_crop_of_its_own_map(family, heads):
    lens = lens_of(family)
    found = rank(lens, examples(), heads=heads)
    connector = [0, 1] if family == "instructblip" else [None]
    pairs = [(layer, k) for k in connector for layer in range(3)]
    mean = ("mean", "mean" if family == "instructblip" else None)
    single = [(*pair, head) for pair in pairs for head in range(2)] if heads else []
    assert [tuple(c) for c in found.candidates] == [(*pair, None) for pair in [*pairs, mean]] + single
    assert found.depth == 3
    for i, example in enumerate(examples()):
        reading = lens.read(example.image)
        for j, (layer, k, head) in enumerate(found.candidates):
            if head is not None:
                values, grid = maps.relative_attention_by_layer(reading, example.question, heads=True)
                importance = attnlens.ImportanceMap(values[k or 0, layer, head], grid)
            else:
                importance = maps.relative_attention(reading, example.question, layer=layer, connector_layer=k)
            assert found.values[i, j] == pytest.approx(importance.attention_ratio(example.box), rel=1e-4)
            crop = boxes.search(importance, window=30)[0]
            x1, y1, x2, y2 = example.box
            inside = sum(
                crop.box.x1 <= x < crop.box.x2 and crop.box.y1 <= y < crop.box.y2
                for x in range(x1, x2)
                for y in range(y1, y2)
            )
            assert found.holds[i, j] == (crop.confident and inside >= (x2 - x1) * (y2 - y1) / 2)


def test_answers_are_asked_for_and_judged_only_when_they_are_wanted():
    lens = lens_of("llava")
    asked: list[tuple[str, tuple[str, ...]]] = []

    def right(answer: str, labels: Any) -> bool:
        asked.append((answer, labels))
        return labels == ("label 1",)

    assert rank(lens, examples()).right is None
    found = rank(lens, examples(), right=right, max_new_tokens=3)
    assert found.right.tolist() == [False, True]
    expected = [lens.read(e.image).answer(e.question, 3).text for e in examples()]
    assert asked == [(text, e.labels) for text, e in zip(expected, examples(), strict=True)]


def test_progress_is_told_after_every_example():
    done: list[int] = []
    rank(lens_of("llava"), iter(examples()), progress=done.append)
    assert done == [1, 2]


def test_the_ratio_of_a_row_is_the_geometric_mean_with_its_interval():
    logs = np.random.default_rng(3).normal(0.5, 1, 40)
    (row,) = ranking([[value] for value in np.exp(logs)]).rows()
    assert row.ratio == pytest.approx(np.prod(np.exp(logs)) ** (1 / 40))
    assert row.mean_ratio == pytest.approx(np.exp(logs).mean())
    assert row.holds == np.mean(logs > 0)
    half = 1.96 * logs.std() / 40**0.5
    assert np.log(row.interval) == pytest.approx([logs.mean() - half, logs.mean() + half], abs=0.05)
    assert math.isnan(row.right)
    assert math.isnan(row.wrong)


def test_right_and_wrong_answers_are_told_apart():
    (row,) = ranking([[2.0], [8.0], [0.5], [0.125]], right=[True, True, False, False]).rows()
    assert (row.right, row.wrong) == pytest.approx((4, 0.25))
    assert row.right_interval[0] <= 4 <= row.right_interval[1]
    assert row.wrong_interval[0] <= 0.25 <= row.wrong_interval[1]
    (row,) = ranking([[2.0], [8.0]], right=[True, True]).rows()
    assert math.isnan(row.wrong)


def test_one_huge_ratio_does_not_make_a_layer_the_best():
    found = ranking([[2, 4]] * 5 + [[100, 4]])
    assert found.values.mean(axis=0).argmax() == 0
    assert found.best_layer() == 1


def test_a_target_that_was_not_seen_does_not_make_a_mean_zero():
    rows = ranking([[0, 0], [4, 9]]).rows()
    assert [row.ratio for row in rows] == pytest.approx([(1e-3 * 4) ** 0.5, (1e-3 * 9) ** 0.5])


def test_examples_without_a_ratio_do_not_count_and_layers_without_any_never_win():
    found = ranking([[2, math.nan, math.nan], [8, 4, math.nan]])
    assert [row.ratio for row in found.rows()[:2]] == pytest.approx([4, 4])
    assert math.isnan(found.rows()[2].ratio)
    assert found.best_layer() == 0
    with pytest.raises(AttnLensError, match="No layer has an attention ratio"):
        ranking([[math.nan], [math.nan]]).best()


def test_the_mean_of_all_layers_may_win_and_a_head_may_not():
    candidates = (Candidate(0, 1), Candidate("mean", "mean"), Candidate(0, 1, 0))
    found = ranking([[2, 3, 9]], candidates=candidates)
    assert found.best_layer() == "mean"
    assert found.best_connector_layer() == "mean"
    found = ranking([[4, 3, 9]], candidates=candidates)
    assert (found.best_layer(), found.best_connector_layer()) == (0, 1)


def test_an_example_without_a_box_is_named_before_anything_is_read():
    good, other = examples()
    bad = Example("the third", "Why?", (), None, None)
    with pytest.raises(AttnLensError, match="1 of 3 examples have no box, the first is 'the third'"):
        rank(None, [good, other, bad])


def test_no_example_at_all_is_refused():
    with pytest.raises(AttnLensError, match="no example"):
        rank(None, [])


def test_a_trained_model_looks_at_the_target_more_than_its_first_layer_does():
    from attnlens.pocket import scenes

    given = []
    for seed in range(6):
        scene = scenes.sized(seed, "medium", split="validation")
        given.append(Example(str(seed), scene.question, scene.labels, scene.image, scene.box))
    found = rank(attnlens.load("pocket/llava"), given)
    assert found.best().ratio > 1
    assert found.best_layer() != 0
