"""From images and a question to the tensors a model takes, each image preprocessed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from attnlens.adapters.schema import AdapterSpec, resolve
from attnlens.errors import AttnLensError


@dataclass(eq=False)
class PreparedImage:
    """One image and what the processor makes of it: filled at the first prompt, used by every later one."""

    image: Image.Image
    features: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model takes it, batch of one."""

    ids: Tensor  # int64 [1, tokens]
    extras: dict[str, Tensor]  # further inputs along the sequence, such as mm_token_type_ids [1, tokens]
    images: tuple[PreparedImage, ...]
    vision: dict[
        str, Tensor
    ]  # the images' inputs (pixels not on the device yet), and what the connector reads of the text
    positions: tuple[range, ...]  # where each image's tokens stand in the sequence

    @property
    def length(self) -> int:
        return int(self.ids.shape[1])

    @property
    def end_of_images(self) -> int:
        """One past the last image token."""
        return self.positions[-1].stop


class Prompter:
    """Builds prompts for one processor and adapter."""

    def __init__(self, processor: Any, spec: AdapterSpec, model: Any, image_token_id: int) -> None:
        self._processor = processor
        self._spec = spec
        self._model = model
        self._image_token_id = image_token_id

    def prompt(self, images: Sequence[PreparedImage], question: str) -> Prompt:
        """The prompt for `question` after `images`. Raises `AttnLensError` for a question that cannot be asked."""
        question = self._checked(question)
        text = self._text(len(images), question)
        inputs = self._process(images, text)
        ids = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        if self._spec.prompt.prepended is not None:
            ids, inputs = self._one_span_per_image(ids, inputs, len(images))
        extras = {key: inputs.pop(key) for key in list(inputs) if self._along_sequence(inputs[key], ids, key)}
        shapes = {tuple(v.shape for v in p.features.values() if isinstance(v, Tensor)) for p in images}
        positions = self._image_positions(ids, len(images), same_size=len(shapes) == 1)
        return Prompt(ids, extras, tuple(images), inputs, positions)

    def _checked(self, question: str) -> str:
        if not isinstance(question, str) or not question.strip():
            raise AttnLensError(f"The question is {question!r}; expected some text. Ask something about the image.")
        token = getattr(self._processor, "image_token", None)
        token = getattr(token, "content", token)
        if token and token in question:
            raise AttnLensError(
                f"The question holds {token!r}, which stands for an image in this model's prompts. Take it out: "
                "images are given to `read`."
            )
        return question

    def _text(self, count: int, question: str) -> str:
        spec = self._spec.prompt
        if spec.template != "chat":
            return spec.template.replace("{images}", spec.image * count).replace("{question}", question)
        content = [{"type": "image"}] * count + [{"type": "text", "text": question}]
        if not getattr(self._processor, "chat_template", None):
            raise AttnLensError(
                f"The adapter {self._spec.name!r} uses the processor's chat template, and "
                f"{type(self._processor).__name__} has none. Set "
                "processor.chat_template, or write prompt: {template: '... {images}{question} ...'}."
            )
        messages = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _process(self, images: Sequence[PreparedImage], text: str) -> dict[str, Tensor]:
        processor = copy.copy(self._processor)
        processor.image_processor = _Remembering(self._processor.image_processor, images)
        try:
            encoded = processor(images=[p.image for p in images], text=[text], return_tensors="pt")
        except ValueError as error:
            sizes = ", ".join(f"{p.image.width} x {p.image.height}" for p in images)
            raise AttnLensError(
                f"{type(self._processor).__name__} refused the prompt {text!r} with images of {sizes} px: {error} "
                "If it is about an image, crop or resize that. If it is about the prompt, correct it in the adapter "
                f"{self._spec.name!r}: a literal template needs {{images}}."
            ) from error
        device = self._model.device
        return {  # pixels stay where they are: most questions need them no more
            key: value if value.is_floating_point() else value.to(device)
            for key, value in encoded.items()
            if isinstance(value, Tensor)
        }

    def _one_span_per_image(
        self, ids: Tensor, inputs: dict[str, Tensor], count: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The processor prepended one image's tokens: bring them to one span for each image, and repeat the text
        that the connector reads for each (as the ViCrop authors' fork does)."""
        prepended = resolve(self._spec.prompt.prepended, self._model.config)
        span = ids.new_full((1, prepended * count), self._image_token_id)
        ids = torch.cat([span, ids[:, ids[0] != self._image_token_id]], dim=1)
        repeated = {key: inputs[key].expand(count, -1) for key in self._spec.prompt.per_image if key in inputs}
        return ids, {**inputs, **repeated}

    def _along_sequence(self, value: Tensor, ids: Tensor, key: str) -> bool:
        return value.shape == ids.shape and key not in self._spec.prompt.per_image

    def _image_positions(self, ids: Tensor, count: int, same_size: bool) -> tuple[range, ...]:
        at = torch.nonzero(ids[0] == self._image_token_id).flatten().tolist()
        if not at:
            raise AttnLensError(
                f"The prompt has no image token (id {self._image_token_id}). Check image_token_id and prompt in the "
                f"adapter {self._spec.name!r}: a literal template needs {{images}}."
            )
        spans: list[range] = []
        for position in at:
            if spans and spans[-1].stop == position:
                spans[-1] = range(spans[-1].start, position + 1)
            else:
                spans.append(range(position, position + 1))
        if len(spans) == count:
            return tuple(spans)
        if len(spans) == 1 and same_size:  # nothing stands between the images: equal shares
            each = len(at) // count
            return tuple(range(at[0] + i * each, at[0] + (i + 1) * each) for i in range(count))
        raise AttnLensError(
            f"The prompt holds {len(spans)} run(s) of image tokens for {count} images. Put something between the "
            f"images in the template of the adapter {self._spec.name!r}, such as a newline."
        )


class _Remembering:
    """An image processor that processes each `PreparedImage` once; everything else is the real one's."""

    def __init__(self, real: Any, prepared: Sequence[PreparedImage]) -> None:
        self._real = real
        self._prepared = {id(p.image): p for p in prepared}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        flat = images if isinstance(images, list | tuple) else [images]
        features = []
        for image in flat:
            prepared = self._prepared[id(image)]
            if not prepared.features:
                prepared.features = dict(self._real([image], **{**kwargs, "return_tensors": "pt"}))
            features.append(prepared.features)
        return BatchFeature(joined(features))


def joined(features: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The inputs of several images, one after the other."""
    return {key: torch.cat([f[key] for f in features]) for key in features[0] if isinstance(features[0][key], Tensor)}


def on_device(inputs: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """`inputs` where the model is; pixels and other real numbers in its dtype."""
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None) for key, value in inputs.items()
    }
