"""Claims about maps on every model type that is supported: they can be made, are finite, and are not flat."""

import numpy as np
import pytest

import attnlens
from attnlens import adapters, maps
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.conformance._types import question_answerers
from attnlens.lens._model.broken import broken

QUESTION = "What is written on the red sign?"
CODES = {"apertus1p5", "chameleon", "emu3"}  # no gradient reaches the pixels
TYPES = [kind for kind in question_answerers() if not broken(kind)]
SOME = ["llava", "llava_next", "idefics2", "mllama", "qwen3_5", "minicpmv4_6"]


@pytest.mark.parametrize(
    "model_type", [pytest.param(kind, marks=[] if kind in SOME else [pytest.mark.slow]) for kind in TYPES]
)
def test_every_map_and_a_whole_recipe_run_on(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    image = sample_images()[0]
    reading = lens.read(image)
    made = [maps.relative_attention(reading, QUESTION), maps.gradient_attention(reading, QUESTION)]
    if model_type not in CODES:
        made.append(maps.input_gradient(reading, QUESTION))
    for one in made:
        assert np.isfinite(one.values).all()
        assert one.values.std() > 0
        assert one.to_pixels().shape == (image.height, image.width)
    result = attnlens.ask(lens, image, QUESTION, recipe="rel-att", max_new_tokens=2)
    assert result.cost.prefills > 0
    assert all(0 <= b.x1 < b.x2 <= image.width and 0 <= b.y1 < b.y2 <= image.height for b in result.boxes)


@pytest.mark.parametrize("model_type", sorted(CODES.intersection(TYPES)))
def test_the_input_gradient_says_that_codes_have_none(model_type):
    lens = tiny_lens(model_type, adapters.for_model_type(model_type))
    with pytest.raises(attnlens.AttnLensError, match="codes"):
        maps.input_gradient(lens.read(sample_images()[0]), QUESTION)
