import subprocess
import sys

import numpy as np
import pytest

from attnlens.errors import AttnLensError
from attnlens.pocket import _scenery, _signs, scenes


def test_a_seed_makes_the_same_scene_again():
    first, second = (scenes.scene(seed=7, target_area=0.004) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert (first.question, first.answer, first.box, first.signs) == (
        second.question,
        second.answer,
        second.box,
        second.signs,
    )


def test_seeds_and_splits_make_different_scenes():
    images = {scenes.scene(seed, split=split).image.tobytes() for seed in range(5) for split in scenes.SPLITS}
    assert len(images) == 5 * len(scenes.SPLITS)


@pytest.mark.parametrize("seed", range(30))
def test_the_question_is_about_the_sign_in_the_box(seed):
    scene = scenes.scene(seed)
    target = next(sign for sign in scene.signs if sign.box == scene.box)
    assert scene.question == f"What is written on the {target.colour} sign?"
    assert scene.answer == target.digit
    assert len(scene.answer) == 1
    assert scene.answer.isdigit()
    x1, y1, x2, y2 = scene.box
    ring = np.asarray(scene.image, int)[y1:y2, x1:x2][1:-1, 1]
    near = np.abs(ring - _signs.COLOURS[target.colour]).max(axis=1) <= 16
    assert near[len(ring) // 4 : -len(ring) // 4].mean() > 0.8


@pytest.mark.parametrize("seed", range(20))
def test_signs_are_inside_the_image_apart_and_of_different_colours(seed):
    scene = scenes.scene(seed, size=320)
    assert scene.image.size == (320, 320)
    assert 1 <= len(scene.signs) <= 5
    assert len({sign.colour for sign in scene.signs}) == len(scene.signs)
    covered = np.zeros((320, 320), int)
    for sign in scene.signs:
        x1, y1, x2, y2 = sign.box
        assert 0 <= x1 < x2 <= 320
        assert 0 <= y1 < y2 <= 320
        covered[y1:y2, x1:x2] += 1
    assert covered.max() == 1


@pytest.mark.parametrize("area", [0.001, 0.004, 0.02, 0.12])
def test_the_target_has_the_area_asked_for(area):
    for seed in range(5):
        # A side is a whole number of pixels: half a pixel of 400 either way.
        assert abs(scenes.scene(seed, target_area=area).target_area ** 0.5 - area**0.5) <= 0.5 / 400 + 1e-9


@pytest.mark.parametrize("name", scenes.BINS)
def test_sized_scenes_stay_in_their_bin(name):
    chosen = scenes.BINS[name]
    drawn = [scenes.scene_in_bin(seed, name) for seed in range(60)]
    low, high = chosen.area
    assert all(low <= scene.target_area < high for scene in drawn)
    assert max(scene.target_area for scene in drawn) > 2.5 * min(scene.target_area for scene in drawn)
    sides = [(scene.size[0] * scene.size[1]) ** 0.5 for scene in drawn]
    assert min(sides) > 0.99 * chosen.side[0] - 20
    assert max(sides) < 1.01 * chosen.side[1] + 20


def test_sized_scenes_are_rectangles_of_256_to_2048_pixels():
    sizes = [scenes.scene_in_bin(seed, name).size for seed in range(60) for name in scenes.BINS]
    edges = {edge for size in sizes for edge in size}
    assert min(edges) == 256
    assert 1800 < max(edges) <= 2048
    aspects = [width / height for width, height in sizes]
    assert min(aspects) < 0.6
    assert max(aspects) > 1.7


@pytest.mark.parametrize("task", scenes.TASKS)
@pytest.mark.parametrize("seed", range(15))
def test_every_task_asks_what_the_signs_answer(task, seed):
    scene = scenes.scene_in_bin(seed, "medium", task=task)
    by_colour = {sign.colour: sign for sign in scene.signs}
    named = [name for name in _signs.COLOURS if name in scene.question]
    assert scene.answer == scene.labels[0]
    match task:
        case "read":
            target = by_colour[named[0]]
            assert (scene.answer, scene.box) == (target.digit, target.box)
        case "colour":
            target = by_colour[scene.answer]
            assert scene.box == target.box
            assert f"says {target.digit}?" in scene.question
            assert [sign.digit for sign in scene.signs].count(target.digit) == 1
        case "exists":
            assert (scene.answer == "yes") == (named[0] in by_colour)
            assert scene.box == (by_colour[named[0]].box if scene.answer == "yes" else None)
        case "larger":
            assert scene.answer == max(named, key=lambda name: by_colour[name].side)
        case "left":
            assert scene.answer == min(named, key=lambda name: by_colour[name].centre[0])
        case "describe":
            assert scene.box is None
            assert scene.background.kind in scene.answer
    if task in ("larger", "left"):
        x1, y1, x2, y2 = scene.box
        for name in named:
            a1, b1, a2, b2 = by_colour[name].box
            assert x1 <= a1 < a2 <= x2
            assert y1 <= b1 < b2 <= y2


def test_there_is_and_there_is_not_are_asked_about_equally_often():
    answers = [scenes.scene_in_bin(seed, "small", task="exists").answer for seed in range(200)]
    assert 70 < answers.count("yes") < 130


def test_a_scene_is_painted_only_when_its_image_is_asked_for():
    scene = scenes.scene_in_bin(0, "high")
    assert "image" not in vars(scene)
    assert scene.image.size == scene.size
    assert scene.image is scene.image


def test_backgrounds_of_two_splits_never_overlap():
    rng = np.random.default_rng(0)
    drawn = {
        split: [_scenery.draw(rng, split, aspect) for aspect in (0.5, 1.0, 2.0) for _ in range(300)]
        for split in scenes.SPLITS
    }
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for kind in _scenery.KINDS:
            first = {background.variant for background in drawn[one] if background.kind == kind}
            second = {background.variant for background in drawn[other] if background.kind == kind}
            assert first
            assert second
            if kind in _scenery.TEXTURES:
                assert not first & second
            else:
                assert max(box[2] for box in first) <= min(box[0] for box in second)


def test_every_background_can_be_rendered():
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        background = _scenery.draw(rng, "test", 1.5)
        pixels = _scenery.render(rng, background, (96, 64))
        assert pixels.shape == (64, 96, 3)
        assert pixels.dtype == np.uint8
        kinds.add(background.kind)
    assert kinds == set(_scenery.KINDS)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: scenes.scene(0, split="exam"),
        lambda: scenes.scene(0, 1.5),
        lambda: scenes.scene_in_bin(0, "tiny"),
        lambda: scenes.scene(0, task="sing"),
    ],
)
def test_bad_arguments_are_told_what_is_expected(bad):
    with pytest.raises(AttnLensError, match="must be"):
        bad()


def test_scenes_need_no_torch():
    code = "import sys, attnlens.pocket; attnlens.pocket.scenes.scene(0); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("seed", [-1, 10**18, 10**5000, 1.5, None, "7"], ids=lambda seed: type(seed).__name__)
def test_a_seed_is_a_whole_number_below_a_bound(seed):
    for make in (lambda: scenes.scene(seed), lambda: scenes.scene_in_bin(seed, "small")):
        with pytest.raises(AttnLensError, match="seed must be a whole number"):
            make()
    assert scenes.scene_in_bin(10**18 - 1, "small").labels
