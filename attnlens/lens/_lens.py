"""A loaded model with its processor and adapter, ready to read images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NoReturn

from attnlens._images import open_image
from attnlens._renamed import Renamed
from attnlens.adapters._schema import AdapterSpec
from attnlens.errors import AttnLensError
from attnlens.lens._cost import Meter
from attnlens.lens._host import Host
from attnlens.lens._inputs.prompt import PreparedImage
from attnlens.lens._next_tokens import next_tokens
from attnlens.lens._reading import Reading
from attnlens.lens._text import generate_text
from attnlens.lens._trace import Array


class Lens:
    """What `attnlens.load` returns: `read` an image with it, then ask.

    `copy.deepcopy` makes a lens of its own, with a copy of the model. A lens is not pickled: load it where it is used.
    """

    def __init__(self, model: Any, processor: Any, adapter: AdapterSpec) -> None:
        self._host = Host(model, processor, adapter)
        self._host.face = self

    spec, layer, connector_layer = Renamed("adapter"), Renamed("layer_index"), Renamed("connector_layer_index")
    structure, generator, prompter = Renamed("_host.structure"), Renamed("_host.generator"), Renamed("_host.prompter")
    tracer, inputs = Renamed("_host.tracer"), Renamed("_host.inputs")

    @property
    def model(self) -> Any:
        """The model of transformers, as it was loaded or handed over."""
        return self._host.model

    @property
    def processor(self) -> Any:
        """The processor that makes the model's inputs."""
        return self._host.processor

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self._host.tokenizer

    @property
    def adapter(self) -> AdapterSpec:
        """The facts of the model's family."""
        return self._host.adapter

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of the language model's layers whose attention is seen, as in `Trace.layers`."""
        return self._host.structure.layers

    @property
    def depth(self) -> int:
        """How many layers the language model has."""
        return self._host.depth

    @property
    def connector_layers(self) -> tuple[int, ...]:
        """The numbers of the connector's attention layers; empty where it has no attention."""
        return tuple(range(len(self._host.structure.connector)))

    @property
    def meter(self) -> Meter:
        """Counts the model's work: `meter.measure()` gives the `Cost` of a stretch of it."""
        return self._host.meter

    def __deepcopy__(self, memo: dict[int, Any]) -> Lens:
        made = Lens.__new__(Lens)
        made._host = copy.deepcopy(self._host, memo)
        made._host.face = made
        return made

    def __reduce__(self) -> NoReturn:
        raise AttnLensError(
            "A Lens holds a model and is not pickled. Load it with attnlens.load where it is used; copy.deepcopy makes "
            "a second one here. Traces, maps and results can be pickled."
        )

    def read(self, image: Any) -> Reading:
        """Read one image, or a list of them: each a path, a PIL image or an array. Raises `AttnLensError`."""
        images = list(image) if isinstance(image, list | tuple) else [image]
        if not images:
            raise AttnLensError("There is no image to read: the list is empty. Give at least one.")
        return Reading(self._host, [PreparedImage(open_image(one)) for one in images])

    def next_tokens(self, images: Sequence[Any], question: str, batch: int = 8) -> Array:
        """log p of every token as the answer's first, to `question` about each of `images` alone.

        float32 [images, vocabulary]. Images of the same size go through the model together, `batch` at a time; each
        counts as a pass. Nothing is kept: `read` one that has more questions to answer.
        """
        return next_tokens(self._host, [open_image(one) for one in images], question, batch)

    def generate_text(self, text: str, max_new_tokens: int = 64) -> str:
        """The model's greedy reply to `text` alone, without any image, in at most `max_new_tokens` tokens.

        The prompt is that of a question without its images: the processor's chat template, or the adapter's literal
        one, as the tokenizer reads it; what a processor writes around an image and its text (PaliGemma's newline) is
        not in it. Where a connector stands between the image and an inner language model (InstructBLIP), that one
        replies. It counts as one forward pass. Raises AttnLensError for a text that is empty, that holds an image token
        or is longer than the model's context, and for a model that cannot do without an image (Idefics).
        """
        return generate_text(self._host, text, max_new_tokens)

    def layer_index(self, layer: int | str | None = None) -> int | None:
        """The index into `layers`, and `Trace.layers`, to read attention from; None stands for the mean of all.

        `layer`: a layer's number, "mean", or None for the adapter's default (scaled to this model's depth). Raises
        AttnLensError for a layer without attention to see.
        """
        return self._host.layer_index(layer)

    def connector_layer_index(self, layer: int | str | None = None) -> int | None:
        """The same for the connector: the index into `connector_layers`; None stands for the mean of all."""
        return self._host.connector_layer_index(layer)

    @property
    def value_layers(self) -> tuple[int, int] | None:
        """The first and the last layer whose cached values show where an object is, as the adapter says, scaled to this
        model's depth; None where it does not say."""
        return self._host.value_layers
