"""Tiny random models of any type: they build, read, keep every kind of layer, and fit their own image processors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from attnlens import adapters
from attnlens.conformance._tiny.config import _shares, leaves, shrunk
from attnlens.conformance._tiny.image_processor import tiny_image_processor
from attnlens.conformance._tiny.layers import with_few_layers
from attnlens.conformance._tiny.model import tiny_config, tiny_model
from attnlens.conformance._tiny.timm_stub import TimmTowerStandIn
from attnlens.errors import AttnLensError

# Types that need nothing said beyond the rules: square, three-dimensional, hybrid, sliding, cross-attention, experts.
PLAIN = (
    "gemma3",
    "gemma4",
    "got_ocr2",
    "instructblip",
    "internvl",
    "kimi_k25",
    "llava",
    "llava_next",
    "mllama",
    "qwen2_5_vl",
    "qwen3_5",
    "qwen3_vl_moe",
    "video_llama_3",
)
NO_QUESTION_ANSWERERS = {
    "blip",
    "diffusion_gemma",
    "evolla",
    "git",
    "kosmos-2.5",
    "mistral4",
    "pi0",
    "pix2struct",
    "pp_formulanet",
    "t5gemma2",
    "udop",
    "vision-encoder-decoder",
}


def logits(model, seed: int = 0) -> torch.Tensor:
    """The decoder's answer to 40 words, through its own output layer where the whole model wants an image."""
    ids = torch.randint(10, 400, (1, 40), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.get_output_embeddings()(model.get_decoder()(input_ids=ids).last_hidden_state)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize("model_type", PLAIN)
def test_a_tiny_model_of_the_type_builds_from_rules_alone_and_reads_words(model_type):
    model = tiny_model(tiny_config(model_type))
    read = logits(model)
    assert torch.isfinite(read).all()
    assert read.std() > 0.1
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - NO_QUESTION_ANSWERERS))
def test_every_question_answerer_of_transformers_builds_with_what_its_adapter_adds(model_type):
    spec = adapters.for_model_type(model_type)
    config = tiny_config(model_type, spec.tiny.config)
    model = tiny_model(config)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) < 10_000_000
    processor = tiny_image_processor(model_type, config, spec.tiny.image_processor, spec.tiny.images)
    assert processor([picture(150, 100)], return_tensors="pt") is not None


@pytest.mark.parametrize("model_type", PLAIN)
def test_every_token_id_lies_in_the_vocabulary(model_type):
    config = tiny_config(model_type)
    words = config.get_text_config(decoder=True).vocab_size
    assert words <= 640
    for key, value in leaves(config.to_dict()):
        if key.endswith(("_token_id", "_token_index")) and value is not None:
            assert max(value if isinstance(value, list) else [value]) < words, key


def test_token_ids_that_were_equal_stay_equal_and_others_stay_apart():
    before = {
        "image_token_id": 151655,
        "video_token_id": 151656,
        "text_config": {
            "eos_token_id": [151643, 151645],
            "pad_token_id": 151643,
            "bos_token_id": 7,
            "vocab_size": 152000,
        },
    }
    after = shrunk(before)
    text = after["text_config"]
    assert text["pad_token_id"] == text["eos_token_id"][0]
    assert text["bos_token_id"] == 7
    ids = [after["image_token_id"], after["video_token_id"], *text["eos_token_id"], text["bos_token_id"]]
    assert len(set(ids)) == len(ids)
    assert max(ids) < text["vocab_size"] == 640


def test_an_image_token_that_the_defaults_leave_open_gets_an_id():
    config = tiny_config("instructblip")
    assert isinstance(config.image_token_index, int)
    assert config.image_token_index not in (config.text_config.eos_token_id, config.text_config.bos_token_id)


def test_one_width_runs_through_tower_connector_and_language_model():
    config = tiny_config("instructblip")
    parts = (config.text_config, config.vision_config, config.qformer_config)
    assert {part.hidden_size for part in parts} == {64}
    assert config.qformer_config.encoder_hidden_size == config.vision_config.hidden_size


def test_a_hybrid_keeps_both_kinds_of_layers_and_attention_twice():
    assert tiny_config("qwen3_5").text_config.layer_types == ["linear_attention"] * 2 + ["full_attention"] * 2
    assert tiny_config("gemma3").text_config.layer_types == ["sliding_attention"] * 2 + ["full_attention"] * 2


def test_what_the_settings_say_about_single_layers_keeps_step_with_the_layers_kept():
    few = with_few_layers(
        {
            "vocab_size": 100,
            "num_hidden_layers": 8,
            "layer_types": ["sliding_attention"] * 3
            + ["full_attention"]
            + ["sliding_attention"] * 3
            + ["full_attention"],
            "theta": [0, 1, 2, 3, 0, 1, 2, 3],
            "moe_layers": [3, 7],
            "per_layer_config": {"03": {"head_dim": 512}, "07": {"head_dim": 512}},
            "stops": [5, 6],
        }
    )
    # Four kinds, for theta makes one of each remainder by 4; then the second of those that attend to everything: 7.
    assert few["num_hidden_layers"] == 5
    assert few["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"] * 2
    assert few["theta"] == [0, 1, 2, 3, 3]
    assert few["moe_layers"] == [3, 4]
    assert few["per_layer_config"] == {3: {"head_dim": 512}, 4: {"head_dim": 512}}
    assert few["stops"] == [5, 6]


def test_a_tower_keeps_a_layer_of_those_it_names_by_number():
    few = with_few_layers({"depth": 27, "deepstack_visual_indexes": [8, 16, 24]})
    assert few == {"depth": 2, "deepstack_visual_indexes": [1]}


def test_a_layer_that_differs_from_the_others_differs_in_small():
    config = shrunk(
        {"vocab_size": 9, "num_hidden_layers": 6, "head_dim": 256, "per_layer_config": {"05": {"head_dim": 512}}}
    )
    assert config["head_dim"] == 16
    assert list(config["per_layer_config"].values()) == [{"head_dim": 32}]


@given(st.lists(st.integers(1, 64), min_size=3, max_size=4), st.integers(4, 64))
def test_sections_are_shared_out_whole_and_in_proportion(weights, total):
    shares = _shares(weights, total)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1


def test_what_is_left_of_the_sections_goes_to_those_that_lost_most():
    assert _shares([24, 20, 20], 8) == [3, 3, 2]  # exactly 3, 2.5 and 2.5


def test_a_large_image_is_brought_down_to_a_few_dozen_tokens():
    config = tiny_config("qwen2_5_vl")
    made = tiny_image_processor("qwen2_5_vl", config)([picture(900, 600)], return_tensors="pt")
    assert 24 <= made["image_grid_thw"].prod().item() // 4 <= 48


def test_the_seed_alone_decides_the_weights_and_the_global_generator_is_left_alone():
    config = tiny_config("llava")
    before = torch.get_rng_state()
    first = tiny_model(config, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = tiny_model(config, seed=3), tiny_model(config, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(logits(first), logits(other))


def test_attention_is_far_from_uniform():
    model = tiny_model(tiny_config("llava"))
    model.set_attn_implementation("eager")
    ids = torch.randint(10, 400, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rows = torch.stack(model(input_ids=ids, output_attentions=True).attentions)[:, 0, :, -1]
    entropy = -(rows * rows.clamp_min(1e-12).log()).sum(-1)
    assert entropy.mean() < 0.9 * math.log(40)
    assert rows.amax(-1).mean() < 0.9  # nor all on one token


def test_overrides_have_the_last_word():
    config = tiny_config("llava", {"text_config": {"num_hidden_layers": 5}, "vision_feature_layer": -1})
    assert config.text_config.num_hidden_layers == 5
    assert config.text_config.hidden_size == 64
    assert config.vision_feature_layer == -1


def test_an_override_may_put_another_model_in_a_part():
    config = tiny_config("instructblip", {"text_config": {"model_type": "t5", "num_decoder_layers": 1}})
    assert config.text_config.model_type == "t5"
    assert config.text_config.d_model == 64
    assert config.text_config.num_decoder_layers == 1
    assert not config.use_decoder_only_language_model


def test_the_default_config_is_not_changed():
    assert tiny_config("qwen2_5_vl").text_config.hidden_size == 64
    assert type(tiny_config("qwen2_5_vl"))().text_config.hidden_size == 8192


def test_a_type_that_is_not_there_is_answered_with_near_ones():
    with pytest.raises(AttnLensError, match=r"'qwen2_vll'.*qwen2_vl"):
        tiny_config("qwen2_vll")


def test_a_type_that_reads_no_images_is_said_to_be_none_and_what_it_is():
    with pytest.raises(AttnLensError, match=r"'qwen2' is no image-text-to-text.*Qwen2Config.*qwen2_vl"):
        tiny_config("qwen2")


def test_a_tower_of_timm_is_stood_in_for_while_the_model_is_built_and_no_longer():
    config = tiny_config("fast_vlm")
    model = tiny_model(config)
    assert isinstance(model.model.vision_tower.timm_model, TimmTowerStandIn)
    features = model.get_image_features(torch.randn(1, 3, 84, 56)).pooler_output
    assert features.shape == (1, 16, 64)
    with pytest.raises(ImportError, match="timm"):
        AutoModel.from_config(config.vision_config)


def test_an_image_processor_makes_what_the_tiny_tower_takes():
    config = tiny_config("llava")
    pixels = tiny_image_processor("llava", config)([picture(150, 100)], return_tensors="pt")["pixel_values"]
    side = config.vision_config.image_size
    assert pixels.shape == (1, 3, side, side)
    assert side % config.vision_config.patch_size == 0
    assert tiny_model(config).get_image_features(pixel_values=pixels).pooler_output[0].shape == (16, 64)


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "glm4v", "paddleocr_vl", "qwen3_vl", "lfm3_vl"])
def test_a_wide_image_has_a_wide_grid_of_a_few_dozen_tokens(model_type):
    config = tiny_config(model_type)
    made = tiny_image_processor(model_type, config)([picture(190, 90)], return_tensors="pt")
    frames, rows, columns = made["image_grid_thw"][0].tolist()
    assert frames == 1
    assert rows < columns
    tokens = rows * columns // config.vision_config.spatial_merge_size**2
    assert 10 <= tokens <= 150
    assert made["pixel_values"].shape[0] == rows * columns


@pytest.mark.parametrize("model_type", ["internvl", "idefics3", "llava_next", "llava_onevision"])
def test_a_wide_image_is_cut_into_tiles_of_the_towers_size(model_type):
    config = tiny_config(model_type)
    pixels = tiny_image_processor(model_type, config)([picture(200, 90)], return_tensors="pt")["pixel_values"]
    side = config.vision_config.image_size
    tiles = pixels.reshape(-1, *pixels.shape[-3:])
    assert tiles.shape[1:] == ((3, side, side) if isinstance(side, int) else (3, *side))
    assert 3 <= len(tiles) <= 10


def test_settings_of_the_image_processor_have_the_last_word():
    config = tiny_config("qwen2_5_vl")
    made = tiny_image_processor("qwen2_5_vl", config, settings={"temporal_patch_size": 1})
    assert made.temporal_patch_size == 1
    assert made.patch_size == config.vision_config.patch_size


def test_another_types_processor_lends_its_image_processor():
    assert type(tiny_image_processor("glm4v_moe", tiny_config("glm4v_moe"))).__name__ == "Glm4vImageProcessorPil"


def test_a_type_without_an_image_processor_asks_for_one():
    with pytest.raises(AttnLensError, match=r"fast_vlm.*tiny: \{image_processor"):
        tiny_image_processor("fast_vlm", tiny_config("fast_vlm"))
