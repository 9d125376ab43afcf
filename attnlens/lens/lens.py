"""A loaded model with its processor and adapter, ready to read images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from attnlens.adapters.schema import AdapterSpec
from attnlens.errors import AttnLensError
from attnlens.geometry import is_count
from attnlens.images import open_image
from attnlens.lens.batch import next_tokens
from attnlens.lens.broken import check_runs
from attnlens.lens.cost import Meter
from attnlens.lens.exclusive import exclusively
from attnlens.lens.generator import Generator, decoder_prompt
from attnlens.lens.joining import on_device
from attnlens.lens.prompts import PreparedImage, Prompt, Prompter
from attnlens.lens.reading import Reading
from attnlens.lens.structure import structure_of
from attnlens.lens.trace import Array
from attnlens.lens.tracer import Tracer


class Lens:
    """What `attnlens.load` returns: `read` an image with it, then ask."""

    def __init__(self, model: Any, processor: Any, spec: AdapterSpec) -> None:
        check_runs(model.config.model_type)
        self.model = model
        self.processor = processor
        self.spec = spec
        self.tokenizer = processor.tokenizer
        self.structure = structure_of(model, self.tokenizer, spec)
        self.generator = Generator(self.structure.generator, self.tokenizer)
        self.prompter = Prompter(processor, spec, model, self.structure.image_token_id)
        self.tracer = Tracer(model)
        self.meter = Meter()

    def read(self, image: Any) -> Reading:
        """Read one image, or a list of them: each a path, a PIL image or an array. Raises `AttnLensError`."""
        images = list(image) if isinstance(image, list | tuple) else [image]
        if not images:
            raise AttnLensError("There is no image to read: the list is empty. Give at least one.")
        return Reading(self, [PreparedImage(open_image(one)) for one in images])

    @exclusively
    def next_tokens(self, images: Sequence[Any], question: str, batch: int = 8) -> Array:
        """log p of every token as the answer's first, to `question` about each of `images` alone.

        float32 [images, vocabulary]. Images of the same size go through the model together, `batch` at a time; each
        counts as a pass. Nothing is kept: `read` one that has more questions to answer.
        """
        if not is_count(batch):
            raise AttnLensError(f"batch is {batch!r}; expected a whole number of images, at least 1.")
        return next_tokens([self.read(image) for image in images], question, batch)

    def inputs(self, prompt: Prompt) -> dict[str, Any]:
        """The whole prompt as the whole model takes it."""
        inputs = {"input_ids": prompt.ids, "attention_mask": torch.ones_like(prompt.ids), **prompt.extras}
        inputs |= on_device(prompt.vision(), self.model)
        if self.structure.keys == "encoder":
            inputs["decoder_input_ids"] = decoder_prompt(self.generator.model, prompt.ids)
        return inputs | self.generator.last_logits_only

    def check_context(self, tokens: int) -> None:
        """Raises AttnLensError where a prompt, or a prompt and its answer, of so many tokens is too long."""
        context = self.structure.context
        if context is not None and tokens > context:
            raise AttnLensError(
                f"The prompt and its answer take {tokens} tokens, and the model's context holds {context}. Shorten the "
                "question, read fewer or smaller images, or ask for fewer regions (count=) or new tokens."
            )

    def layer(self, layer: int | str | None = None) -> int | None:
        """The index into `Trace.layers` to read attention from; None stands for the mean of all.

        `layer`: a layer's number, "mean", or None for the adapter's default (scaled to this model's depth).
        """
        layers = self.structure.layers
        return _index(self._default_layer() if layer is None else layer, layers, "layer")

    def _default_layer(self) -> int | str:
        defaults, layers = self.spec.defaults, self.structure.layers
        if defaults.layer == "mean" or defaults.layers is None:
            return defaults.layer
        wanted = self._scaled(defaults.layer, defaults.layers)
        return min(layers, key=lambda one: abs(one - wanted))

    @property
    def value_layers(self) -> tuple[int, int] | None:
        """The first and the last layer whose cached values show where an object is, as the adapter says, scaled to this
        model's depth; None where it does not say."""
        stated, layers = self.spec.defaults.value_layers, self.spec.defaults.layers
        if stated is None or layers is None:
            return stated
        return self._scaled(stated[0], layers), self._scaled(stated[1], layers)

    def _scaled(self, layer: int, depth: int) -> int:
        """As deep in this model as `layer` in one of `depth` layers."""
        return int((layer + 0.5) / depth * (max(self.structure.layers) + 1))

    def connector_layer(self, layer: int | str | None = None) -> int | None:
        """The same for the connector: the index of one of its attention layers; None stands for the mean of all."""
        count = len(self.structure.connector)
        if layer is None:
            layer = self.spec.defaults.connector_layer
            layer = min(layer, count - 1) if isinstance(layer, int) else layer
        return _index(layer, tuple(range(count)), "connector layer")


def _index(layer: int | str, layers: Sequence[int], word: str) -> int | None:
    if layer == "mean":
        return None
    if isinstance(layer, bool) or layer not in layers:
        known = ", ".join(map(str, layers))
        raise AttnLensError(f"There is no {word} {layer!r} with attention to see. Expected one of {known}, or 'mean'.")
    return list(layers).index(int(layer))
