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
from attnlens.analysis import Candidate, Ranking, rank
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
            assert found.covered[i, j] == (crop.confident and inside >= (x2 - x1) * (y2 - y1) / 2)


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


def test_the_ratio_of_a_row_is_the_mean_with_its_interval():
    values = np.random.default_rng(3).normal(1.2, 0.5, 40)
    (row,) = ranking([[value] for value in values]).rows()
    assert row.ratio == pytest.approx(values.sum() / 40)
    assert row.covered == sum(value > 1 for value in values) / 40
    half = 1.96 * values.std() / 40**0.5
    assert row.interval == pytest.approx([row.ratio - half, row.ratio + half], abs=0.03)
    assert math.isnan(row.right)
    assert math.isnan(row.wrong)


def test_right_and_wrong_answers_are_told_apart():
    (row,) = ranking([[2.0], [8.0], [0.5], [0.25]], right=[True, True, False, False]).rows()
    assert (row.right, row.wrong) == pytest.approx((5, 0.375))
    assert row.right_interval == pytest.approx((2, 8))
    assert row.wrong_interval == pytest.approx((0.25, 0.5))
    (row,) = ranking([[2.0], [8.0]], right=[True, True]).rows()
    assert math.isnan(row.wrong)


def test_one_example_has_a_ratio_and_no_interval():
    (row,) = ranking([[3.0]]).rows()
    assert row.ratio == 3
    assert all(math.isnan(edge) for edge in row.interval)


def test_examples_that_all_agree_have_an_interval_of_no_width():
    (row,) = ranking([[3.0], [3.0]]).rows()
    assert row.interval == (3, 3)


def test_examples_without_a_ratio_do_not_count_and_layers_without_any_never_win():
    found = ranking([[2, math.nan, math.nan], [8, 4, math.nan]])
    assert [row.ratio for row in found.rows()[:2]] == pytest.approx([5, 4])
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
        scene = scenes.scene_in_bin(seed, "medium", split="validation")
        given.append(Example(str(seed), scene.question, scene.labels, scene.image, scene.box))
    found = rank(attnlens.load("pocket/llava"), given)
    assert found.best().ratio > 1
    assert found.best_layer() != 0


def test_the_best_crops_may_come_from_another_map_than_the_highest_ratio():
    values = np.array([[30.0, 4.0], [2.0, 3.0]])
    covered = np.array([[True, True], [False, True]])
    found = Ranking((Candidate(0), Candidate("mean")), values, covered, None, depth=1)
    assert found.best_layer() == 0
    assert found.best_layer(by="crops") == "mean"
    tied = Ranking((Candidate(0), Candidate("mean")), values, np.ones_like(covered), None, depth=1)
    assert tied.best_layer(by="crops") == 0
