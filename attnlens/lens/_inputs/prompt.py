"""From images and a question to the tensors a model takes, each image preprocessed once."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from attnlens._upstream import size_called
from attnlens.adapters._schema import AdapterSpec, PromptSpec
from attnlens.adapters._strict import resolve
from attnlens.errors import AttnLensError, first_line
from attnlens.lens._inputs import templates
from attnlens.lens._inputs.batching import as_prompt_images, concat_images, features_of, split_by_image
from attnlens.lens._layouts import Layout, Processed, layout_of

_log = logging.getLogger("attnlens")


@dataclass(eq=False)
class PreparedImage:
    """One image and what the processor makes of it: filled at the first prompt, used by every later one."""

    image: Image.Image
    features: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # that the processor calls its image processor with
    layout: Layout | None = None
    bare: bool = False  # whether the image processor hands back nothing but the pixels


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model takes it, batch of one."""

    ids: Tensor  # int64 [1, tokens]
    extras: dict[str, Tensor]  # further inputs along the sequence, such as mm_token_type_ids [1, tokens]
    images: tuple[PreparedImage, ...]
    side: dict[str, Tensor]  # what else the model reads, such as a connector's own reading of the text
    vision_inputs: frozenset[str]  # what the processor hands on of the image processor's output
    positions: tuple[tuple[int, ...], ...]  # where each image's tokens stand in the sequence
    spec: PromptSpec

    @property
    def length(self) -> int:
        return int(self.ids.shape[1])

    @property
    def image_tokens(self) -> int:
        """How many tokens are of images."""
        return sum(map(len, self.positions))

    @property
    def end_of_images(self) -> int:
        """One past the last image token."""
        return self.positions[-1][-1] + 1

    def continued(self, tokens: Sequence[int]) -> Prompt:
        """The prompt with an answer's first `tokens` behind it, which are text as its last token is."""
        ids = torch.cat([self.ids, self.ids.new_tensor([tokens])], dim=1)
        extras = {
            key: torch.cat([value, value[:, -1:].expand(-1, len(tokens))], dim=1) for key, value in self.extras.items()
        }
        return replace(self, ids=ids, extras=extras)

    def vision(self, start: int = 0) -> dict[str, Any]:
        """The inputs of the images from number `start` on; pixels are where the processor left them."""
        fresh = [one.features for one in self.images[start:]]
        features = concat_images(fresh, self.spec) if fresh else {}
        return {key: value for key, value in features.items() if key in self.vision_inputs} | self.side


@functools.cache
def _log_once(message: str) -> None:
    _log.warning(message)


def checked_question(question: object) -> str:
    """`question`. Raises AttnLensError unless it is some text."""
    if not isinstance(question, str) or not question.strip():
        raise AttnLensError(f"The question is {question!r}; expected some text. Ask something about the image.")
    return question


class Prompter:
    """Builds prompts for one processor and adapter."""

    def __init__(self, processor: Any, spec: AdapterSpec, model: Any, image_token_id: int) -> None:
        self._processor = processor
        self._spec = spec
        self._model = model
        self._image_token_id = image_token_id
        self._accepted = set(inspect.signature(model.forward).parameters)

    def prompt(self, images: Sequence[PreparedImage], question: str) -> Prompt:
        """The prompt for `question` after `images`. Raises `AttnLensError` for a question that cannot be asked."""
        question = self._checked(question)
        text = self.text(len(images), question)
        inputs = self._process(images, text)
        ids = inputs.pop("input_ids")
        if self._spec.prompt.pixels not in inputs:
            raise AttnLensError(
                f"{type(self._processor).__name__} hands the model no {self._spec.prompt.pixels}, but "
                f"{', '.join(inputs)}: it would answer without the image. Correct prompt.pixels in the adapter "
                f"{self._spec.name!r}, or use a processor that works here."
            )
        if self._spec.prompt.prepended is not None:
            ids, inputs = self._one_span_per_image(ids, inputs, len(images))
        for key in ("attention_mask", "labels"):  # all ones; and what PaliGemma's processor gives for training
            inputs.pop(key, None)
        keys = frozenset(inputs) & {key for one in images for key in one.features}
        given = {key: value for key, value in inputs.items() if key not in keys}
        extras = {key: value for key, value in given.items() if self._along_sequence(value, ids, key)}
        side = {key: value for key, value in given.items() if key not in extras}
        positions = self._image_positions(ids, inputs, images)
        return Prompt(ids, extras, tuple(images), side, keys, positions, self._spec.prompt)

    def prepare(self, images: Sequence[PreparedImage]) -> Prompt:
        """Have the image processor read every image: the prompt of the shortest question about them.

        A processor calls its image processor for a whole prompt only, so there is a stand-in for a question.
        """
        return self.prompt(images, "A")

    def layouts(self, images: Sequence[PreparedImage]) -> tuple[Layout, ...]:
        """Where the tokens of images that a prompt was made for lie."""
        if self._spec.grid.kind == "latents" and len(images) > 1:
            # A connector numbers its keys on the canvas that all images are padded to.
            features = split_by_image([one.features for one in images], self._spec.prompt)
            return tuple(self._layout(one, own) for one, own in zip(images, features, strict=True))
        for one in images:
            one.layout = one.layout or self._layout(one, one.features)
        return tuple(one.layout for one in images if one.layout is not None)

    def _layout(self, image: PreparedImage, features: dict[str, Any]) -> Layout:
        images = _as_called(self._processor.image_processor, image.settings)
        return layout_of(self._spec.grid, Processed(image.image.size, features, images, self._model.config))

    def _checked(self, question: str) -> str:
        question = checked_question(question)
        token = getattr(self._processor, "image_token", None)
        token = getattr(token, "content", token)
        if token and token in question:
            raise AttnLensError(
                f"The question holds {token!r}, which stands for an image in this model's prompts. Take it out: "
                "images are given to `read`."
            )
        return question

    def text(self, count: int, question: str) -> str:
        """The prompt of `count` images and a question as text, which the processor tokenizes."""
        spec = self._spec.prompt
        literal = spec.template
        if literal == "chat" and spec.literal is not None and getattr(self._processor, "chat_template", None) is None:
            literal = spec.literal
            _log_once(
                f"{type(self._processor).__name__} has no chat template: the prompt is the family's, {literal!r}."
            )
        if literal != "chat":
            return literal.replace("{images}", spec.image * (count - spec.placed)).replace("{question}", question)
        content = [{"type": "image"}] * count + [{"type": "text", "text": question}]
        if not getattr(self._processor, "chat_template", None):
            raise AttnLensError(
                f"The adapter {self._spec.name!r} uses the processor's chat template, and "
                f"{type(self._processor).__name__} has none. Set "
                "processor.chat_template, or write prompt: {template: '... {images}{question} ...'}."
            )
        return templates.prompt(self._processor, [{"role": "user", "content": content}])

    def special_tokens(self, text: str) -> dict[str, bool]:
        """How the tokenizer is called: a text that its template has begun is given no second token of a beginning, as
        in transformers' own `apply_chat_template(tokenize=True)`."""
        start = self._processor.tokenizer.bos_token
        return {"add_special_tokens": False} if start is not None and text.startswith(start) else {}

    def _process(self, images: Sequence[PreparedImage], text: str) -> dict[str, Tensor]:
        processor = copy.copy(self._processor)
        processor.image_processor = _Remembering(self._processor.image_processor, images, self._spec.prompt)
        try:
            pictures = [one.image for one in images]
            options = {**self._spec.prompt.arguments, **self.special_tokens(text)}
            encoded = processor(images=pictures, text=[text], return_tensors="pt", **options)
        except ValueError as error:
            sizes = ", ".join(f"{p.image.width} x {p.image.height}" for p in images)
            raise AttnLensError(
                f"{type(self._processor).__name__} refused the prompt {text!r} with images of {sizes} px: {error} "
                "If it is about an image, crop or resize that. If it is about the prompt, correct it in the adapter "
                f"{self._spec.name!r}: a literal template needs {{images}}."
            ) from error
        except TypeError as error:
            raise AttnLensError(
                f"{type(self._processor).__name__} fails on its own image processor's output, or on what the adapter "
                f"{self._spec.name!r} says it is called with ({first_line(error)}). Some processors run with "
                "torchvision's image processors only: install the torchvision that belongs to your torch, or hand over "
                "another processor."
            ) from error
        self._keep_pixels(images, encoded)
        device = self._model.device
        return {  # pixels stay where they are: most questions need them no more
            key: value if not isinstance(value, Tensor) or value.is_floating_point() else value.to(device)
            for key, value in encoded.items()
            if isinstance(value, Tensor) or key in self._accepted
        }

    def _keep_pixels(self, images: Sequence[PreparedImage], encoded: Any) -> None:
        """Each image's own pixels, where the processor cuts them from what its image processor puts out (Fuyu)."""
        pixels = self._spec.prompt.pixels
        if pixels not in encoded:
            return
        for one in images:
            if len(images) == 1:
                one.features.setdefault(pixels, encoded[pixels])
            elif pixels not in one.features:
                self._process([one], self.text(1, "?"))

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
        return isinstance(value, Tensor) and value.shape == ids.shape and key not in self._spec.prompt.per_image

    def _image_positions(
        self, ids: Tensor, inputs: dict[str, Any], images: Sequence[PreparedImage]
    ) -> tuple[tuple[int, ...], ...]:
        marked = self._spec.prompt.image_mask
        at = torch.nonzero(ids[0] == self._image_token_id if marked is None else inputs[marked][0]).flatten().tolist()
        if not at:
            raise AttnLensError(
                f"The prompt has no image token (id {self._image_token_id}). Check image_token_id and prompt in the "
                f"adapter {self._spec.name!r}: a literal template needs {{images}}."
            )
        counts = [layout.tokens for layout in self.layouts(images)]
        if sum(counts) != len(at):
            raise AttnLensError(
                f"A grid that does not fit: the grid kind {self._spec.grid.kind!r} of the adapter {self._spec.name!r} "
                f"gives {' + '.join(map(str, counts))} tokens to the image(s), and the prompt holds {len(at)} image "
                "tokens. Correct grid in the adapter (its kind, patch, merge, or tokens without a place), or "
                "image_token_id."
            )
        ends = [sum(counts[: number + 1]) for number in range(len(counts))]
        return tuple(tuple(at[end - count : end]) for count, end in zip(counts, ends, strict=True))


class _Remembering:
    """An image processor that processes each `PreparedImage` once; everything else is the real one's."""

    def __init__(self, real: Any, prepared: Sequence[PreparedImage], spec: PromptSpec) -> None:
        self._real = real
        self._prepared = prepared
        self._spec = spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        features = []
        for prepared in self._meant(_flat(images)):
            if not prepared.features:
                made = self._made(prepared.image, kwargs)
                prepared.settings = kwargs
                prepared.features, prepared.bare = features_of(made, self._spec), isinstance(made, Tensor)
            features.append(prepared.features)
        together = concat_images(features, self._spec)
        bare = any(one.bare for one in self._prepared)
        return together[self._spec.pixels][0] if bare else BatchFeature(together)

    def _made(self, image: Image.Image, kwargs: dict[str, Any]) -> Any:
        try:
            return self._real(as_prompt_images([image], self._spec), **{**kwargs, "return_tensors": "pt"})
        except (ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError) as error:
            raise AttnLensError(
                f"{type(self._real).__name__} cannot process an image of {image.width} x {image.height} px "
                f"({type(error).__name__}: {first_line(error)}). Crop or resize the image."
            ) from error

    def _meant(self, images: Sequence[Any]) -> list[PreparedImage]:
        """The images that the processor asks for; some processors copy them before, and keep their order."""
        known = {id(one.image): one for one in self._prepared}
        if all(id(image) in known for image in images):
            return [known[id(image)] for image in images]
        if len(images) != len(self._prepared):
            raise AttnLensError(
                f"The processor asks its image processor for {len(images)} copies of {len(self._prepared)} images. "
                "Use a processor that hands images on as they are, all at once."
            )
        return list(self._prepared)


def _as_called(image_processor: Any, settings: Mapping[str, Any]) -> Any:
    """`image_processor` as it is while its processor calls it with `settings`, which come before its own."""
    found = copy.copy(image_processor)
    for name, value in settings.items():
        if hasattr(found, name) and not callable(getattr(found, name)):
            setattr(found, name, size_called(found, name, value) if name in ("size", "crop_size") else value)
    return found


def _flat(images: Any) -> list[Any]:
    if not isinstance(images, list | tuple):
        return [images]
    return [one for part in images for one in _flat(part)]
