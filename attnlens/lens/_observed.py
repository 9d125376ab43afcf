"""What a reading shows: attention, values, gradients and pixels of images that a model has read.

What has been read stays in a KV cache, and what a question adds is a short tail on it (_prefix). For its attention the
last token runs once more by itself, with its weights returned (_capture/passes).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from attnlens._renamed import Renamed
from attnlens.adapters._schema import Defaults
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.lens._capture import hidden_states, passes
from attnlens.lens._capture.arrays import array, keys_of, patches_of, rows_at, spans_of, word_rows_at
from attnlens.lens._cost import Meter
from attnlens.lens._host import Host
from attnlens.lens._inputs.prompt import PreparedImage, Prompt, checked_question
from attnlens.lens._inputs.token_positions import positions_of
from attnlens.lens._layouts import Layout
from attnlens.lens._model.exclusive import exclusive, exclusively
from attnlens.lens._model.kv_cache import branch
from attnlens.lens._prefix import PrefixCache
from attnlens.lens._trace import ImageTrace, Trace, image_trace, pick_image
from attnlens.lens._values import ValueSimilarity, cosines
from attnlens.lens._words import WordAttention, positions_after_images

LayerChoice = int | Literal["mean"] | None
"""A layer's number, "mean" for all of them, or None for the adapter's default."""
Sinks = Literal["keep", "mask"]
"""What is to be done with attention sinks."""


class Observed:
    """Images that a model has read, to be looked at with any question: what `Reading` has to show."""

    def __init__(self, host: Host, images: Sequence[PreparedImage], before: PrefixCache | None = None) -> None:
        self._host = host
        self._prepared = tuple(images)
        self._traces: dict[str, Trace] = {}
        self._sinks: dict[tuple[float, ...], hidden_states.Marks] = {}
        self._prefix = PrefixCache(host, self._prompt, lambda: self._beginning, before)
        if not all(one.features for one in self._prepared):
            self._beginning  # noqa: B018 - what is wrong with the images shows here, not at the first question

    @property
    def model(self) -> Any:
        """The model that has read the images."""
        return self._host.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that reads the questions."""
        return self._host.tokenizer

    @property
    def defaults(self) -> Defaults:
        """What the adapter states of layers, window and presets."""
        return self._host.defaults

    @property
    def depth(self) -> int:
        """How many layers the language model has."""
        return self._host.depth

    @property
    def value_layers(self) -> tuple[int, int] | None:
        """As `Lens.value_layers`."""
        return self._host.value_layers

    @property
    def meter(self) -> Meter:
        """Counts the model's work, as `Lens.meter`."""
        return self._host.meter

    if not TYPE_CHECKING:  # words of 0.1.0
        prompt = Renamed("_prompt", "private: Reading.token_positions and Trace.input_ids are what it has to say")
        columns = Renamed("_columns", "private: Trace.attention has those columns")

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The images read, in order."""
        return tuple(p.image for p in self._prepared)

    @property
    def image(self) -> Image.Image:
        """The first image."""
        return self._prepared[0].image

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """For each image, which cells its tokens (or, behind a connector with attention, its patches) are."""
        return self._host.prompter.layouts(self._prepared)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """For each image, where its tokens (or, behind a connector with attention, its patches) lie in it."""
        return tuple(layout.grid for layout in self.layouts)

    @property
    def tokens_have_places(self) -> bool:
        """Whether image tokens stand for cells of the image; behind a connector with attention they do not."""
        cross = self._host.structure.attends_to == "image"
        return cross or all(layout.queries is None for layout in self.layouts)

    @exclusively
    def trace(self, question: str, gradients: bool = False) -> Trace:
        """Attention, and gradients if wanted, of the last prompt token. Kept: asking twice is free.

        Args:
            question: what is asked about the images.
            gradients: whether the trace holds d log p(top_token) / d attention, too.

        Returns:
            The `Trace` of all images, layers and heads.

        Raises:
            AttnLensError: for a question that cannot be asked or is too long with the images, and for attention or
                gradients that are not finite.

        Examples:
            >>> reading.trace(question).attention.shape
            (4, 4, 100)
            >>> reading.trace(question, gradients=True).attention_gradient.shape
            (4, 4, 100)
        """
        known = self._traces.get(checked_question(question))
        if known is None or (gradients and known.attention_gradient is None):
            known = self._traced(*self._prefix.captured(question, gradients))
            self._traces[question] = known
        return known

    def image_trace(
        self,
        question: str,
        image: int = 0,
        *,
        layer: LayerChoice = None,
        connector_layer: LayerChoice = None,
        gradients: bool = False,
        sinks: Sinks = "keep",
    ) -> ImageTrace:
        """What one image has of the question's trace: all that a map is made of.

        Args:
            question: what is asked about the images.
            image: the number of the image, counted from 0.
            layer: a layer's number, "mean" for all of them, or None for the adapter's default (scaled to this model's
                depth).
            connector_layer: the same for the connector, where it has attention.
            gradients: whether the gradients of attention come with it.
            sinks: "mask" marks the image's attention sinks, as `Reading.sinks` tells them; "keep" marks none.

        Returns:
            Arrays with the axes of those of `Trace`, with the one layer chosen or with all for "mean", and with this
                image's tokens alone; and the image's layout.

        Raises:
            AttnLensError: for an unknown image, layer or value of `sinks`, and as `trace` and `sinks`.

        Examples:
            >>> one = reading.image_trace(question, layer=2)
            >>> one.attention.shape, one.layers, one.grid.shape
            ((1, 4, 100), (2,), (10, 10))
        """
        seen = self.trace(question, gradients)
        return self._of_image(seen, question, image, layer, connector_layer, sinks)

    @exclusively
    def word_attention(self, question: str, words: str | Sequence[int]) -> WordAttention:
        """Attention to the images from each token of some words of a question.

        Exact, with only those rows computed eagerly: in one short pass on the images' cache, or in one over the
        whole prompt where the images cannot be read before the question.

        Args:
            question: what is asked about the images.
            words: a part of `question`, or positions in its prompt.

        Returns:
            The `WordAttention`, one row for each token of `words`.

        Raises:
            AttnLensError: for words that the question does not hold, or that do not look at the images, such as those
                before them in the prompt, or all of them in an encoder-decoder.

        Examples:
            >>> reading.word_attention(question, "pink sign").attention.shape
            (4, 4, 2, 100)
        """
        host, prompt = self._host, self._prompt(question)
        structure, at = host.structure, positions_after_images(prompt, host.structure, host.tokenizer, words)
        whole = structure.strategy != "shared"
        stop, connector = (prompt.length, structure.connector) if whole else (max(at) + 1, ())
        inputs = {**host.inputs(prompt), "use_cache": False} if whole else self._prefix.tail(question, prompt, stop)
        queries = [one - stop for one in at]
        rows, connected = passes.words(host.model, host.tracer, structure, inputs, queries, connector)
        host.meter.forward(prompt.image_tokens if whole else 0)
        host.check_by_layer("attention", rows)
        spans, layouts = spans_of(self._keys(prompt)), self._plain()
        length = spans[-1].stop if structure.attends_to == "image" else stop
        return WordAttention(
            attention=word_rows_at(rows, self._columns(prompt), length),
            connector_attention=patches_of(connected, layouts),
            layers=structure.layers,
            words=at,
            spans=spans,
            layouts=tuple(layout.with_cells for layout in layouts) if connected else layouts,
        )

    def image_word_attention(
        self,
        question: str,
        words: str | Sequence[int],
        image: int = 0,
        *,
        layer: LayerChoice = None,
        connector_layer: LayerChoice = None,
        sinks: Sinks = "keep",
    ) -> ImageTrace:
        """What one image has of the attention from some words of the question: all that a map is made of.

        Args:
            question: what is asked about the images.
            words: a part of `question`, or positions in its prompt.
            image: the number of the image, counted from 0.
            layer: a layer's number, "mean" for all of them, or None for the adapter's default (scaled to this model's
                depth).
            connector_layer: the same for the connector, where it has attention.
            sinks: "mask" marks the image's attention sinks, as `Reading.sinks` tells them; "keep" marks none.

        Returns:
            As `image_trace`, with an axis of words in `attention`, and without gradients.

        Raises:
            AttnLensError: for an unknown image, layer or value of `sinks`, and as `word_attention` and `sinks`.

        Examples:
            >>> reading.image_word_attention(question, "pink sign", layer=2).attention.shape
            (1, 4, 2, 100)
        """
        seen = self.word_attention(question, words)
        return self._of_image(seen, question, image, layer, connector_layer, sinks)

    @exclusively
    def answer_attention(self, question: str, answer: str) -> WordAttention:
        """Attention to the images when each token of a given answer is to come.

        Exact, and of the very passes that would generate this answer: the row of a token is that of the token before
        it, from which it is predicted; the first one's is that of the prompt's last token, as in `trace`. One short
        pass on the cache for each.

        Args:
            question: what is asked about the images.
            answer: some text that the model might say; it need not be what it does say.

        Returns:
            The `WordAttention`, whose `words` are the answer's tokens, at their positions behind the prompt.

        Raises:
            AttnLensError: for an answer without text or longer than the context, and for a model that leaves no cache
                to go on from.

        Examples:
            >>> seen = reading.answer_attention(question, "6")
            >>> seen.attention.shape, reading.trace(question).input_ids.shape, seen.words
            ((4, 4, 1, 100), (114,), (114,))
        """
        host, asked = self._host, self._prefix.of(question)
        tokens = self._answer_tokens(answer)
        host.check_context(asked.prompt.length + len(tokens))
        if asked.cache is None or host.generator.model is not host.model:
            raise AttnLensError(
                f"{host.name} as a whole goes on from no KV cache, as a given answer asks for. Use "
                "`trace`, which shows the attention before its first token."
            )
        whole, cache = asked.prompt.continued(tokens), branch(asked.cache)
        positions, start = host.generator.positions(whole), asked.prompt.length - 1
        rows = []
        for at in range(start, start + len(tokens)):
            inputs = host.generator.chunk(whole, positions, at, at + 1, cache)
            found, _ = passes.words(host.model, host.tracer, host.structure, inputs, [-1], ())
            host.check_by_layer("attention", found)
            host.meter.forward()
            rows.append(word_rows_at(found, self._columns(asked.prompt), at + 1))
        return WordAttention(
            attention=np.concatenate(rows, axis=2),
            connector_attention=None,
            layers=host.structure.layers,
            words=tuple(range(asked.prompt.length, whole.length)),
            spans=spans_of(self._keys(asked.prompt)),
            layouts=self._plain(),
        )

    def _answer_tokens(self, answer: str) -> list[int]:
        if not isinstance(answer, str) or not answer.strip():
            raise AttnLensError(f"The answer is {answer!r}; expected some text that the model might say.")
        return [int(token) for token in self._host.tokenizer.encode(answer, add_special_tokens=False)]

    def _of_image(
        self,
        seen: Trace | WordAttention,
        question: str,
        image: int,
        layer: LayerChoice,
        connector_layer: LayerChoice,
        sinks: Sinks,
    ) -> ImageTrace:
        if sinks not in ("keep", "mask"):
            raise AttnLensError(f"sinks is {sinks!r}; expected 'keep' or 'mask'.")
        connector = None if seen.connector_attention is None else self._host.connector_layer_index(connector_layer)
        marks = self.sinks(question) if sinks == "mask" else None
        return image_trace(seen, image, self._host.layer_index(layer), connector, marks)

    @exclusively
    def value_similarity(self, question: str, words: str | Sequence[int]) -> ValueSimilarity:
        """How like the cached values of some words are to those of every token of the prompt.

        The cache is that of the question's tail on the images already read: no pass is added to what an answer needs.

        Args:
            question: what is asked about the images.
            words: a part of `question`, or positions in its prompt.

        Returns:
            The `ValueSimilarity` of all images, layer by layer.

        Raises:
            AttnLensError: for words that the question does not hold or that the tokenizer has no token for, and for a
                model that leaves no cache.

        Examples:
            >>> reading.value_similarity(question, "pink").cosines.shape
            (4, 1, 113)
        """
        host, asked = self._host, self._prefix.of(question)
        if asked.cache is None:
            raise AttnLensError(f"{host.name} leaves no KV cache whose values could be read. Use a map of attention.")
        at = positions_of(asked.prompt, host.tokenizer, words)
        found, layers = cosines(asked.cache, host.structure.layers, at, asked.prompt.length - 1)
        return ValueSimilarity(array(found), tuple(layers), at, asked.prompt.positions, self._plain())

    @exclusively
    def sinks(self, question: str, tau: float = hidden_states.TAU) -> hidden_states.Marks:
        """Which image tokens are attention sinks at which layer.

        A pass of its own over the prompt; where the images are read before the question, as they do not depend on it,
        the first one serves every question.

        A sink's state, over its root mean square, exceeds `tau` in a massive dimension (VAR, arXiv 2503.03321).
        Deviation: the paper lists the massive dimensions by hand for two models; here they are those in which the
        prompt's first token exceeds `tau` itself.

        Args:
            question: what is asked about the images.
            tau: the threshold; 20 is VAR's. A model narrower than 400 has no sinks at 20.

        Returns:
            bool [layers, image_tokens], with the axes of `Trace`.

        Raises:
            AttnLensError: where image tokens have no hidden state, as with cross-attention to the image.

        Examples:
            >>> reading.sinks(question).shape, int(reading.sinks(question).sum())
            ((4, 100), 0)
        """
        host, prompt = self._host, self._prompt(question)
        shared = host.structure.strategy == "shared"
        key = (tau, *prompt.ids[0, : prompt.end_of_images if shared else prompt.length].tolist())
        if key not in self._sinks:
            found = hidden_states.sinks(host.model, host.structure, host.inputs(prompt), prompt.length, tau)
            host.meter.forward(prompt.image_tokens)
            self._sinks[key] = found[:, self._columns(prompt)].cpu().numpy()
        return self._sinks[key]

    def image_at(self, number: int) -> Image.Image:
        """The image of a number.

        Args:
            number: which of the images read, counted from 0.

        Returns:
            The RGB image, upright.

        Raises:
            AttnLensError: where there is no image of that number.

        Examples:
            >>> reading.zoom((0, 0, 120, 80)).image_at(1).size
            (120, 80)
        """
        return pick_image(self._prepared, number).image

    @exclusively
    def _prompt(self, question: str) -> Prompt:
        """`question` after the images, as the processor and the adapter make it."""
        prompt = self._host.prompter.prompt(self._prepared, question)
        self._host.check_context(prompt.length)
        return prompt

    def _plain(self) -> tuple[Layout, ...]:
        """The layouts as data alone, which a trace keeps."""
        return tuple(layout.plain for layout in self.layouts)

    @cached_property
    def _beginning(self) -> Tensor:
        """The ids of any question's prompt up to the end of the images; every image is made ready for the model."""
        with exclusive(self.model):
            shortest = self._host.prompter.prepare(self._prepared)
        self._host.check_context(shortest.length)
        return shortest.ids[:, : shortest.end_of_images]

    def _columns(self, prompt: Prompt) -> list[int]:
        """Where the images' tokens stand among the keys that the language model's attention looks at."""
        return [position for positions in self._keys(prompt) for position in positions]

    def _keys(self, prompt: Prompt) -> Sequence[Sequence[int]]:
        return keys_of(self.layouts) if self._host.structure.attends_to == "image" else prompt.positions

    def _traced(self, prompt: Prompt, captured: passes.Captured) -> Trace:
        self._host.check_by_layer("attention", captured.rows)
        self._host.check_by_layer("gradients", captured.row_gradients or [])
        if captured.row_gradients is not None:
            self._host.meter.backward()
        layouts, spans, columns = self._plain(), spans_of(self._keys(prompt)), self._columns(prompt)
        length = spans[-1].stop if self._host.structure.attends_to == "image" else prompt.length
        connected = bool(captured.connector)
        return Trace(
            attention=rows_at(captured.rows, columns, length),
            attention_gradient=rows_at(captured.row_gradients, columns, length) if captured.row_gradients else None,
            connector_attention=patches_of(captured.connector, layouts),
            connector_gradient=patches_of(captured.connector_gradients or [], layouts),
            layers=self._host.structure.layers,
            spans=spans,
            layouts=tuple(layout.with_cells for layout in layouts) if connected else layouts,
            top_token=captured.top_token,
            log_prob=captured.log_prob,
            input_ids=prompt.ids[0].cpu().numpy(),
        )
