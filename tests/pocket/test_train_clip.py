"""Claims about the pocket CLIP's training code: what it is shown, what it is told, and that a run goes on."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress
from transformers import CLIPModel

from attnlens.geometry import Box
from attnlens.pocket import _library, _scenery, _signs, scenes
from benchmarks.training import clip, package, plans, towers

ROOT = Path(__file__).parents[2]
SILENT = Progress(disable=True)


def test_crops_are_those_the_processor_makes_of_scenes_of_the_training_split(monkeypatch):
    drawn, windows, draw, window = [], [], _scenery.draw, clip.window

    def noting(rng, split, aspect=1.0):
        drawn.append(split)
        return draw(rng, split, aspect)

    def kept(rng, scene):
        windows.append((scene, window(rng, scene)))
        return windows[-1][1]

    monkeypatch.setattr(_scenery, "draw", noting)
    monkeypatch.setattr(clip, "window", kept)
    pixels, shown = clip.cuts(2, 0, SILENT)
    assert set(drawn) == {"train"}
    assert (pixels.shape[:2], shown.shape) == ((2, clip.CROPS), (2, clip.CROPS, 8))
    processor = package.clip(clip.tokenizer())
    for index in (0, 1):
        each = windows[index * (clip.CROPS - 1) :][: clip.CROPS - 1]
        scene = each[0][0]
        boxes = [Box(0, 0, *scene.size), *(box for _, box in each)]
        crops = [scene.image.crop(tuple(map(int, box))) for box in boxes]
        made = processor(images=crops, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(towers.normalise(pixels[index]), made, atol=0.02, rtol=0)
        for box, share in zip(boxes, shown[index], strict=True):
            np.testing.assert_array_equal(share, clip.shares(scene, box))


def test_a_share_is_the_part_of_the_crops_pixels_that_are_the_signs():
    scene = scenes.scene_in_bin(3, "medium", split="train")
    box = Box(*scene.signs[0].box)._replace(x2=scene.size[0], y2=scene.size[1])
    owner = np.full(scene.size[::-1], -1)
    for sign in scene.signs:
        x1, y1, x2, y2 = sign.box
        owner[y1:y2, x1:x2] = list(_signs.COLOURS).index(sign.colour)
    inside = owner[int(box.y1) :, int(box.x1) :]
    expected = [(inside == colour).mean() for colour in range(8)]
    assert max(expected) > 0
    np.testing.assert_allclose(clip.shares(scene, box), expected, rtol=1e-6)


def test_windows_are_the_sizes_of_the_recipes_crops_inside_the_image():
    rng = np.random.default_rng(0)
    areas = []
    for seed in range(60):
        scene = scenes.scene_in_bin(seed, "small", split="train")
        width, height = scene.size
        for _ in range(10):
            box = clip.window(rng, scene)
            assert 0 <= box.x1 < box.x2 <= width
            assert 0 <= box.y1 < box.y2 <= height
            steps = [math.log(part) / math.log(0.9) for part in (box.width / width, box.height / height)]
            assert sum(steps) < 20.3
            assert all(abs(step - round(step)) < 0.2 for step in steps)
            areas.append(box.area / (width * height))
    assert min(areas) < 0.13
    assert max(areas) == 1


def plainly(logits, shares):
    """The loss, one row at a time."""

    def crosses(rows):
        found = []
        for scores, parts in rows:
            roots = [math.sqrt(part) if part > 1e-4 else 0.0 for part in parts]
            if sum(roots):
                whole = math.log(sum(math.exp(score) for score in scores))
                found.append(sum(r / sum(roots) * (whole - s) for r, s in zip(roots, scores, strict=True)))
        return sum(found) / len(found)

    scenes_, crops, colours = logits.shape
    by_crop = [(logits[s, c], shares[s, c]) for s in range(scenes_) for c in range(crops)]
    by_colour = [(logits[s, :, k], shares[s, :, k]) for s in range(scenes_) for k in range(colours)]
    everywhere = [(logits[:, :, k].ravel(), shares[:, :, k].ravel()) for k in range(colours)]
    return crosses(by_crop) + crosses(by_colour) + 0.5 * crosses(everywhere)


def test_the_loss_is_three_cross_entropies_where_something_is_shown():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 8)) * 3
    shares = rng.random((2, 4, 8)) * (rng.random((2, 4, 8)) < 0.3)
    shares[0, 0] = 0
    shares[1, 1, :] = 5e-5  # too little to be seen
    found = clip.loss(torch.from_numpy(logits), torch.from_numpy(shares))
    assert found.item() == pytest.approx(plainly(logits, shares), rel=1e-6)


def test_every_text_of_the_training_differs_in_its_colour_alone_and_fits():
    tokenizer = clip.tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(100):
        ids = clip.texts(rng, tokenizer)
        assert (ids != ids[0]).any(dim=0).sum() == 1
        assert ids.shape[1] <= clip.ROOM
        assert (ids[:, -1] == tokenizer.eos_token_id).all()
        assert tokenizer.unk_token_id not in ids


def weights(folder):
    return {name: value.clone() for name, value in CLIPModel.from_pretrained(folder).state_dict().items()}


def test_a_run_that_was_stopped_goes_on_and_a_finished_one_changes_nothing(tmp_path, monkeypatch):
    drawn = []
    cuts = clip.cuts
    monkeypatch.setattr(clip, "cuts", lambda *given: drawn.append(given) or cuts(*given))
    found = []
    for steps in (1, 2, 2):
        folder = plans.train("clip", plans.Plan(scenes=2, contrast_steps=steps), tmp_path, SILENT)
        _library.check(folder)
        found.append(weights(folder))
        assert torch.load(tmp_path / "contrast.pt")["pair"]["done"] == steps
    assert len(drawn) == 1
    assert any((found[0][name] != found[1][name]).any() for name in found[0])
    assert all((found[1][name] == found[2][name]).all() for name in found[1])
    start = clip.model(clip.tokenizer())
    assert set(found[0]) == set(start.state_dict())


def test_the_scores_are_those_of_the_saved_model_on_the_processors_pixels(tmp_path):
    torch.manual_seed(0)
    tokenizer = clip.tokenizer()
    model, processor = clip.model(tokenizer).eval(), package.clip(tokenizer)
    package.write(model, processor, tmp_path)
    crop = np.random.default_rng(0).integers(0, 256, (clip.SIDE, clip.SIDE, 3), np.uint8)
    ids = tokenizer(["red sign"], return_tensors="pt")["input_ids"]
    inputs = processor(images=[Image.fromarray(crop)], text=["red sign"], return_tensors="pt")
    with torch.no_grad():
        trained = clip.logits(model, torch.from_numpy(crop)[None], ids)
        saved = CLIPModel.from_pretrained(tmp_path).eval()(**inputs).logits_per_image
    torch.testing.assert_close(trained, saved, atol=0.02, rtol=0)


@pytest.mark.slow
def test_the_training_command_knows_clip(tmp_path):
    command = [sys.executable, "-m", "benchmarks.training", "clip", "--out", str(tmp_path), "--threads", "1"]
    subprocess.run([*command, "--scenes", "4", "--contrast-steps", "2"], cwd=ROOT, check=True, timeout=300)
    _library.check(tmp_path / "model")
