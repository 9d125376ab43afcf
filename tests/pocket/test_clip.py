"""Claims about the bundled CLIP: real, small, whole, and of use to the recipe that it is made for."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from attnlens import croppers, pocket
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.pocket import _library, _scenery, _signs, scenes

COLOURS = list(_signs.COLOURS)


@pytest.fixture(scope="module")
def clip():
    """The model and its processor, from the folder alone."""

    def refused(*_):
        raise OSError("there is no network here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        folder = pocket.cropper_path("clip")
        return transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoProcessor.from_pretrained(folder)


def sign_on(colour: str, seed: int) -> Image.Image:
    """A picture of a validation background and one sign of that colour, an eighth to a third as wide."""
    rng = np.random.default_rng(seed)
    canvas = _scenery.render(rng, _scenery.draw(rng, "validation"), (160, 160))
    side = int(rng.integers(20, 54))
    x, y = (int(edge) for edge in rng.integers(0, 160 - side, size=2))
    _signs.paint(canvas, _signs.Sign(colour, str(rng.integers(10)), (x, y, x + side, y + side)), rng)
    return Image.fromarray(canvas)


@torch.no_grad()
def features(clip, pictures: list[Image.Image], texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of length 1, float32 [pictures, width] and [texts, width]."""
    model, processor = clip
    inputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
    outputs = model(**inputs)
    return outputs.image_embeds, outputs.text_embeds


def test_it_is_a_small_real_clip_that_loads_in_float32_without_a_network(clip):
    model, processor = clip
    assert type(model) is transformers.CLIPModel
    assert type(processor) is transformers.CLIPProcessor
    assert model.dtype == torch.float32
    assert sum(parameter.numel() for parameter in model.parameters()) < 150_000
    assert sum(file.stat().st_size for file in pocket.cropper_path("clip").iterdir()) < 1e6


def test_it_is_no_pocket_mllm_and_an_unknown_name_is_told_the_known_one():
    assert "clip" not in pocket.names()
    with pytest.raises(AttnLensError, match="'yolo'; there is clip"):
        pocket.cropper_path("yolo")
    with pytest.raises(AttnLensError, match="'clip'; there is instructblip"):
        pocket.path("clip")


def test_damaged_weights_are_not_handed_out(tmp_path: Path, monkeypatch):
    shutil.copytree(pocket.cropper_path("clip"), tmp_path / "clip")
    monkeypatch.setattr(_library, "_CROPPERS", tmp_path)
    assert pocket.cropper_path("clip") == tmp_path / "clip"
    weights = tmp_path / "clip" / _library.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(AttnLensError, match="'clip' are damaged"):
        pocket.cropper_path("clip")


def test_the_text_of_a_colour_goes_best_with_the_picture_of_its_sign_and_the_picture_with_the_text(clip):
    texts = [scenes.QUESTION.format(colour=colour) for colour in COLOURS] + [f"{colour} sign" for colour in COLOURS]
    by_picture, by_text = [], []
    for seed in range(8):
        pictures, words = features(clip, [sign_on(colour, seed) for colour in COLOURS], texts)
        cosines = (pictures @ words.T).numpy().reshape(8, 2, 8)
        by_picture += [cosines.argmax(axis=2) == np.arange(8)[:, None]]
        by_text += [cosines.argmax(axis=0) == np.arange(8)]
    assert np.mean(by_picture) > 0.95
    assert np.mean(by_text) > 0.95


def test_a_score_of_the_recipe_s_is_the_cosine_times_the_models_scale(clip):
    pictures = [sign_on("red", 0), sign_on("blue", 1)]
    seen, words = features(clip, pictures, ["red sign"])
    expected = (seen @ words.T)[:, 0] * clip[0].logit_scale.exp()
    scores = croppers.clip_scorer(pocket.cropper_path("clip"))(pictures, "red sign")
    assert scores == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_text_is_read_at_its_end_whatever_stands_beside_it(clip):
    texts = ["red sign", "Is there a green sign in the image? Answer yes or no."]
    pictures = [sign_on("red", 0)]
    (_, together), alone = features(clip, pictures, texts), [features(clip, pictures, [text])[1] for text in texts]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert clip[1].tokenizer("red sign")["input_ids"][-1] == clip[0].config.text_config.eos_token_id


def test_its_crops_hold_the_target_where_centre_crops_as_large_do_not():
    cropper = croppers.clip(croppers.clip_scorer(pocket.cropper_path("clip")))
    held, centred = 0, 0
    for seed in range(8):
        scene = scenes.scene_in_bin(seed, "small", split="validation")
        target, box = Box(*scene.box), cropper(scene.image, scene.question)[0].box
        x, y = ((edge - side) // 2 for edge, side in zip(scene.size, (box.width, box.height), strict=True))
        held += box.covers(target)
        centred += Box(x, y, x + box.width, y + box.height).covers(target)
    assert held >= 7
    assert centred <= 5
