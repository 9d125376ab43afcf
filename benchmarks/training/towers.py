"""The three vision towers: how each is made and called on a batch, and how CLIP's weights start the other two."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionConfig,
)

from attnlens._upstream import rotated
from benchmarks.training.practice import PATCH, Size

WIDTH, HEADS, LAYERS = 128, 4, 4
SIDE = 80
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Kind:
    """A kind of tower: `make` an untrained one, `see` patches with it, the sizes and shapes it practises on."""

    make: Callable[[], torch.nn.Module]
    see: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
    """(vision, pixels float32 [batch, 3, height, width]) -> what the connector reads: the last states of the leading
    tokens and of the patches, row by row, [batch, leading + patches, 128]."""
    transplant: Callable[[torch.nn.Module, CLIPVisionModel], None] | None
    """Start from a trained CLIP tower; None: start from nothing."""
    sizes: tuple[Size, ...] = ((SIDE, SIDE),)
    leading: int = 0
    """Tokens before the patches that the connector reads, too."""
    stretch: float = 1.0
    """Up to how much wider, or higher, the processor makes what it shows."""


def make_clip() -> CLIPVisionModel:
    """CLIP's transformer, 80 x 80 pixels, with sine and cosine positions to begin with."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
    )
    clip = CLIPVisionModel(config)
    embeddings = vision(clip).embeddings
    with torch.no_grad():
        embeddings.position_embedding.weight.copy_(sin_cos(SIDE // PATCH, WIDTH))
        torch.nn.init.normal_(embeddings.patch_embedding.weight, std=(3 * PATCH**2) ** -0.5)
    return clip


def see_clip(clip: CLIPVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """What LLaVA reads: the states after the last layer, without the class token's."""
    return clip(pixels).last_hidden_state[:, 1:]


def vision(clip: CLIPVisionModel) -> torch.nn.Module:
    """The transformer inside; transformers has moved it between versions."""
    return getattr(clip, "vision_model", clip)


def sin_cos(cells: int, width: int) -> torch.Tensor:
    """2-D sine and cosine position embeddings with a zero row for the class token first, [1 + cells * cells, width]."""
    frequency = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(cells)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    plane = torch.cat([line[:, None].expand(cells, cells, -1), line[None].expand(cells, cells, -1)], dim=2)
    return 0.5 * torch.cat([torch.zeros(1, width), plane.reshape(cells * cells, width)])


def make_blip() -> InstructBlipVisionModel:
    """InstructBLIP's ViT, 80 x 80 pixels, CLIP's activation."""
    return InstructBlipVisionModel(
        InstructBlipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            image_size=SIDE,
            patch_size=PATCH,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
            qkv_bias=True,
        )
    )


def see_blip(blip: InstructBlipVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """What the Q-Former reads: the states after the last layer and its norm, the class token's first."""
    return blip(pixels).last_hidden_state


@torch.no_grad()
def blip_from_clip(blip: InstructBlipVisionModel, clip: CLIPVisionModel) -> None:
    """The same weights; CLIP's norm before the first layer, which InstructBLIP's ViT lacks, is folded in for a token of
    ordinary length."""
    source: Any = vision(clip)
    pre, old, new = source.pre_layrnorm, source.embeddings, blip.embeddings
    scale = pre.weight / _ordinary_length(source)
    patches = _centred(old.patch_embedding.weight.flatten(1))
    new.patch_embedding.weight.copy_((scale[:, None] * patches).view_as(new.patch_embedding.weight))
    new.patch_embedding.bias.zero_()
    positions = old.position_embedding.weight
    new.position_embedding.copy_((_centred(positions.T).T * scale + pre.bias)[None])
    new.class_embedding.copy_((_centred(old.class_embedding[:, None])[:, 0] * scale)[None, None])
    for layer, theirs in zip(blip.encoder.layers, source.encoder.layers, strict=True):
        layer.self_attn.qkv.weight.copy_(torch.cat([_part(theirs, name).weight for name in "qkv"]))
        layer.self_attn.qkv.bias.copy_(torch.cat([_part(theirs, name).bias for name in "qkv"]))
        layer.self_attn.projection.load_state_dict(theirs.self_attn.out_proj.state_dict())
        layer.layer_norm1.load_state_dict(theirs.layer_norm1.state_dict())
        layer.layer_norm2.load_state_dict(theirs.layer_norm2.state_dict())
        layer.mlp.load_state_dict(theirs.mlp.state_dict())


def make_qwen() -> Qwen2_5_VisionTransformerPretrainedModel:
    """Qwen2.5-VL's tower, every block with full attention, and its merger."""
    return Qwen2_5_VisionTransformerPretrainedModel(qwen_config())


def qwen_config() -> Qwen2_5_VLVisionConfig:
    return Qwen2_5_VLVisionConfig(
        depth=LAYERS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_heads=HEADS,
        out_hidden_size=WIDTH,
        patch_size=PATCH,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=8 * PATCH,
        fullatt_block_indexes=list(range(LAYERS)),
    )


def see_qwen(qwen: Qwen2_5_VisionTransformerPretrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """The states before the merger. The same as the model's own forward, which takes a batch image by image."""
    batch, _, height, width = pixels.shape
    rows, cols = height // PATCH, width // PATCH
    weight = qwen.patch_embed.proj.weight.sum(dim=2)
    states = torch.nn.functional.conv2d(pixels, weight, stride=PATCH).flatten(2).transpose(1, 2)
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    turns = qwen.rotary_pos_emb(states, torch.stack([row.flatten(), col.flatten()], dim=1))
    for block in qwen.blocks:
        shape = (batch, rows * cols, 3, HEADS, WIDTH // HEADS)
        query, key, value = block.attn.qkv(block.norm1(states)).view(shape).unbind(2)
        query, key = rotated(query, key, *turns)
        seen = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        states = states + block.attn.proj(seen.transpose(1, 2).flatten(2))
        states = states + block.mlp(block.norm2(states))
    return states


@torch.no_grad()
def qwen_from_clip(qwen: Qwen2_5_VisionTransformerPretrainedModel, clip: CLIPVisionModel) -> None:
    """CLIP's layers in Qwen's form, without the positions, which are turned into queries and keys here.

    A layer norm is an RMS norm of a centred state, so everything that writes a state is centred; its shift goes into
    the biases that follow. Quick GELU is a SiLU gate: x s(1.702 x) = (1.702 x) s(1.702 x) * (1 / 1.702).
    """
    source = vision(clip)
    scale = source.pre_layrnorm.weight / _ordinary_length(source)
    patches = scale[:, None] * _centred(source.embeddings.patch_embedding.weight.flatten(1))
    shape = source.embeddings.patch_embedding.weight.shape
    # Both frames hold the same picture: each gets half.
    qwen.patch_embed.proj.weight.copy_((_centred(patches) / 2).view(shape)[:, :, None].expand(-1, -1, 2, -1, -1))
    for block, theirs in zip(qwen.blocks, source.encoder.layers, strict=True):
        first, second = theirs.layer_norm1, theirs.layer_norm2
        block.norm1.weight.copy_(first.weight)
        block.norm2.weight.copy_(second.weight)
        weight = torch.cat([_part(theirs, name).weight for name in "qkv"])
        block.attn.qkv.weight.copy_(weight)
        block.attn.qkv.bias.copy_(torch.cat([_part(theirs, name).bias for name in "qkv"]) + weight @ first.bias)
        block.attn.proj.weight.copy_(_centred(theirs.self_attn.out_proj.weight))
        block.attn.proj.bias.copy_(_centred(theirs.self_attn.out_proj.bias))
        up, down = theirs.mlp.fc1, theirs.mlp.fc2
        block.mlp.gate_proj.weight.copy_(1.702 * up.weight)
        block.mlp.gate_proj.bias.copy_(1.702 * (up.bias + up.weight @ second.bias))
        block.mlp.up_proj.weight.zero_()
        block.mlp.up_proj.bias.fill_(1 / 1.702)
        block.mlp.down_proj.weight.copy_(_centred(down.weight))
        block.mlp.down_proj.bias.copy_(_centred(down.bias))


def _part(layer: torch.nn.Module, name: str) -> torch.nn.Linear:
    return getattr(layer.self_attn, f"{name}_proj")


def _centred(weight: torch.Tensor) -> torch.Tensor:
    """What is written, less its mean over the state's axis, which comes first."""
    return weight - weight.mean(dim=0, keepdim=True)


def _ordinary_length(source: torch.nn.Module) -> torch.Tensor:
    """Standard deviation, over the state, of an embedded patch of a smooth picture whose pixels have variance 1."""
    torch.manual_seed(0)
    coarse = torch.randn(64, 3, SIDE // 4, SIDE // 4)
    embedded = source.embeddings(torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear"))
    return embedded[:, 1:].std(dim=-1).mean()


KINDS = {
    "llava": Kind(make_clip, see_clip, None),
    "instructblip": Kind(make_blip, see_blip, blip_from_clip, leading=1, stretch=2.0),
    "qwen2_5_vl": Kind(
        make_qwen, see_qwen, qwen_from_clip, sizes=((128, 128), (160, 96), (96, 160), (112, 112), (144, 112), (80, 176))
    ),
}


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [batch, height, width, 3] to what the processors make of it, float32 [batch, 3, height, width]."""
    mean, std = torch.tensor(MEAN) * 255, torch.tensor(STD) * 255
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


@functools.cache
def merge_order(rows: int, cols: int) -> torch.Tensor:
    """The order in which Qwen's merger takes patches that come row by row: blocks of 2 x 2, int64 [rows * cols]."""
    index = torch.arange(rows * cols).view(rows // 2, 2, cols // 2, 2)
    return index.permute(0, 2, 1, 3).flatten()
