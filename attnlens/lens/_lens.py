"""A loaded model with its processor and adapter, ready to read images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

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

    Examples:
        >>> reading = lens.read(image)
        >>> reading.answer(question).text
        '2'
    """

    def __init__(self, model: Any, processor: Any, adapter: AdapterSpec) -> None:
        self._host = Host(model, processor, adapter)
        self._host.face = self

    if not TYPE_CHECKING:  # words of 0.1.0
        spec, layer, connector_layer = Renamed("adapter"), Renamed("layer_index"), Renamed("connector_layer_index")
        structure = Renamed("_host.structure", "private: Lens.layers and Lens.connector_layers are what it has to say")
        generator, prompter = Renamed("_host.generator", "private"), Renamed("_host.prompter", "private")
        tracer, inputs = Renamed("_host.tracer", "private"), Renamed("_host.inputs", "private")

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
        """Read one image, or a list of them, to be asked about again and again.

        Args:
            image: one image, or a list or tuple of them, each a path, a PIL image or an array [height, width] or
                [height, width, 1 | 3 | 4].

        Returns:
            The `Reading` of the images, in their order.

        Raises:
            AttnLensError: for an empty list, and for an image that cannot be opened or that the model cannot take.

        Examples:
            >>> lens.read(image).image.size
            (400, 400)
            >>> len(lens.read([image, image.crop((0, 0, 100, 100))]).images)
            2
        """
        images = list(image) if isinstance(image, list | tuple) else [image]
        if not images:
            raise AttnLensError("There is no image to read: the list is empty. Give at least one.")
        return Reading(self._host, [PreparedImage(open_image(one)) for one in images])

    def next_tokens(self, images: Sequence[Any], question: str, batch: int = 8) -> Array:
        """log p of every token as the answer's first, to a question about each of many images alone.

        Nothing is kept: `read` an image that has more questions to answer.

        Args:
            images: the images, each a path, a PIL image or an array.
            question: what is asked about each.
            batch: how many images of the same size go through the model together, at most; each counts as a pass.

        Returns:
            float32 [images, vocabulary].

        Raises:
            AttnLensError: for no image, one that cannot be opened, a question without text, and a `batch` that is no
                whole number of at least 1.

        Examples:
            >>> log_probs = lens.next_tokens([image, image.crop(scene.box)], question)
            >>> [lens.tokenizer.decode(row.argmax()) for row in log_probs]
            ['2', '6']
        """
        return next_tokens(self._host, [open_image(one) for one in images], question, batch)

    def generate_text(self, text: str, max_new_tokens: int = 64) -> str:
        """The model's greedy reply to a text alone, without any image.

        The prompt is that of a question without its images: the processor's chat template, or the adapter's literal
        one, as the tokenizer reads it; what a processor writes around an image and its text (PaliGemma's newline) is
        not in it. Where a connector stands between the image and an inner language model (InstructBLIP), that one
        replies. It counts as one forward pass.

        Args:
            text: what the model replies to.
            max_new_tokens: how many tokens the reply has at most.

        Returns:
            The reply, without special tokens and outer spaces.

        Raises:
            AttnLensError: for a text that is empty, that holds an image token or is longer than the model's context,
                and for a model that cannot do without an image (Idefics).

        Examples:
            >>> lens.generate_text("Name a colour.")
            'blue'
        """
        return generate_text(self._host, text, max_new_tokens)

    def layer_index(self, layer: int | str | None = None) -> int | None:
        """The index into `layers`, and `Trace.layers`, to read attention from.

        Args:
            layer: a layer's number, "mean" for all of them, or None for the adapter's default (scaled to this model's
                depth).

        Returns:
            The index; None stands for the mean of all.

        Raises:
            AttnLensError: for a layer without attention to see.

        Examples:
            >>> lens.layer_index(2), lens.layer_index("mean")
            (2, None)
        """
        return self._host.layer_index(layer)

    def connector_layer_index(self, layer: int | str | None = None) -> int | None:
        """The index into `connector_layers` to read the connector's attention from.

        Args:
            layer: the number of one of the connector's attention layers, "mean" for all of them, or None for the
                adapter's default (the last, where this model's connector has fewer).

        Returns:
            The index; None stands for the mean of all.

        Raises:
            AttnLensError: for a layer without attention to see.

        Examples:
            >>> attnlens.load("pocket/instructblip").connector_layer_index(0)
            0
        """
        return self._host.connector_layer_index(layer)

    @property
    def value_layers(self) -> tuple[int, int] | None:
        """The first and the last layer whose cached values show where an object is, as the adapter says, scaled to this
        model's depth; None where it does not say."""
        return self._host.value_layers
