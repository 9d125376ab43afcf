"""Makes the settings of a model's config tiny by the names of its keys, so that a type nobody thought of works too.

One width for everything (language model, vision tower, connector) keeps the parts of a model fitting together; a few
of the model's own layers are kept, at least one of each kind; token ids move into the small vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attnlens.conformance._tiny.layers import LAYER_COUNTS, with_few_layers

WIDTH = 64
HEADS = 4
KEY_VALUE_HEADS = 2
HEAD_WIDTH = WIDTH // HEADS
VOCABULARY = 640
SIDE = 4  # image tokens along a side of one square image, after merging

# What a whole number becomes, by the first pattern that fits its key. Widths and the like are set whatever the
# original is, so that they fit together.
_SET: tuple[tuple[str, int], ...] = (
    (r"linear_num_key_heads", KEY_VALUE_HEADS),
    (r".*(attention_heads|num_heads|n_heads|value_heads|resampler_heads)|heads_per_ngram", HEADS),
    (r"(.*_)?head_dim|.*_key_head_dim|.*_value_head_dim|rotary_dim|d_kv", HEAD_WIDTH),
    (r".*(lora_rank|_lowrank)|laurel_rank", 2 * HEAD_WIDTH),
    (r".*(moe|expert).*(intermediate_size|_dim)|share_expert_dim", WIDTH),
    (r".*(intermediate_size.*|ffn_dim|mlp_dim|d_ff)", 2 * WIDTH),
    (r".*(hidden_size.*|hidden_dim|embed_dim|proj_dim|projection_dim|d_model|_in_dim|_out_dim|output_dim)", WIDTH),
    (r".*(input_dim|_input_size|projector_.*_size|output_channels|downsample_channels)|image_text_hidden_size", WIDTH),
    (r"image_seq_length|num_image_tokens|.*soft_tokens_per_image", SIDE * SIDE),
    (r".*vocab_size.*", VOCABULARY),
    (r"mm_tokens_per_image", (SIDE // 2) ** 2),  # so that something is pooled
)
# Of these, what the original has is enough where it is less.
_AT_MOST: tuple[tuple[str, int], ...] = (
    (r".*(key_value_heads|kv_heads)", KEY_VALUE_HEADS),
    (r"(n|num|moe_num)_shared_experts|first_k_dense_replace|n_group|topk_group", 1),
    (r".*(experts_per_tok|moe_topk|moe_k|top_k_experts)|num_.*_layers|n_groups", 2),
    (r".*experts", 4),
    (r"num_query_tokens|.*n_latents|latent_query_num|.*num_latents", 8),
    (r"ssm_state_size", 16),
    (r"sliding_window(_size)?", 44),  # back over the question of the checks, to a part of the image
    (r"attention_chunk_size|base_channels", 32),
    (r"index_topk", 32),  # so that an indexer leaves out a part of the checks' prompts
    (r"index_topk_blocks", 3),
    (r"index_block_size", 8),
    (r"index_n_heads", 32),  # few heads are often all at zero, and among keys of equal score any may be chosen
    (r"latent_channels", WIDTH),
    (r"codebook_size|num_embeddings", VOCABULARY),
    (r"max_(source_)?positions?(_embeddings)?|position_embedding_size", 2048),
)
_FEATURE_LAYER = re.compile(r".*vision.*_layers?")
_TOKEN_ID = re.compile(r"(?!.*layer).*(_id|_ids|_token_index)")
_MERGES = (
    "spatial_merge_size",
    "merge_size",
    "merge_kernel_size",
    "adapter_merge_size",
    "downsample_factor",
    "scale_factor",
)
_RATIOS = ("downsample_ratio", "pixel_shuffle_ratio")
_SAM_MERGE = 4  # the convolutions behind SAM's encoder, which the config does not mention


def shrunk(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a whole config, nested as `config.to_dict()` has them, made tiny."""
    keys = {key for key, _ in leaves(settings)}
    small = _shrunk(settings, SIDE * merge_factor(settings), three_axes="spatial_merge_size" in keys)
    side = next((side for key, side in leaves(small) if key == "image_size"), None)
    if settings.get("image_grid_pinpoints") and side is not None:
        small["image_grid_pinpoints"] = _pinpoints(settings["image_grid_pinpoints"], side)
    return _with_small_token_ids(small)


def merge_factor(settings: Mapping[str, Any]) -> int:
    """How many patches along a side become one image token, where the config says so; otherwise 1."""
    found = [1]
    for key, value in leaves(settings):
        if key in _MERGES:
            found.extend(_numbers(value))
        elif key in _RATIOS and isinstance(value, float) and 0 < value < 1:
            found.append(round(1 / value))
    return max(found)


def leaves(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested settings."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value)
        else:
            yield str(key), value


def _shrunk(part: Mapping[str, Any], patches: int, three_axes: bool) -> dict[str, Any]:
    """One part of the settings and what is below it; `patches`: how many of them along a side of an image."""
    chosen = with_few_layers(part)
    apart = chosen.pop("per_layer_config", None)
    small = {key: _value(str(key), value, part, patches, three_axes) for key, value in chosen.items()}
    if part.get("num_key_value_heads") and part["num_key_value_heads"] == part.get("num_attention_heads"):
        small["num_key_value_heads"] = small["num_attention_heads"]
    if apart:
        small["per_layer_config"] = {
            layer: {key: _in_proportion(value, part.get(key), small.get(key)) for key, value in own.items()}
            for layer, own in apart.items()
        }
    return small


def _value(key: str, value: Any, part: Mapping[str, Any], patches: int, three_axes: bool) -> Any:
    if key == "rope_parameters" and isinstance(value, Mapping):
        return _rope(value, three_axes and "vocab_size" in part)
    if isinstance(value, Mapping):
        return _shrunk(value, patches, three_axes)
    if key == "image_size" and value:
        side = patches * _patch(part) * (_SAM_MERGE if "global_attn_indexes" in part else 1)
        return [side for _ in value] if isinstance(value, list | tuple) else side
    if key == "head_dim" and value is None:
        return HEAD_WIDTH  # what it comes to in most models, while some insist on being told
    if key in ("num_position_embeddings", "num_patches") and _is_square(value):
        return patches**2
    if _FEATURE_LAYER.fullmatch(key):
        return _each(value, lambda layer: max(-2, min(layer, 1)))
    return _each(value, lambda number: _size(key, number))


def _size(key: str, value: int) -> int:
    if value <= 0 or key in LAYER_COUNTS:
        return value
    at_most = next((size for pattern, size in _AT_MOST if re.fullmatch(pattern, key)), None)
    if at_most is not None:
        return min(value, at_most)
    return next((size for pattern, size in _SET if re.fullmatch(pattern, key)), value)


def _in_proportion(value: Any, before: Any, now: Any) -> Any:
    """What one layer has of its own: twice or half of what the others have, or the same, whichever is nearest below."""
    if not all(_is_int(number) and number > 0 for number in (value, before, now)):
        return value
    return now * 2 if value >= 2 * before else max(1, now // 2) if 2 * value <= before else now


def _rope(rope: Mapping[str, Any], three_axes: bool) -> dict[str, Any]:
    """Rotary settings for the small heads, of which at least half turns, so that each of three axes has a pair.

    Models with three-dimensional positions have sections of their own in mind where the config names none.
    """
    small: dict[str, Any] = {k: _rope(v, False) if isinstance(v, Mapping) else v for k, v in rope.items()}
    turning = max(0.5, small.get("partial_rotary_factor", 1.0))
    if "partial_rotary_factor" in small:
        small["partial_rotary_factor"] = turning
    sections = small.get("mrope_section") or ([1, 1, 1] if three_axes and "rope_theta" in small else None)
    if sections:
        small["mrope_section"] = _shares(sections, int(HEAD_WIDTH * turning) // 2)
    return small


def _shares(weights: Sequence[int], total: int) -> list[int]:
    """`total` divided among the weights in whole numbers, the rest to those who lost most by rounding."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_loss = sorted(range(len(weights)), key=lambda place: shares[place] - exact[place])
    for place in by_loss[: total - sum(shares)]:
        shares[place] += 1
    return shares


def _pinpoints(pairs: Sequence[Sequence[int]], side: int) -> list[list[int]]:
    """The canvases of one image, in tiles of the new side; three tiles along a side at most."""
    base = min(min(pair) for pair in pairs)
    return [[side * number // base for number in pair] for pair in pairs if max(pair) <= 3 * base]


def _patch(settings: Mapping[str, Any]) -> int:
    return next(iter(_numbers(settings.get("patch_size"))), 16)


def _with_small_token_ids(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every token id beyond the vocabulary becomes one at its end; equal ids stay equal, the image token gets one."""
    found = [number for key, value in leaves(settings) if _TOKEN_ID.fullmatch(key) for number in _numbers(value)]
    free = (number for number in range(VOCABULARY - 1, 0, -1) if number not in found)
    moved = {number: next(free) for number in dict.fromkeys(found) if number >= VOCABULARY}

    def small(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: small(str(name), item) for name, item in value.items()}
        return _each(value, lambda number: moved.get(number, number)) if _TOKEN_ID.fullmatch(key) else value

    result: dict[str, Any] = small("", settings)
    for key in ("image_token_id", "image_token_index"):
        if key in result and result[key] is None:
            result[key] = next(free)
    return result


def _each(value: Any, change: Callable[[int], Any]) -> Any:
    """`value` with every whole number in it changed, be it one or a list of them."""
    if isinstance(value, list | tuple):
        return [_each(item, change) for item in value]
    return change(value) if _is_int(value) else value


def _numbers(value: Any) -> list[int]:
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if _is_int(item)]


def _is_square(value: Any) -> bool:
    return _is_int(value) and value > 0 and math.isqrt(value) ** 2 == value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
