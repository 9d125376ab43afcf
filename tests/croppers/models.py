"""Tiny CLIP, YOLOS, RT-DETR and SAM with random weights, and their processors, made on the spot."""

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
)

from tests import tiny


def wide_weights(make, config, seed=3):
    """A model with weights far larger than an ordinary initialisation, so that scores and boxes differ."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = make(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=2 / parameter.shape[-1] ** 0.5)
    return model.eval()


def tiny_clip():
    words = tiny.tokenizer(
        "<s> $A </s>", ("<s>", "</s>", "<pad>"), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = CLIPConfig(
        text_config={**layers, **ends, "vocab_size": len(words), "max_position_embeddings": 24},
        vision_config={**layers, "image_size": 28, "patch_size": 14},
        projection_dim=16,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return wide_weights(CLIPModel, config), CLIPProcessor(pictures, words)


def tiny_yolos():
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[64, 64],
        patch_size=16, num_detection_tokens=12, num_labels=3,
    )  # fmt: skip
    pictures = YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 480})
    return wide_weights(YolosForObjectDetection, config), pictures


def tiny_rt_detr():
    backbone = RTDetrResNetConfig(
        embeddings_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], layer_type="bottleneck",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[12, 16, 20], encoder_layers=1,
        encoder_ffn_dim=32, encoder_attention_heads=2, d_model=16, num_queries=12, decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=32, decoder_layers=1, decoder_attention_heads=2, num_denoising=0, hidden_expansion=1.0,
        num_labels=3,
    )  # fmt: skip
    return wide_weights(RTDetrForObjectDetection, config, seed=6), RTDetrImageProcessorPil(
        size={"height": 64, "width": 64}
    )


def sam_pictures(**options):
    return SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, **options)


def tiny_sam():
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8, output_channels=16,
            window_size=4, global_attn_indexes=[0], mlp_dim=32, num_pos_feats=8,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )  # fmt: skip
    return wide_weights(SamModel, config), sam_pictures()
