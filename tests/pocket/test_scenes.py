import subprocess
import sys

import numpy as np
import pytest

from attnlens.errors import AttnLensError
from attnlens.pocket import scenes


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
    assert len(images) == 15


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
    near = np.abs(ring - scenes.COLOURS[target.colour]).max(axis=1) <= 16
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
    low, high = scenes.BINS[name]
    areas = [scenes.sized(seed, name).target_area for seed in range(40)]
    assert all(low <= area < high for area in areas)
    assert max(areas) - min(areas) > (high - low) / 2


def test_backgrounds_of_two_splits_never_overlap():
    rng = np.random.default_rng(0)
    drawn = {split: [scenes.draw_background(rng, split) for _ in range(600)] for split in scenes.SPLITS}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for kind in scenes.KINDS:
            first = {background.variant for background in drawn[one] if background.kind == kind}
            second = {background.variant for background in drawn[other] if background.kind == kind}
            assert first
            assert second
            if kind in scenes.TEXTURES:
                assert not first & second
            else:
                assert max(box[2] for box in first) <= min(box[0] for box in second)


def test_every_background_can_be_rendered():
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        background = scenes.draw_background(rng, "test")
        pixels = scenes.render_background(rng, background, 64)
        assert pixels.shape == (64, 64, 3)
        assert pixels.dtype == np.uint8
        kinds.add(background.kind)
    assert kinds == set(scenes.KINDS)


@pytest.mark.parametrize(
    "bad", [lambda: scenes.scene(0, split="exam"), lambda: scenes.scene(0, 1.5), lambda: scenes.sized(0, "tiny")]
)
def test_bad_arguments_are_told_what_is_expected(bad):
    with pytest.raises(AttnLensError, match="must be"):
        bad()


def test_scenes_need_no_torch():
    code = "import sys, attnlens.pocket; attnlens.pocket.scenes.scene(0); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
