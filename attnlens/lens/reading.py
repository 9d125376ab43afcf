"""A reading: a model that has read an image, and can be asked about it again and again.

What it has read stays in a KV cache, and what a question adds is a short tail on it (states.py). For its attention the
last token runs once more by itself, in the open (capture.py). An answer decodes on from the same tail, and a crop is
appended to the same cache; `cost` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnlens.errors import AttnLensError
from attnlens.geometry import Box, Grid, is_whole
from attnlens.images import crop
from attnlens.lens import capture, hidden
from attnlens.lens.cache import branch
from attnlens.lens.cost import Cost
from attnlens.lens.exclusive import exclusively
from attnlens.lens.finite import check_by_layer, check_finite, check_log_probs
from attnlens.lens.generator import check_new_tokens, generate
from attnlens.lens.joining import joined, on_device
from attnlens.lens.layouts import Layout
from attnlens.lens.prompts import PreparedImage, Prompt, checked_question
from attnlens.lens.spelling import places
from attnlens.lens.states import PROBE, States
from attnlens.lens.trace import Array, Trace
from attnlens.lens.values import ValueSimilarity, cosines
from attnlens.lens.weights import array, keys_of, patches_of, rows_at, spans_of, word_rows_at
from attnlens.lens.words import WordAttention, looking

if TYPE_CHECKING:
    from attnlens.lens.lens import Lens


T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """A greedy answer: text, token ids (the end token included), summed log-probability, and what it cost."""

    text: str
    tokens: tuple[int, ...]
    log_prob: float
    cost: Cost


def numbered(values: Sequence[T], number: int) -> T:
    """What `values`, one for each image read, has for the image of that number. Raises `AttnLensError` for no image."""
    if not is_whole(number) or not 0 <= number < len(values):
        raise AttnLensError(f"There is no image {number!r}: the reading holds {len(values)}, counted from 0.")
    return values[number]


class Reading:
    """What `lens.read` returns. It never changes what the model answers: greedy text equals `model.generate`."""

    def __init__(self, lens: Lens, images: Sequence[PreparedImage], before: States | None = None) -> None:
        self.lens = lens
        self._prepared = tuple(images)
        self._traces: dict[str, Trace] = {}
        self._sinks: dict[tuple[float, ...], hidden.Marks] = {}
        self._states = States(lens, self.prompt, before)
        self._see_images()  # what is wrong with them shows here, not at the first question

    @property
    def model(self) -> Any:
        """The model that has read the images."""
        return self.lens.model

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The images read, in order."""
        return tuple(p.image for p in self._prepared)

    @property
    def image(self) -> Image.Image:
        """The first image."""
        return self._prepared[0].image

    @exclusively
    def trace(self, question: str, gradients: bool = False) -> Trace:
        """Attention, and gradients if wanted, of the last prompt token. Kept: asking twice is free."""
        known = self._traces.get(checked_question(question))
        if known is None or (gradients and known.attention_gradient is None):
            known = self._traced(*self._states.captured(question, gradients))
            self._traces[question] = known
        return known

    @exclusively
    def answer(self, question: str, max_new_tokens: int = 20) -> Answer:
        """The model's greedy answer to `question`, in at most `max_new_tokens` tokens."""
        lens = self.lens
        check_new_tokens(max_new_tokens)
        with lens.meter.measure() as stretch:
            asked = self._states.of(question)
            lens.check_context(asked.prompt.length + max_new_tokens)
            if asked.cache is None:
                inputs = lens.inputs(asked.prompt)
                tokens, log_prob = generate(lens.model, lens.generator.model, lens.tokenizer, inputs, max_new_tokens)
                lens.meter.forward(asked.prompt.image_tokens)
            else:
                cache = branch(asked.cache)
                tokens, log_prob = lens.generator.decode(asked.prompt, asked.positions, cache, max_new_tokens)
        check_log_probs(lens, asked.prompt, torch.tensor(log_prob))
        text = self.lens.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(text, tuple(tokens), log_prob, stretch.cost)

    @exclusively
    def next_token(self, question: str) -> Array:
        """log p of every token as the answer's first: float32 [vocabulary]. No attention is looked at."""
        return array(self._states.log_probs(question))

    @exclusively
    def value_similarity(self, question: str, words: str | Sequence[int]) -> ValueSimilarity:
        """How like the cached values of `words` are to those of every token of the prompt.

        `words`: a part of `question`, or positions in its prompt. Raises AttnLensError for words that it does not hold
        or that the tokenizer has no token for, and for a model that leaves no cache.

        The cache is that of the question's tail on the images already read: no pass is added to what an answer needs.
        """
        lens, asked = self.lens, self._states.of(question)
        if asked.cache is None:
            raise AttnLensError(
                f"{type(lens.model).__name__} leaves no KV cache whose values could be read. Use a map of attention."
            )
        at = places(asked.prompt, lens.tokenizer, words)
        found, layers = cosines(asked.cache, lens.structure.layers, at, asked.prompt.length - 1)
        return ValueSimilarity(array(found), tuple(layers), at, asked.prompt.positions, self.layouts)

    @exclusively
    def word_attention(self, question: str, words: str | Sequence[int]) -> WordAttention:
        """Attention to the images from each token of `words`: a part of `question`, or positions in its prompt.

        Exact, with only those rows computed in the open: in one short pass on the images' cache, or in one over the
        whole prompt where the images cannot be read before the question. Raises AttnLensError for words that do not
        look at the images.
        """
        lens, prompt = self.lens, self.prompt(question)
        structure, at = lens.structure, looking(prompt, lens.structure, lens.tokenizer, words)
        whole = structure.strategy != "shared"
        stop, connector = (prompt.length, structure.connector) if whole else (max(at) + 1, ())
        inputs = {**lens.inputs(prompt), "use_cache": False} if whole else self._states.tail(question, prompt, stop)
        queries = [one - stop for one in at]
        rows, connected = capture.words(lens.model, lens.tracer, structure, inputs, queries, connector)
        lens.meter.forward(prompt.image_tokens if whole else 0)
        check_by_layer(lens, "attention", rows)
        spans, layouts = spans_of(self._keys(prompt)), self.layouts
        length = spans[-1].stop if structure.keys == "image" else stop
        return WordAttention(
            attention=word_rows_at(rows, self.columns(prompt), length),
            connector_attention=patches_of(connected, layouts),
            layers=structure.layers,
            words=at,
            spans=spans,
            layouts=tuple(layout.placed for layout in layouts) if connected else layouts,
        )

    @exclusively
    def answer_attention(self, question: str, answer: str) -> WordAttention:
        """Attention to the images when each token of a given `answer` is to come: `words` are the answer's tokens.

        Exact, and of the very passes that would generate this answer: the row of a token is that of the token before
        it, from which it is predicted; the first one's is that of the prompt's last token, as in `trace`. One short
        pass on the cache for each. Raises AttnLensError for an answer without text or longer than the context, and for
        a model that leaves no cache to go on from.
        """
        lens, asked = self.lens, self._states.of(question)
        tokens = self._answer_tokens(answer)
        lens.check_context(asked.prompt.length + len(tokens))
        if asked.cache is None or lens.generator.model is not lens.model:
            raise AttnLensError(
                f"{type(lens.model).__name__} as a whole goes on from no KV cache, as a given answer asks for. Use "
                "`trace`, which shows the attention before its first token."
            )
        whole, cache = asked.prompt.continued(tokens), branch(asked.cache)
        positions, start = lens.generator.positions(whole), asked.prompt.length - 1
        rows = []
        for at in range(start, start + len(tokens)):
            inputs = lens.generator.chunk(whole, positions, at, at + 1, cache)
            found, _ = capture.words(lens.model, lens.tracer, lens.structure, inputs, [-1], ())
            check_by_layer(lens, "attention", found)
            lens.meter.forward()
            rows.append(word_rows_at(found, self.columns(asked.prompt), at + 1))
        return WordAttention(
            attention=np.concatenate(rows, axis=2),
            connector_attention=None,
            layers=lens.structure.layers,
            words=tuple(range(asked.prompt.length, whole.length)),
            spans=spans_of(self._keys(asked.prompt)),
            layouts=self.layouts,
        )

    def _answer_tokens(self, answer: str) -> list[int]:
        if not isinstance(answer, str) or not answer.strip():
            raise AttnLensError(f"The answer is {answer!r}; expected some text that the model might say.")
        return [int(token) for token in self.lens.tokenizer.encode(answer, add_special_tokens=False)]

    def zoom(self, box: Sequence[float], image: int = 0) -> Reading:
        """A reading of these images and, after them, the crop `box` of one of them: only the crop is new work.

        `box`: (x1, y1, x2, y2) in pixels of the image of that number.
        """
        whole = self.image_at(image)
        return self.with_image(crop(whole, Box.from_any(box, whole.size)))

    def with_image(self, image: Image.Image) -> Reading:
        """A reading of these images and, after them, an RGB `image`: only that is new work."""
        return Reading(self.lens, (*self._prepared, PreparedImage(image)), before=self._states)

    def image_at(self, number: int) -> Image.Image:
        """The image of that number, counted from 0. Raises `AttnLensError` where there is none."""
        return numbered(self._prepared, number).image

    @exclusively
    def embedding_gradient(self, question: str) -> tuple[Array, ...]:
        """|dH / d(visual embedding)| of every token of each image: float32 [image_tokens]; see `lens.hidden`.

        H is the entropy, in nats, of the answer's first token. With cross-attention to the image, the tokens are its
        keys. One forward and one backward pass of the whole prompt; the vision tower has no graph.
        """
        lens, prompt = self.lens, self.prompt(question)
        gradient = hidden.entropy_gradient(lens.model, lens.structure, lens.inputs(prompt), prompt.length)
        check_finite(lens, "gradients", [gradient], ["the image's embeddings"])
        found = array(gradient)
        lens.meter.forward(prompt.image_tokens)
        lens.meter.backward()
        return tuple(found[list(positions)] for positions in self._keys(prompt))

    @exclusively
    def sinks(self, question: str, tau: float = hidden.TAU) -> hidden.Marks:
        """Which image tokens are attention sinks at which layer: bool [layers, image_tokens], as in `Trace`.

        A pass of its own over the prompt; where the images are read before the question, as they do not depend on it,
        the first one serves every question. Raises AttnLensError where image tokens have no hidden state.
        """
        lens, prompt = self.lens, self.prompt(question)
        shared = lens.structure.strategy == "shared"
        key = (tau, *prompt.ids[0, : prompt.end_of_images if shared else prompt.length].tolist())
        if key not in self._sinks:
            found = hidden.sinks(lens.model, lens.structure, lens.inputs(prompt), prompt.length, tau)
            lens.meter.forward(prompt.image_tokens)
            self._sinks[key] = found[:, self.columns(prompt)].cpu().numpy()
        return self._sinks[key]

    def pixel_gradient(self, question: str) -> tuple[Array, ...]:
        """d log p(top token) / d pixels, for each image: float32 [channels, height, width] on its canvas.

        The canvas is the image as the processor hands it to the model, normalised. One pass through the whole model
        with the whole graph, parameters frozen.
        """
        gradients = self.raw_pixel_gradient(question)
        return tuple(copies.sum(axis=0) for copies in self._copies(gradients))

    @exclusively
    def prompt(self, question: str) -> Prompt:
        """`question` after the images, as the processor and the adapter make it."""
        prompt = self.lens.prompter.prompt(self._prepared, question)
        self.lens.check_context(prompt.length)
        return prompt

    @exclusively
    def raw_pixel_gradient(self, question: str) -> tuple[Tensor, ...]:
        """The same for each image in the form and order in which the image processor gives its first view's pixels."""
        lens, spec = self.lens, self.lens.spec.prompt
        if not spec.pixel_gradient:
            raise AttnLensError(
                f"{type(lens.model).__name__} turns the image into codes, and no gradient passes through them to the "
                "pixels. Use a map of attention: relative_attention or gradient_attention."
            )
        prompt = self.prompt(question)
        pixels = [one.to(lens.model.device, lens.model.dtype) for one in self._pixels()]
        leaves = [one.detach().requires_grad_() for one in pixels]
        named = zip(self._prepared, self._pixel_keys(), leaves, strict=True)
        features = [{**one.features, key: leaf} for one, key, leaf in named]
        whole = {key: value for key, value in joined(features, spec).items() if key in prompt.keys}
        inputs = lens.inputs(prompt) | on_device(whole, lens.model)
        gradients = capture.pixel_gradient(lens.model, inputs, leaves, partial(lens.generator.first_token, prompt))
        check_finite(lens, "gradients", gradients, ["the pixels"] * len(gradients))
        lens.meter.forward(prompt.image_tokens)
        lens.meter.backward()
        return tuple(gradients)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """For each image, which cells its tokens (or, behind a connector with attention, its patches) are."""
        self._see_images()
        return self.lens.prompter.layouts(self._prepared)

    def _see_images(self) -> None:
        """Have the processor make its features of every image, once."""
        if not all(one.features for one in self._prepared):
            self.prompt(PROBE)

    def columns(self, prompt: Prompt) -> list[int]:
        """Where the images' tokens stand among the keys that the language model's attention looks at."""
        return [position for positions in self._keys(prompt) for position in positions]

    def _keys(self, prompt: Prompt) -> Sequence[Sequence[int]]:
        return keys_of(self.layouts) if self.lens.structure.keys == "image" else prompt.positions

    @property
    def grids(self) -> tuple[Grid, ...]:
        """For each image, where its tokens (or, behind a connector with attention, its patches) lie in it."""
        return tuple(layout.grid for layout in self.layouts)

    def canvases(self) -> tuple[Array, ...]:
        """Each image as the model gets it: float32 [channels, height, width], normalised by the processor.

        Where the model sees an image in several views, the first: that of the tiles.
        """
        return tuple(copies.mean(axis=0) for copies in self._copies(self._pixels()))

    def _pixel_keys(self) -> list[str]:
        """For each image, the image processor's output that holds the pixels of its first view."""
        return [layout.views[0].key or self.lens.spec.prompt.pixels for layout in self.layouts]

    def _pixels(self) -> list[Tensor]:
        return [one.features[key] for one, key in zip(self._prepared, self._pixel_keys(), strict=True)]

    def _copies(self, values: Sequence[Tensor]) -> Iterator[Array]:
        """[copies, channels, height, width] of each image's first view, from values in the form of its pixels."""
        for layout, one in zip(self.layouts, values, strict=True):
            place = layout.views[0].pixels
            if place is None:
                raise AttnLensError(
                    f"Where the pixels of {type(self.lens.processor.image_processor).__name__} lie is not known for "
                    f"the grid kind {self.lens.spec.grid.kind!r}. Use a map of attention."
                )
            yield place(array(one))

    # From tensors to arrays that know where they lie.

    def _traced(self, prompt: Prompt, captured: capture.Captured) -> Trace:
        check_by_layer(self.lens, "attention", captured.rows)
        check_by_layer(self.lens, "gradients", captured.row_gradients or [])
        if captured.row_gradients is not None:
            self.lens.meter.backward()
        layouts, spans, columns = self.layouts, spans_of(self._keys(prompt)), self.columns(prompt)
        length = spans[-1].stop if self.lens.structure.keys == "image" else prompt.length
        connected = bool(captured.connector)
        return Trace(
            attention=rows_at(captured.rows, columns, length),
            attention_gradient=rows_at(captured.row_gradients, columns, length) if captured.row_gradients else None,
            connector_attention=patches_of(captured.connector, layouts),
            connector_gradient=patches_of(captured.connector_gradients or [], layouts),
            layers=self.lens.structure.layers,
            spans=spans,
            layouts=tuple(layout.placed for layout in layouts) if connected else layouts,
            top_token=captured.top_token,
            log_prob=captured.log_prob,
            input_ids=prompt.ids[0].cpu().numpy(),
        )
