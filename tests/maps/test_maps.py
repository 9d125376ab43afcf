"""Each map equals the paper's formula, worked out from one plain eager forward that knows nothing of attnlens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import median_filter

import attnlens
from attnlens import adapters, maps
from attnlens.conformance._report import sample_images, tiny_lens
from attnlens.conformance._types import image_text_types
from attnlens.errors import AttnLensError
from tests import tiny

QUESTION = "what is written on the red sign?"
SUFFIX = " Answer the question using a single word or phrase."


@pytest.fixture(scope="module", params=["llava", "instructblip"])
def family(request: pytest.FixtureRequest) -> tiny.Family:
    return request.param


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return tiny.images("landscape", 1)[0]


def lens_of(family: tiny.Family) -> Any:
    model, processor = tiny.build(family)
    return attnlens.load(model=model, processor=processor, adapter=family)


def full_eager(family: tiny.Family, image: Image.Image, question: str) -> dict[str, Any]:
    """Attention, connector attention and pixels of the whole prompt, each with its gradient, head by head."""
    model, processor = tiny.build(family)
    model.set_attn_implementation("eager")
    if family == "llava":
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        text = f"Question: {question} Short answer:"
    inputs = processor(images=[image], text=text, return_tensors="pt")
    inputs["pixel_values"].requires_grad_()
    crossing: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, __, out: crossing.append(out[1]))
        for name, module in model.named_modules()
        if name.endswith("crossattention.attention")
    ]
    out = model(**inputs, output_attentions=True)
    for hook in hooks:
        hook.remove()
    attentions = list((out.language_model_outputs if family == "instructblip" else out).attentions)
    log_prob = out.logits[0, -1].log_softmax(-1).max()
    wanted = [*attentions, *crossing, inputs["pixel_values"]]
    gradients = torch.autograd.grad(log_prob, wanted)
    seen = inputs["input_ids"][0] == model.config.image_token_id
    count = len(attentions)
    return {
        "rows": [a[0, :, -1, seen].detach() for a in attentions],
        "row_gradients": [g[0, :, -1, seen] for g in gradients[:count]],
        "connector": [c[0, :, :, 1:].detach() for c in crossing],
        "connector_gradients": [g[0, :, :, 1:] for g in gradients[count:-1]],
        "pixels": inputs["pixel_values"][0].detach().numpy(),
        "pixel_gradient": gradients[-1][0].numpy(),
    }


def carried(rows: torch.Tensor, connector: list[torch.Tensor], k: int) -> np.ndarray:
    tokens = rows.mean(0)
    return (tokens @ connector[k].mean(0) if connector else tokens).numpy()


def close(map_: attnlens.ImportanceMap, expected: np.ndarray) -> bool:
    return float(np.abs(map_.values.ravel() - expected.ravel()).max()) <= 1e-4 * float(np.abs(expected).max())


@pytest.mark.parametrize("layer", [0, 2])
def test_relative_attention_is_the_ratio_of_head_means(family: tiny.Family, image: Image.Image, layer: int) -> None:
    asked, generic = (full_eager(family, image, q) for q in (QUESTION, maps.GENERIC_QUESTION))
    expected = carried(asked["rows"][layer], asked["connector"], 1) / carried(
        generic["rows"][layer], generic["connector"], 1
    )
    found = maps.relative_attention(lens_of(family).read(image), QUESTION, layer=layer, connector_layer=1)
    assert close(found, expected)


def test_the_mean_of_all_layers_is_taken_before_the_ratio(image: Image.Image) -> None:
    asked, generic = (
        torch.stack(full_eager("llava", image, q)["rows"]).mean((0, 1)).numpy()
        for q in (QUESTION, maps.GENERIC_QUESTION)
    )
    found = maps.relative_attention(lens_of("llava").read(image), QUESTION, layer="mean")
    assert close(found, asked / generic)


def test_the_released_variant_adds_the_suffix_to_the_generic_question(image: Image.Image) -> None:
    asked, generic = (full_eager("llava", image, q)["rows"][1] for q in (QUESTION, maps.GENERIC_QUESTION + SUFFIX))
    found = maps.relative_attention(lens_of("llava").read(image), QUESTION, layer=1, variant="released")
    assert close(found, (asked.mean(0) / generic.mean(0)).numpy())


def test_gradient_attention_averages_heads_after_the_product(family: tiny.Family, image: Image.Image) -> None:
    full = full_eager(family, image, QUESTION)
    weighted = [a * g.clamp(min=0) for a, g in zip(full["rows"], full["row_gradients"], strict=True)]
    connector = [a * g.clamp(min=0) for a, g in zip(full["connector"], full["connector_gradients"], strict=True)]
    found = maps.gradient_attention(lens_of(family).read(image), QUESTION, layer=1, connector_layer=0)
    assert found.values.max() > 0
    assert close(found, carried(weighted[1], connector, 0))


def edges(pixels: np.ndarray, size: int) -> np.ndarray:
    """ViCrop's edge mask, with a Gaussian kernel of three taps written out."""
    taps = np.exp(-0.5 * (np.arange(-1, 2) / 0.8) ** 2)
    taps /= taps.sum()
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    height, width = pixels.shape[1:]
    blurred = sum(taps[i] * taps[j] * padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3))
    brightness = median_filter(np.sqrt(((pixels - blurred) ** 2).sum(0)), size=size)
    return brightness > np.median(brightness)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_input_gradient_is_the_norm_on_edges_averaged_over_each_patch(image: Image.Image, variant: str) -> None:
    full = full_eager("llava", image, QUESTION)
    norm = np.linalg.norm(full["pixel_gradient"], axis=0)
    if variant == "released":
        norm = norm / np.linalg.norm(
            full_eager("llava", image, maps.GENERIC_QUESTION + SUFFIX)["pixel_gradient"], axis=0
        )
    deviation = np.array(tiny.build("llava")[1].image_processor.image_std)[:, None, None]
    masked = norm * edges(full["pixels"] * deviation, 3 if variant == "paper" else 7)
    expected = [[masked[r : r + 14, c : c + 14].mean() for c in range(0, 84, 14)] for r in range(0, 84, 14)]
    found = maps.input_gradient(lens_of("llava").read(image), QUESTION, variant=variant)
    assert close(found, np.array(expected))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("size", [(173, 97), (60, 200), (90, 90), (300, 40)])
def test_a_tiled_map_covers_every_shape_of_image(family: tiny.Family, size: tuple[int, int]) -> None:
    picture = tiny.images("landscape", 1)[0].resize(size)
    tiled = maps.tiled(maps.relative_attention, 64)(lens_of(family).read(picture), QUESTION)
    assert tiled.grid.image_size == size
    assert np.isfinite(tiled.values).all()
    assert tiled.to_pixels().shape == (size[1], size[0])


def test_a_tile_of_a_tiled_map_is_the_map_of_that_tile(image: Image.Image) -> None:
    lens = lens_of("qwen2_5_vl")
    tiled = maps.tiled(maps.relative_attention, 100)(lens.read(image), QUESTION)
    assert image.size == (173, 97)
    left = maps.relative_attention(lens.read(image.crop((0, 0, 87, 97))), QUESTION)
    assert np.allclose(tiled.values[:, : left.grid.cols], left.values)


def test_an_image_of_one_tile_gives_the_plain_map(image: Image.Image) -> None:
    reading = lens_of("llava").read(image)
    plain = maps.relative_attention(reading, QUESTION)
    assert np.array_equal(maps.tiled(maps.relative_attention)(reading, QUESTION).values, plain.values)


def test_maps_of_the_second_of_two_images_lie_in_that_image() -> None:
    images = tiny.images("portrait", 2)
    reading = lens_of("qwen2_5_vl").read(images)
    for make in (maps.relative_attention, maps.gradient_attention, maps.input_gradient):
        assert make(reading, QUESTION, image=1).grid.image_size == images[1].size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 99}, "no layer 99"),
        ({"layer": "middle"}, "no layer 'middle'"),
        ({"connector_layer": 7}, "no connector layer 7"),
        ({"variant": "mine"}, "'paper' or 'released'"),
        ({"image": 3}, "no image 3"),
    ],
)
def test_an_option_that_does_not_exist_is_named(image: Image.Image, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnLensError, match=message):
        maps.relative_attention(lens_of("instructblip").read(image), QUESTION, **options)


@pytest.mark.skipif("glm5_next" not in image_text_types(), reason="this transformers does not have it")
def test_a_generic_question_that_looks_at_no_image_token_is_refused():
    """A sparse model takes the keys that suit a question; of few, none is an image token for the generic one."""
    spec = adapters.for_model_type("glm5_next")
    few = spec.tiny.model_copy(update={"config": {"text_config": {"index_topk": 32}}})
    reading = tiny_lens("glm5_next", spec.model_copy(update={"tiny": few})).read(sample_images()[0])
    with pytest.raises(AttnLensError, match="draws no attention to the image"):
        maps.relative_attention(reading, "What is written on the red sign?")
