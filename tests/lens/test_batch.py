"""Claims about questions in batches: what comes out for an image is what comes out for it alone, on every type."""

import numpy as np
import pytest
import torch
from PIL import Image

import attnlens
from attnlens import adapters
from attnlens.conformance._report import tiny_lens
from attnlens.conformance._types import question_answerers
from attnlens.lens._model.broken import broken

QUESTION = "What is it?"
SOME = ["llava", "qwen2_5_vl", "hunyuan_vl", "idefics2", "instructblip", "minicpmv4_6"]
TYPES = [kind for kind in question_answerers() if not broken(kind)]


def noise(count: int, size: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize(
    "model_type", [pytest.param(kind, marks=[] if kind in SOME else [pytest.mark.slow]) for kind in TYPES]
)
def test_an_image_in_a_batch_is_answered_as_alone(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    images = noise(3, (173, 97))
    images.insert(1, noise(1, (90, 160))[0])
    before = lens.meter.now()
    together = lens.next_tokens(images, QUESTION, batch=2)
    assert (lens.meter.now() - before).forwards == 4
    for image, found in zip(images, together, strict=True):
        reading = lens.read(image)
        with torch.no_grad():
            logits = lens.model(**reading._host.inputs(reading._prompt(QUESTION))).logits
        expected = logits[0, -1].float().log_softmax(-1)
        np.testing.assert_allclose(found, expected.cpu().numpy(), atol=1e-4)
    assert np.abs(together[0] - together[2]).max() > 1e-3  # or the images would not be told apart


def test_prompts_that_are_alike_go_through_the_model_together(monkeypatch):
    lens = tiny_lens("llava", adapters.for_model_type("llava"))
    sizes, forward = [], lens.model.forward

    def counting(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(lens.model, "forward", counting)
    lens.next_tokens(noise(5, (80, 80)), QUESTION, batch=2)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("batch", [0, -1, 1.5])
def test_a_batch_of_nothing_is_refused(batch):
    lens = tiny_lens("llava", adapters.for_model_type("llava"))
    with pytest.raises(attnlens.AttnLensError, match="whole number of images"):
        lens.next_tokens(noise(1, (80, 80)), QUESTION, batch=batch)


def test_no_image_is_refused():
    lens = tiny_lens("llava", adapters.for_model_type("llava"))
    with pytest.raises(attnlens.AttnLensError, match="the list is empty"):
        lens.next_tokens([], QUESTION)
