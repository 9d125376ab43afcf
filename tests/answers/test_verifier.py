"""Claims about yes and no: the probabilities are those of a plain forward, over all ways to write the two words."""

from __future__ import annotations

import numpy as np
import pytest

import attnlens
from attnlens.answers import verify, verify_crops
from attnlens.errors import AttnLensError
from attnlens.pocket import scenes

QUESTION = "Is there a {colour} sign in the image?"


@pytest.fixture(scope="module")
def lens():
    return attnlens.load("pocket/llava")


def coloured(seed: int, present: bool):
    """A scene and a question about a sign that is or is not in it."""
    for number in range(seed, seed + 200):
        scene = scenes.scene_in_bin(number, "large", split="validation", task="exists")
        if (scene.answer == "yes") is present:
            return scene
    raise AssertionError


@pytest.mark.parametrize("present", [True, False])
def test_a_sign_that_is_there_is_confirmed_and_one_that_is_not_is_denied(lens, present):
    scene = coloured(0, present)
    verdict = verify(lens.read(scene.image), scene.question)
    assert (verdict.yes > 0.5) is present
    assert verdict.mass > 0.9
    assert verdict.confidence == pytest.approx(2 * (verdict.yes - 0.5))


def test_the_probability_is_the_softmax_of_a_plain_forward_over_the_variants(lens):
    scene = coloured(3, True)
    reading = lens.read(scene.image)
    log_probs = reading.next_token(scene.question)
    words = lens.tokenizer
    ids = {
        word: {words.encode(v, add_special_tokens=False)[0] for v in variants} for word, variants in VARIANTS.items()
    }
    yes, no = (np.exp(log_probs[sorted(ids[word])]).sum() for word in ("yes", "no"))
    assert verify(reading, scene.question).yes == pytest.approx(yes / (yes + no), rel=1e-5)
    assert np.exp(log_probs).sum() == pytest.approx(1, rel=1e-4)


VARIANTS = {
    word: [space + form for space in ("", " ") for form in (word, word.title(), word.upper())] for word in ("yes", "no")
}


def test_each_crop_is_asked_about_by_itself(lens):
    scene = scenes.scene_in_bin(1, "small", split="validation", task="read")
    colour = scene.question.split(" the ")[1].split()[0]
    asked = QUESTION.format(colour=colour)
    corner = (0, 0, 100, 100)
    there, elsewhere = verify_crops(lens.read(scene.image), [scene.box, corner], asked)
    assert there.yes > 0.9
    assert elsewhere.yes < there.yes
    alone = verify(lens.read(attnlens._images.crop(scene.image, attnlens.Box(*scene.box))), asked)
    assert (there.yes, there.mass) == pytest.approx((alone.yes, alone.mass), abs=1e-5)


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4))], ids=type)
def test_of_no_crop_there_is_no_verdict(lens, boxes):
    scene = scenes.scene_in_bin(1, "small", split="validation", task="read")
    assert verify_crops(lens.read(scene.image), boxes, QUESTION.format(colour="red")) == []


def test_a_question_that_is_not_answered_with_yes_or_no_is_refused(lens):
    scene = scenes.scene_in_bin(1, "large", split="validation", task="read")
    with pytest.raises(AttnLensError, match=r"neither with yes nor with no.*Answer Yes or No"):
        verify(lens.read(scene.image), scene.question)
