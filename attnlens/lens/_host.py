"""What a reading runs on: a model with its processor and adapter, and all that is made once for the three."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnlens._upstream import is_hooked
from attnlens.adapters._schema import AdapterSpec, Defaults
from attnlens.errors import AttnLensError
from attnlens.lens._capture.hidden_states import first_not_finite
from attnlens.lens._capture.tracer import Tracer
from attnlens.lens._cost import Meter
from attnlens.lens._inputs.batching import on_device
from attnlens.lens._inputs.prompt import Prompt, Prompter
from attnlens.lens._model.broken import check_runs
from attnlens.lens._model.exclusive import lock_of
from attnlens.lens._model.generator import Generator, decoder_prompt
from attnlens.lens._model.structure import Structure, structure_of


class Host:
    """One for each lens; its parts are what the rest of `lens` works with."""

    def __init__(self, model: Any, processor: Any, adapter: AdapterSpec) -> None:
        check_runs(model.config.model_type)
        self.model: Any = model
        self.processor: Any = processor
        self.adapter: AdapterSpec = adapter
        self.tokenizer: Any = processor.tokenizer
        self.structure: Structure = structure_of(model, self.tokenizer, adapter)
        self.generator: Generator = Generator(self.structure.generator, self.tokenizer)
        self.prompter: Prompter = Prompter(processor, adapter, model, self.structure.image_token_id)
        self.tracer: Tracer = Tracer(model)
        self.meter: Meter = Meter()
        self.face: Any = None  # the lens around it, which `Reading.lens` of 0.1.0 was

    def __deepcopy__(self, memo: dict[int, Any]) -> Host:
        """Between two looks, so that the copy is the model as it is at rest. Raises AttnLensError where it is bound to
        devices by hooks, or quantised: no copy of it is sure to run on weights of its own."""
        if getattr(self.model, "is_quantized", False) or is_hooked(self.model):
            raise AttnLensError(
                f"This {self.name} is quantised or spread over devices, and cannot be copied. Load it once more for a "
                "second lens; one lens may be used from several threads."
            )
        with lock_of(self.model):
            return Host(copy.deepcopy(self.model, memo), copy.deepcopy(self.processor, memo), self.adapter)

    @property
    def name(self) -> str:
        """The model's class, for messages."""
        return type(self.model).__name__

    @property
    def defaults(self) -> Defaults:
        """What the adapter states of layers, window and presets."""
        return self.adapter.defaults

    @property
    def depth(self) -> int:
        """How many layers the language model has, as far as its attention is known."""
        return max(self.structure.layers) + 1

    def inputs(self, prompt: Prompt) -> dict[str, Any]:
        """The whole prompt as the whole model takes it."""
        inputs = {"input_ids": prompt.ids, "attention_mask": torch.ones_like(prompt.ids), **prompt.extras}
        inputs |= on_device(prompt.vision(), self.model)
        if self.structure.attends_to == "encoder":
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

    def check_log_probs(self, prompt: Prompt, log_probs: Tensor) -> None:
        """Raises AttnLensError unless these are logarithms of probabilities: a token that cannot come has -inf.

        Where they are not, the model reads the prompt once more, to say in which layer that begins.
        """
        if bool((log_probs < math.inf).all()):  # false of NaN, too
            return
        layer = first_not_finite(self.model, self.structure, self.inputs(prompt))
        begun = f"first in what enters layer {layer}" if layer is not None else "in or behind the last layer"
        raise self._not_finite("logits", f"{begun} of its language model")

    def check_by_layer(self, what: str, values: Sequence[Tensor]) -> None:
        """Raises AttnLensError unless `what`, of each layer of the structure or of none, is finite."""
        if values:
            layers = [f"layer {number} of its language model" for number in self.structure.layers]
            self.check_finite(what, values, layers)

    def check_finite(self, what: str, values: Sequence[Tensor], places: Sequence[str]) -> None:
        """Raises AttnLensError unless all of `values`, which are `what` in so many `places`, are finite."""
        for place, one in zip(places, values, strict=True):
            if not bool(one.isfinite().all()):
                raise self._not_finite(what, f"first in {place}")

    def _not_finite(self, what: str, where: str) -> AttnLensError:
        """Numbers that are none: what a model in too narrow a dtype, or with damaged weights, gives."""
        # Weights on the meta device are where accelerate offloads them: elsewhere.
        here = ((name, weights) for name, weights in self.model.named_parameters() if not weights.is_meta)
        damaged = [name for name, weights in here if not bool(weights.isfinite().all())]
        advice = (
            f"Its weights are not finite themselves ({', '.join(damaged[:3])}): get the checkpoint anew."
            if damaged
            else 'Load it in a wider dtype: dtype="float32", or "bfloat16".'
        )
        return AttnLensError(
            f"{self.name} in {str(self.model.dtype).removeprefix('torch.')} gives {what} that are not finite "
            f"(NaN or infinite), {where}. {advice}"
        )

    def layer_index(self, layer: int | str | None = None) -> int | None:
        """The index into `Trace.layers` of a layer's number; None stands for the mean of all.

        `layer`: a layer's number, "mean", or None for the adapter's default (scaled to this model's depth).
        """
        return _index(self._default_layer() if layer is None else layer, self.structure.layers, "layer")

    def connector_layer_index(self, layer: int | str | None = None) -> int | None:
        """The same for the connector: the index of one of its attention layers; None stands for the mean of all."""
        count = len(self.structure.connector)
        if layer is None:
            layer = self.defaults.connector_layer
            layer = min(layer, count - 1) if isinstance(layer, int) else layer
        return _index(layer, tuple(range(count)), "connector layer")

    @property
    def value_layers(self) -> tuple[int, int] | None:
        """The first and the last layer whose cached values show where an object is, as the adapter says, scaled to this
        model's depth; None where it does not say."""
        stated, layers = self.defaults.value_layers, self.defaults.layers
        if stated is None or layers is None:
            return stated
        return self._scaled(stated[0], layers), self._scaled(stated[1], layers)

    def _default_layer(self) -> int | str:
        layer, layers = self.defaults.layer, self.defaults.layers
        if layer == "mean" or layers is None:
            return layer
        wanted = self._scaled(layer, layers)
        return min(self.structure.layers, key=lambda one: abs(one - wanted))

    def _scaled(self, layer: int, depth: int) -> int:
        """As deep in this model as `layer` in one of `depth` layers."""
        return int((layer + 0.5) / depth * self.depth)


def _index(layer: int | str, layers: Sequence[int], word: str) -> int | None:
    if layer == "mean":
        return None
    if isinstance(layer, bool) or layer not in layers:
        known = ", ".join(map(str, layers))
        raise AttnLensError(f"There is no {word} {layer!r} with attention to see. Expected one of {known}, or 'mean'.")
    return list(layers).index(int(layer))
