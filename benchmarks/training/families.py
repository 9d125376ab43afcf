"""What tells the pocket models apart whose image tokens come before the question: LLaVA and Qwen2.5-VL."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from benchmarks.training import towers, words
from benchmarks.training.packs import Dialogue
from benchmarks.training.practice import PATCH, Size

WIDTH, LAYERS, HEADS = 128, 4, 4

VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *VISION)
SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Family:
    """How a model is made, how its prompts are written, and where its parts are."""

    dialogue: Dialogue
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    model: Callable[[PreTrainedTokenizerFast], PreTrainedModel]
    vision: Callable[[PreTrainedModel], torch.nn.Module]
    connector: Callable[[PreTrainedModel], torch.nn.Module]
    decoder: Callable[[PreTrainedModel], torch.nn.Module]
    project: Callable[[PreTrainedModel, torch.Tensor, Size], torch.Tensor]
    """(model, features float32 [batch, patches, 128], (width, height) in input pixels) -> [batch, tokens, 128]."""
    cell: int
    """Input pixels across an image token."""
    prepare: Callable[[PreTrainedModel, torch.Tensor], None]
    """(model, features of many patches [patches, 128]): the connector's start."""


def text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """The settings of a language model of four small layers."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 352,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


@torch.no_grad()
def start(decoder: torch.nn.Module) -> None:
    """In every layer queries and keys start alike, so that like attends to like, and outputs copy values."""
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=(0.25 if "embed" in name else 0.5 / WIDTH**0.5))
    for index, layer in enumerate(decoder.layers):
        attention = layer.self_attn
        # Not so strong that a token attends to nothing but itself; even, in the first layer, where words meet words.
        torch.nn.init.normal_(attention.q_proj.weight, std=(1.0 if index else 0.3) / WIDTH**0.5)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def _llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=towers.make_clip().config,
            text_config=LlamaConfig(**text_config(tokenizer), rope_parameters=rope),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=(towers.SIDE // PATCH) ** 2,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
        )
    )


def _qwen(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    # 16 pairs of dimensions a head: time, row, column.
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
    ids = tokenizer.convert_tokens_to_ids(list(VISION))
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**text_config(tokenizer), "rope_parameters": rope},
            vision_config=towers.qwen_config().to_dict(),
            vision_start_token_id=ids[0],
            vision_end_token_id=ids[1],
            image_token_id=ids[2],
            video_token_id=ids[3],
            tie_word_embeddings=False,
        )
    )


def _merged(model: Qwen2_5_VLForConditionalGeneration, features: torch.Tensor, size: Size) -> torch.Tensor:
    cols, rows = (edge // PATCH for edge in size)
    ordered = features[:, towers.merge_order(rows, cols)]
    return model.model.visual.merger(ordered.flatten(0, 1)).view(len(features), -1, WIDTH)


@torch.no_grad()
def _prepare_llava(model: LlavaForConditionalGeneration, features: torch.Tensor) -> None:
    """The first layer sees features of mean 0 and variance 1."""
    projector = model.model.multi_modal_projector
    torch.nn.init.normal_(projector.linear_1.weight, std=WIDTH**-0.5)
    projector.linear_1.weight /= features.std(0)
    projector.linear_1.bias.copy_(-projector.linear_1.weight @ features.mean(0))
    torch.nn.init.normal_(projector.linear_2.weight, std=0.5 * WIDTH**-0.5)


@torch.no_grad()
def _prepare_qwen(model: Qwen2_5_VLForConditionalGeneration, features: torch.Tensor) -> None:
    """Each of the four patches of a token begins as large as the other three."""
    merger = model.model.visual.merger
    merger.ln_q.weight.copy_(features.square().mean().sqrt() / features.std(0).clamp_min(1e-3))
    torch.nn.init.normal_(merger.mlp[0].weight, std=(4 * WIDTH) ** -0.5)
    torch.nn.init.normal_(merger.mlp[2].weight, std=(4 * WIDTH) ** -0.5)


FAMILIES = {
    "llava": Family(
        dialogue=Dialogue(
            opening="<s>USER: ",
            close="\n",
            between="",
            question="{question} ASSISTANT:",
            end="</s>",
            images=lambda bucket: ((10, 10), (10, 10)),
        ),
        tokenizer=lambda: words.tokenizer(
            additional_special_tokens=["<image>"], extra_special_tokens={"image_token": "<image>"}
        ),
        model=_llava,
        vision=lambda model: model.model.vision_tower,
        connector=lambda model: model.model.multi_modal_projector,
        decoder=lambda model: model.model.language_model,
        project=lambda model, features, size: model.model.multi_modal_projector(features),
        cell=PATCH,
        prepare=_prepare_llava,
    ),
    "qwen2_5_vl": Family(
        dialogue=Dialogue(
            opening=f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>",
            close="<|vision_end|>",
            between="<|vision_start|>",
            question="{question}<|im_end|>\n<|im_start|>assistant\n",
            end="<|im_end|>",
            images=lambda bucket: (
                (bucket.whole[1] // (2 * PATCH), bucket.whole[0] // (2 * PATCH)),
                (bucket.crop[1] // (2 * PATCH), bucket.crop[0] // (2 * PATCH)),
            ),
            planar=True,
        ),
        tokenizer=lambda: words.tokenizer(*QWEN_SPECIAL, start=None, end="<|im_end|>"),
        model=_qwen,
        vision=lambda model: model.model.visual,
        connector=lambda model: model.model.visual.merger,
        decoder=lambda model: model.model.language_model,
        project=_merged,
        cell=2 * PATCH,
        prepare=_prepare_qwen,
    ),
}
