"""A stand-in for a model's full processor, for tiny random models, whose type's own needs files that nobody has here.

The image processor is the type's own (or the stand-in that the adapter names); the text side is a byte-level tokenizer
with the config's image token, and puts as many image tokens into the prompt as the adapter's grid says. The model
refuses a wrong number, so that number is proved, not believed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import BatchFeature, PreTrainedTokenizerFast

from attnlens.adapters._grids import UnpaddedGrid
from attnlens.adapters._schema import AdapterSpec
from attnlens.adapters._strict import FromTokenizer, resolve
from attnlens.lens._inputs.batching import as_prompt_images, features_of
from attnlens.lens._layouts import Processed, layout_of

FIRST_BYTE = 300
"""The id of byte 0; below it is room for the special tokens of a tiny config."""
SPARE_ID = 290
"""The id of an image token that the config does not know."""
IMAGE_TOKEN = "<image>"


class StubProcessor:
    """Images and text to a model's inputs, for a prompt of one; what `Lens` needs of a processor."""

    def __init__(self, image_processor: Any, spec: AdapterSpec, model: Any) -> None:
        self.image_processor = self._images = image_processor
        self.chat_template = "the stand-in's own"
        self._spec, self._config = spec, model.config
        self._accepted = set(inspect.signature(model.forward).parameters)
        stated = spec.image_token_id
        by_text = isinstance(stated, FromTokenizer)
        self.image_token = stated.token if isinstance(stated, FromTokenizer) else IMAGE_TOKEN
        self._image_token_id = SPARE_ID if by_text else resolve(stated, model.config)
        self.tokenizer = _tokenizer(self.image_token, self._image_token_id)
        # Models with m-rope find images, and their pictures, by the markers around them.
        self._before, self._after = self._marker("vision_start_token_id"), self._marker("vision_end_token_id")
        self._between = self._marker("slice_start_id") or self.tokenizer.encode(",")

    def _marker(self, name: str) -> list[int]:
        """A token that the config names, if it does."""
        found = getattr(self._config, name, None)
        return [found] if isinstance(found, int) else []

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **_: Any) -> str:
        parts = messages[0]["content"]
        said = [f"{self.image_token}: " if part["type"] == "image" else part["text"] for part in parts]
        return "".join(said) + " Answer:"

    def __call__(self, images: Sequence[Image.Image], text: Sequence[str], **_: Any) -> BatchFeature:
        pictures = [self._pictures(image) for image in images]
        features = self._features(images)
        grid = self._spec.grid
        if grid.kind == "unpadded":
            cut = [self._patches(features, number, grid) for number in range(len(images))]
            features[self._spec.prompt.pixels] = torch.cat(cut)
        ids = self._ids(text[0], pictures)
        wanted = {key: value for key, value in features.items() if key in self._accepted}
        return BatchFeature({**wanted, **self._text_side(ids, len(images))})

    def _pictures(self, image: Image.Image) -> tuple[int, ...]:
        """The image's tokens: all together, or those of each of its pictures, where they are set apart."""
        features = self._features([image])
        layout = layout_of(self._spec.grid, Processed(image.size, features, self._images, self._config))
        return layout.pictures or (layout.tokens,)

    def _features(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        prompt = self._spec.prompt
        return features_of(self.image_processor(as_prompt_images(images, prompt), return_tensors="pt"), prompt)

    def _patches(self, features: dict[str, Any], image: int, grid: UnpaddedGrid) -> torch.Tensor:
        """[patches, values]: the full processor cuts the canvas itself, to the patches that hold the image."""
        own = self.image_processor
        side = own.patch_size["height"]
        down, across = (math.ceil(int(features[key][image][0]) / side) * side for key in (grid.height, grid.width))
        canvas = features["images"][image][0][:, :down, :across]
        return torch.as_tensor(own.patchify_image(canvas if own.backend == "torchvision" else canvas.numpy()))

    def _ids(self, text: str, pictures: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """What stands for an image in the text becomes as many image tokens as it takes; else they come first."""
        prompt = self._spec.prompt
        prepended = resolve(prompt.prepended, self._config)
        if prepended is not None:
            return torch.tensor([[self._image_token_id] * prepended + self.tokenizer.encode(text)])
        mark = self.image_token if prompt.template == "chat" else prompt.image
        first, *rest = (mark * prompt.placed + text).split(mark)
        ids = self.tokenizer.encode(first)
        if not rest:
            return torch.tensor([[self._image_token_id] * sum(map(sum, pictures)) + ids])
        for counts, part in zip(pictures, rest, strict=True):
            ids += self._before
            for number, count in enumerate(counts):
                ids += (self._between if number else []) + [self._image_token_id] * count
            ids += self._after + self.tokenizer.encode(part)
        return torch.tensor([ids])

    def _text_side(self, ids: torch.Tensor, images: int) -> dict[str, torch.Tensor]:
        """What models read along the prompt, by the name of the input."""
        at_image = (ids == self._image_token_id).long()
        known = {
            "mm_token_type_ids": at_image,
            "token_type_ids": at_image,
            "moe_mm_token_type_ids": at_image,
            "image_embeds_position_mask": at_image,
            "image_attention_mask": torch.ones(1, ids.shape[1], images, dtype=torch.long),
            "qformer_input_ids": ids[:, -8:] % 100,
            "qformer_attention_mask": torch.ones_like(ids[:, -8:]),
        }
        wanted = {key: value for key, value in known.items() if key in self._accepted}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **wanted}


def _tokenizer(image_token: str, image_token_id: int) -> PreTrainedTokenizerFast:
    """Every byte is a token, and so is the image token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: FIRST_BYTE + number for number, symbol in enumerate(alphabet)}
    made = Tokenizer(models.BPE(vocab={**vocabulary, image_token: image_token_id}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(image_token, special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False)
