"""The pocket CLIP: texts that name a colour stand near the crops that show most of a sign of that colour.

Two stages, from nothing. First scenes of the training split are cut into crops of all the sizes that the recipe `clip`
shrinks an image to, and it is noted how much of each crop the signs of each colour cover (`cuts`). Then both towers
learn together, by CLIP's loss with soft targets (`loss`). Nothing but colours is learned: no digit, no background.
"""

import pathlib

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from tokenizers import processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from attnlens._images import crop
from attnlens.geometry import Box
from attnlens.pocket import _signs, scenes
from benchmarks.training import towers, words
from benchmarks.training.checkpointer import Keeper
from benchmarks.training.muon import Pair

SIDE, PATCH = 64, 8
CROPS = 14
"""Crops of a scene; the first is the whole image."""
ROUNDS, CUT = 20, 0.1
"""As the recipe shrinks an image: up to so many times by a tenth of its width or of its height."""
NEAR = 0.6
"""How many of the crops have the centre of a sign in them, at least."""
LEAST = 1e-4
"""A colour that covers less of a crop is not to be seen in it."""
ROOM = 32
"""Tokens that the text tower reads."""
BINS = ("small", "small", "medium", "large")
"""Sizes of targets, in turn."""
TEXTS = (*words.TEMPLATES["read"], *words.TEMPLATES["exists"], "{colour} sign", "a {colour} sign", "the {colour} sign")


def tokenizer() -> PreTrainedTokenizerFast:
    """The words of the pocket models; CLIP's text tower reads a text at the `</s>` that ends it."""
    made = words.tokenizer()
    ends = [(token, made.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    made.padding_side, made.model_max_length = "right", ROOM
    return made


def model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """The untrained model."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": ROOM,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 48,
        "intermediate_size": 144,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


def window(rng: np.random.Generator, scene: scenes.Scene) -> Box:
    """A crop of a scene, in its pixels: as large as the recipe's after some of its rounds, anywhere in it."""
    width, height = scene.size
    rounds = int(rng.integers(ROUNDS + 1))
    narrower = int(rng.binomial(rounds, 0.5))
    across, down = width * (1 - CUT) ** narrower, height * (1 - CUT) ** (rounds - narrower)
    x, y = rng.random(2) * (width - across, height - down)
    if rng.random() < NEAR:
        centre = scene.signs[rng.integers(len(scene.signs))].centre
        x, y = np.clip(centre - rng.random(2) * (across, down), 0, (width - across, height - down))
    return Box(*(round(float(edge)) for edge in (x, y, x + across, y + down)))


def shares(scene: scenes.Scene, box: Box) -> np.ndarray:
    """How much of a crop the sign of each colour covers, float32 [colours]."""
    covered = {sign.colour: box.shared(Box(*sign.box)) / box.area for sign in scene.signs}
    return np.array([covered.get(colour, 0.0) for colour in _signs.COLOURS], np.float32)


def cuts(count: int, seed: int, progress: Progress) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of `count` scenes of the training split, as the processor makes them, and what they show.

    uint8 [scenes, CROPS, SIDE, SIDE, 3], and the `shares` float32 [scenes, CROPS, colours].
    """
    rng = np.random.default_rng([seed, 0])
    pixels = np.empty((count, CROPS, SIDE, SIDE, 3), np.uint8)
    shown = np.empty((count, CROPS, len(_signs.COLOURS)), np.float32)
    for index in progress.track(range(count), description="crops"):
        scene = scenes.scene_in_bin(seed * count + index, BINS[index % len(BINS)], split="train")
        boxes = [Box(0, 0, *scene.size), *(window(rng, scene) for _ in range(CROPS - 1))]
        for place, box in enumerate(boxes):
            pixels[index, place] = crop(scene.image, box).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            shown[index, place] = shares(scene, box)
    return torch.from_numpy(pixels), torch.from_numpy(shown)


def logits(clip: CLIPModel, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """How well crops uint8 [crops, SIDE, SIDE, 3] go with texts int64 [texts, tokens], float32 [crops, texts]."""
    return clip(pixel_values=towers.normalise(pixels), input_ids=ids).logits_per_image


def loss(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Of scores and shares, both [scenes, crops, colours]: which colour a crop shows, and which crop shows a colour.

    The latter among the crops of its scene, as the recipe asks, and, counted half, among all crops, as CLIP's loss
    does.
    """
    shares = shares * (shares > LEAST)
    everywhere = _cross_entropy(logits.flatten(0, 1), shares.flatten(0, 1), 0)
    return _cross_entropy(logits, shares, 2) + _cross_entropy(logits, shares, 1) + 0.5 * everywhere


def _cross_entropy(logits: torch.Tensor, shares: torch.Tensor, dim: int) -> torch.Tensor:
    """Mean of the cross-entropies along `dim`, where anything is shown.

    The target is in proportion to the square root of the share, so that a small sign counts beside a large one.
    """
    roots = shares.sqrt()
    total = roots.sum(dim, keepdim=True)
    each = -(roots / total.clamp_min(LEAST) * logits.log_softmax(dim)).sum(dim)
    return each[total.squeeze(dim) > 0].mean()


def texts(rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """One text, sometimes with LLaVA's suffix, for each colour in turn, int64 [colours, tokens]."""
    text = TEXTS[rng.integers(len(TEXTS))] + (words.SUFFIX if rng.random() < 0.1 else "")
    return tokenizer([text.format(colour=colour) for colour in _signs.COLOURS], return_tensors="pt")["input_ids"]


def train(
    clip: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    drawn: tuple[torch.Tensor, torch.Tensor],
    out: pathlib.Path,
    progress: Progress,
    *,
    steps: int,
    batch: int = 8,
    seed: int = 0,
    muon: float = 0.005,
    adam: float = 2e-3,
) -> None:
    """Train both towers on the crops of `batch` scenes at a time; resumes from `out / "contrast.pt"`."""
    pair = Pair([clip], steps, muon, adam)
    keeper = Keeper(out, "contrast", clip, pair, progress, every=100)
    pixels, shown = drawn
    rng = np.random.default_rng([seed, pair.done])
    while pair.done < steps:
        chosen = torch.from_numpy(rng.integers(len(pixels), size=batch))
        crops = pixels[chosen].flatten(0, 1)
        scores = logits(clip, crops.flip(2) if rng.random() < 0.5 else crops, texts(rng, tokenizer))
        step = loss(scores.unflatten(0, (batch, CROPS)), shown[chosen])
        step.backward()
        keeper.step(step)
