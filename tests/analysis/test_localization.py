"""Claims about the choice of localization heads: the most frequent among the most focused, sample by sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

import attnlens
from attnlens.analysis import _localization, localization_heads
from attnlens.errors import AttnLensError
from attnlens.maps._heads import Head, HeadEntropy, focused
from attnlens.pocket import scenes
from tests import tiny

QUESTIONS = ("what is written on the red sign?", "Is there a blue circle in this picture?")


@dataclass(frozen=True)
class Example:
    question: str
    image: Any

    def open(self) -> Any:
        return self.image


def lens_of(family: tiny.Family, **options: Any) -> Any:
    model, processor = tiny.build(family, **options)
    return attnlens.load(model=model, processor=processor, adapter=family)


def examples() -> list[Example]:
    return [Example(question, image) for question in QUESTIONS for image in tiny.images("square", 2)]


def planted(monkeypatch: Any, samples: list[list[tuple[int, int, float]]]) -> list[Example]:
    """As many examples as samples, of which each shows these heads and entropies, in this order."""
    left = [[HeadEntropy(Head(layer, head), entropy) for layer, head, entropy in sample] for sample in samples]
    monkeypatch.setattr(_localization, "focused", lambda *_, **__: left.pop(0))
    return [Example("?", tiny.images("square", 1)[0])] * len(samples)


@pytest.mark.parametrize("family", ["llava", "instructblip"])
@pytest.mark.parametrize("lowest", [1, 2, 10])
def test_the_heads_are_the_most_frequent_among_the_lowest(family, lowest):
    lens = lens_of(family, heads=4)
    votes: Counter[tuple[int, int]] = Counter()
    for example in examples():
        votes.update(one.head for one in focused(lens.read(example.image), example.question)[:lowest])
    found = localization_heads(lens, examples(), count=2, lowest=lowest)
    frequencies = sorted(votes.values(), reverse=True)
    assert [votes[head] for head in found] == frequencies[:2]
    assert len(set(found)) == len(found)


def test_only_the_lowest_of_a_sample_are_counted_and_the_most_frequent_come_first(monkeypatch):
    a, b, c = (0, 0), (1, 1), (2, 0)
    samples = [
        [(*a, 0.0), (*b, 0.1), (*c, 0.2)],
        [(*b, 0.0), (*a, 0.1), (*c, 0.2)],
        [(*b, 0.3), (*c, 0.4), (*a, 0.5)],
    ]
    given = planted(monkeypatch, samples)
    assert localization_heads(lens_of("llava"), given, lowest=2) == (b, a, c)


def test_of_equally_frequent_heads_the_one_of_lower_entropy_comes_first(monkeypatch):
    samples = [[(0, 0, 0.5), (1, 1, 0.6)], [(1, 1, 0.1), (0, 0, 0.9)]]
    given = planted(monkeypatch, samples)
    assert localization_heads(lens_of("llava"), given, count=1) == ((1, 1),)


def test_fewer_heads_come_back_where_fewer_were_counted(monkeypatch):
    given = planted(monkeypatch, [[(2, 1, 0.0)]] * 2)
    assert localization_heads(lens_of("llava"), given, count=3) == ((2, 1),)


def test_progress_is_told_after_every_example():
    done: list[int] = []
    localization_heads(lens_of("llava"), iter(examples()), progress=done.append)
    assert done == [1, 2, 3, 4]


def test_the_heads_of_a_trained_model_look_at_the_target_more_than_all_heads_do():
    lens = attnlens.load("pocket/qwen2_5_vl")
    train = [scenes.scene_in_bin(seed, "small", split="train", task="read") for seed in range(12)]
    heads = localization_heads(lens, [Example(scene.question, scene.image) for scene in train])
    everyone = [(layer, head) for layer in lens._host.structure.layers for head in range(4)]
    ratios = []
    for seed in range(6):
        scene = scenes.scene_in_bin(seed, "small", split="validation", task="read")
        reading = lens.read(scene.image)
        ratios.append(
            [
                attnlens.maps.head_attention(reading, scene.question, chosen).attention_ratio(scene.box)
                for chosen in (heads, everyone)
            ]
        )
    assert sum(few > all_of_them for few, all_of_them in ratios) >= 5


def test_no_example_at_all_is_refused():
    with pytest.raises(AttnLensError, match="no example"):
        localization_heads(lens_of("llava"), [])


@pytest.mark.parametrize("options", [{"count": 0}, {"lowest": 0}, {"lowest": 2.5}])
def test_a_number_that_is_none_is_refused(options):
    with pytest.raises(AttnLensError, match="expected a whole number of heads"):
        localization_heads(lens_of("llava"), examples(), **options)
