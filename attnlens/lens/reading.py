"""A reading: a model that has read an image, and can be asked about it again and again.

The image's tokens are prefilled once, together with the first question, and their KV cache kept. A further question is
a short tail on that cache. For its attention the last token runs once more by itself, in the open (capture.py). An
answer decodes on from the same tail, and a crop is appended to the same cache. Where what comes before the question is
not the same for every question, each question is a whole prompt of its own, exactly; `cost` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from attnlens.errors import AttnLensError
from attnlens.geometry import Box, Grid
from attnlens.images import crop
from attnlens.lens import capture, hidden
from attnlens.lens.cache import branch, can_be_cut, new_cache
from attnlens.lens.cost import Cost
from attnlens.lens.generator import decoder_prompt, generate
from attnlens.lens.joining import joined, on_device
from attnlens.lens.layouts import Layout
from attnlens.lens.prompts import PreparedImage, Prompt
from attnlens.lens.trace import Array, Trace
from attnlens.lens.values import ValueSimilarity, cosines, words_in
from attnlens.lens.weights import array, keys_of, patches_of, rows_at, spans_of, word_rows_at
from attnlens.lens.words import WordAttention, looking

if TYPE_CHECKING:
    from attnlens.lens.lens import Lens

_PROBE = "A"  # a question for what is the same whatever is asked


@dataclass(frozen=True)
class Answer:
    """A greedy answer: text, token ids (the end token included), summed log-probability, and what it cost."""

    text: str
    tokens: tuple[int, ...]
    log_prob: float
    cost: Cost


@dataclass(frozen=True)
class _State:
    """A prompt and the KV cache of its first tokens; of a question's, all but the last."""

    prompt: Prompt
    positions: Tensor | None  # position ids of the whole prompt
    cache: DynamicCache | None  # None where this model's cache cannot be cut
    log_probs: Tensor | None = None  # of the token after the prompt, where the whole prompt has run

    def begins(self, prompt: Prompt, positions: Tensor | None) -> bool:
        """Whether `prompt` starts with exactly these tokens, at these positions."""
        stop = 0 if self.cache is None else self.cache.get_seq_length()
        if not torch.equal(self.prompt.ids[:, :stop], prompt.ids[:, :stop]):
            return False
        if positions is None or self.positions is None:
            return positions is self.positions
        return torch.equal(self.positions[..., :stop], positions[..., :stop])


class Reading:
    """What `lens.read` returns. It never changes what the model answers: greedy text equals `model.generate`."""

    def __init__(self, lens: Lens, images: Sequence[PreparedImage], parent: Reading | None = None) -> None:
        self.lens = lens
        self._prepared = tuple(images)
        self._parent = parent
        self._traces: dict[str, Trace] = {}
        self._sinks: dict[tuple[float, ...], hidden.Marks] = {}
        self._asked: tuple[str, _State] | None = None
        self._prefix: _State | None = None
        self._see_images()  # what is wrong with them shows here, not at the first question

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The images read, in order."""
        return tuple(p.image for p in self._prepared)

    @property
    def image(self) -> Image.Image:
        """The first image."""
        return self._prepared[0].image

    def trace(self, question: str, gradients: bool = False) -> Trace:
        """Attention, and gradients if wanted, of the last prompt token. Kept: asking twice is free."""
        known = self._traces.get(question)
        if known is None or (gradients and known.attention_gradient is None):
            known = self._whole_trace(question, gradients) if self._whole_prompts else self._replay(question, gradients)
            self._traces[question] = known
        return known

    def answer(self, question: str, max_new_tokens: int = 20) -> Answer:
        """The model's greedy answer to `question`, in at most `max_new_tokens` tokens."""
        lens = self.lens
        with lens.meter.measure() as stretch:
            asked = self._ask(question)
            self._check_context(asked.prompt.length + max_new_tokens)
            if asked.cache is None:
                inputs = self.inputs(asked.prompt)
                tokens, log_prob = generate(lens.model, lens.generator.model, inputs, max_new_tokens)
                lens.meter.forward(_image_tokens(asked.prompt.positions))
            else:
                cache = branch(asked.cache)
                tokens, log_prob = lens.generator.decode(asked.prompt, asked.positions, cache, max_new_tokens)
        text = self.lens.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(text, tuple(tokens), log_prob, stretch.cost)

    def next_token(self, question: str) -> Array:
        """log p of every token as the answer's first: float32 [vocabulary]. No attention is looked at."""
        asked = self._ask(question)
        return array(self._run_out(asked) if asked.log_probs is None else asked.log_probs)

    def value_similarity(self, question: str, words: str) -> ValueSimilarity:
        """How like the cached values of `words`, a part of `question`, are to those of every token of the prompt.

        The cache is that of the question's tail on the images already read: no pass is added to what an answer needs.
        """
        lens, asked = self.lens, self._ask(question)
        if asked.cache is None:
            raise AttnLensError(
                f"{type(lens.model).__name__} leaves no KV cache whose values could be read. Use a map of attention."
            )
        at = words_in(asked.prompt, lens.tokenizer, words)
        found, layers = cosines(asked.cache, lens.structure.layers, at, asked.prompt.length - 1)
        return ValueSimilarity(array(found), tuple(layers), at, asked.prompt.positions, self.layouts)

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
        inputs = {**self.inputs(prompt), "use_cache": False} if whole else self._tail(prompt, question, stop)
        queries = [one - stop for one in at]
        rows, connected = capture.words(lens.model, lens.tracer, structure, inputs, queries, connector)
        lens.meter.forward(_image_tokens(prompt.positions) if whole else 0)
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

    def zoom(self, box: Sequence[float], image: int = 0) -> Reading:
        """A reading of these images and, after them, the crop `box` of one of them: only the crop is new work.

        `box`: (x1, y1, x2, y2) in pixels of the image of that number.
        """
        whole = self.image_at(image)
        return self.with_image(crop(whole, Box.from_any(box, whole.size)))

    def with_image(self, image: Image.Image) -> Reading:
        """A reading of these images and, after them, an RGB `image`: only that is new work."""
        return Reading(self.lens, (*self._prepared, PreparedImage(image)), parent=self)

    def image_at(self, number: int) -> Image.Image:
        """The image of that number, counted from 0. Raises `AttnLensError` where there is none."""
        if not 0 <= number < len(self._prepared):
            raise AttnLensError(f"There is no image {number}: the reading holds {len(self._prepared)}, counted from 0.")
        return self._prepared[number].image

    def embedding_gradient(self, question: str) -> tuple[Array, ...]:
        """|dH / d(visual embedding)| of every token of each image: float32 [image_tokens]; see `lens.hidden`.

        H is the entropy, in nats, of the answer's first token. With cross-attention to the image, the tokens are its
        keys. One forward and one backward pass of the whole prompt; the vision tower has no graph.
        """
        lens, prompt = self.lens, self.prompt(question)
        found = array(hidden.entropy_gradient(lens.model, lens.structure, self.inputs(prompt), prompt.length))
        lens.meter.forward(_image_tokens(prompt.positions))
        lens.meter.backward()
        return tuple(found[list(positions)] for positions in self._keys(prompt))

    def sinks(self, question: str, tau: float = hidden.TAU) -> hidden.Marks:
        """Which image tokens are attention sinks at which layer: bool [layers, image_tokens], as in `Trace`.

        A pass of its own over the prompt; where the images are read before the question, as they do not depend on it,
        the first one serves every question. Raises AttnLensError where image tokens have no hidden state.
        """
        lens, prompt = self.lens, self.prompt(question)
        shared = lens.structure.strategy == "shared"
        key = (tau, *prompt.ids[0, : prompt.end_of_images if shared else prompt.length].tolist())
        if key not in self._sinks:
            found = hidden.sinks(lens.model, lens.structure, self.inputs(prompt), prompt.length, tau)
            lens.meter.forward(_image_tokens(prompt.positions))
            self._sinks[key] = found[:, self.columns(prompt)].cpu().numpy()
        return self._sinks[key]

    def pixel_gradient(self, question: str) -> tuple[Array, ...]:
        """d log p(top token) / d pixels, for each image: float32 [channels, height, width] on its canvas.

        The canvas is the image as the processor hands it to the model, normalised. One pass through the whole model
        with the whole graph, parameters frozen.
        """
        gradients = self.raw_pixel_gradient(question)
        return tuple(copies.sum(axis=0) for copies in self._copies(gradients))

    def prompt(self, question: str) -> Prompt:
        """`question` after the images, as the processor and the adapter make it."""
        prompt = self.lens.prompter.prompt(self._prepared, question)
        self._check_context(prompt.length)
        return prompt

    def inputs(self, prompt: Prompt) -> dict[str, Any]:
        """The whole prompt as the whole model takes it."""
        lens = self.lens
        inputs = {"input_ids": prompt.ids, "attention_mask": torch.ones_like(prompt.ids), **prompt.extras}
        inputs |= on_device(prompt.vision(), lens.model)
        if lens.structure.keys == "encoder":
            inputs["decoder_input_ids"] = decoder_prompt(lens.generator.model, prompt.ids)
        return inputs | lens.generator.last_logits_only

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
        inputs = self.inputs(prompt) | on_device(whole, lens.model)
        gradients = capture.pixel_gradient(lens.model, inputs, leaves)
        lens.meter.forward(_image_tokens(prompt.positions))
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
            self.prompt(_PROBE)

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

    # Prefix, tail, whole prompt: how a question's state comes about.

    @property
    def _whole_prompts(self) -> bool:
        return self.lens.structure.strategy in ("one_pass", "eager")

    def _ask(self, question: str) -> _State:
        """The state before the last token of `question`'s prompt; that of the last question is kept."""
        if self._asked is None or self._asked[0] != question:
            run = self._run_whole if self._whole_prompts else self._run_tail
            self._asked = (question, run(self.prompt(question)))
        return self._asked[1]

    def _run_whole(self, prompt: Prompt) -> _State:
        """The whole prompt by the whole model; where it leaves no cache to go on from, what asks runs it."""
        lens, cache, positions = self.lens, self._whole_cache(), self.lens.generator.positions(prompt)
        if cache is None:
            return _State(prompt, positions, None)
        log_probs = self._log_probs({**self.inputs(prompt), "past_key_values": cache, "use_cache": True})
        lens.meter.forward(_image_tokens(prompt.positions))
        return _State(prompt, positions, branch(cache, prompt.length - 1), log_probs)

    def _run_tail(self, prompt: Prompt) -> _State:
        """What is new of `prompt` on the images' cache; the first question brings the images with it."""
        shared = self.lens.structure.strategy == "shared"
        if can_be_cut(new_cache(self.lens.generator.model)):
            state = self._advance(prompt, prompt.length, self._known())
            if shared and self._prefix is None and state.cache is not None:
                self._prefix = replace(state, cache=branch(state.cache, prompt.end_of_images), log_probs=None)
            return state
        if shared and self._prefix is None and self._begins_alike(prompt):
            self._prefix = self._advance(prompt, prompt.end_of_images, self._known())
        return self._advance(prompt, prompt.length - 1, self._known())

    def _known(self) -> _State | None:
        """The most that is read of these images, or of those before the last crop."""
        if self._prefix is not None or self._parent is None or not self.lens.spec.language_model.appends_images:
            return self._prefix
        return self._parent._known()

    def _begins_alike(self, prompt: Prompt) -> bool:
        """Whether what comes before the end of the images is the same for another question."""
        stop = prompt.end_of_images
        return torch.equal(prompt.ids[:, :stop], self.prompt(_PROBE).ids[:, :stop])

    def _advance(self, prompt: Prompt, stop: int, known: _State | None) -> _State:
        """The state of `prompt` up to token `stop`, starting from `known` where the prompt begins so; of a whole prompt
        that without its last token."""
        lens, positions, log_probs = self.lens, self.lens.generator.positions(prompt), None
        if known is not None and known.cache is not None and known.begins(prompt, positions):
            cache, held = branch(known.cache), len(known.prompt.images)
        else:
            cache, held = new_cache(lens.generator.model), 0
        if cache.get_seq_length() < stop:
            vision = on_device(prompt.vision(held), lens.model) if held < len(prompt.images) else None
            log_probs = lens.generator.extend(prompt, positions, stop, cache, vision)
            lens.meter.forward(_image_tokens(prompt.positions[held:]))
        if stop < prompt.length:
            return _State(prompt, positions, cache)
        return _State(prompt, positions, branch(cache, stop - 1), log_probs)

    def _tail(self, prompt: Prompt, question: str, stop: int) -> dict[str, Any]:
        """The inputs of the tokens behind the images, up to `stop`, on the images' cache."""
        if self._prefix is None:
            self._ask(question)  # reads the images once, for other questions too
        state = self._advance(prompt, prompt.end_of_images, self._known())
        if state.cache is None:
            raise AttnLensError(f"{type(self.lens.model).__name__} gave no KV cache to look at the images from.")
        return self.lens.generator.chunk(prompt, state.positions, prompt.end_of_images, stop, state.cache)

    @torch.no_grad()
    def _run_out(self, asked: _State) -> Tensor:
        """log p of the token after the prompt, whose last token, or all of it, has not run."""
        lens, length = self.lens, asked.prompt.length
        if asked.cache is None:
            log_probs = self._log_probs(self.inputs(asked.prompt))
            lens.meter.forward(_image_tokens(asked.prompt.positions))
            return log_probs
        log_probs = lens.generator.extend(asked.prompt, asked.positions, length, branch(asked.cache))
        lens.meter.forward()
        return log_probs

    @torch.no_grad()
    def _log_probs(self, inputs: dict[str, Any]) -> Tensor:
        logits: Tensor = self.lens.model(**inputs).logits
        return logits[0, -1].float().log_softmax(-1)

    def _replay(self, question: str, gradients: bool) -> Trace:
        lens, asked = self.lens, self._ask(question)
        last = asked.prompt.length - 1
        if asked.cache is None:
            raise AttnLensError(f"{type(lens.model).__name__} gave no KV cache to replay the last token on.")
        inputs = lens.generator.chunk(asked.prompt, asked.positions, last, last + 1, branch(asked.cache))
        captured = capture.replay(lens.model, lens.tracer, lens.structure, inputs, gradients)
        lens.meter.forward()
        return self._traced(asked.prompt, captured)

    def _whole_trace(self, question: str, gradients: bool) -> Trace:
        state, captured = self._whole_pass(question, gradients)
        self._asked = (question, state)
        return self._traced(state.prompt, captured)

    def _whole_pass(self, question: str, gradients: bool) -> tuple[_State, capture.Captured]:
        """The whole prompt at once: what it shows, and its state before the last token."""
        lens, prompt = self.lens, self.prompt(question)
        inputs, cache = {**self.inputs(prompt), "use_cache": False}, self._whole_cache()
        if cache is not None:
            inputs |= {"past_key_values": cache, "use_cache": True}
        captured = capture.one_pass(lens.model, lens.tracer, lens.structure, inputs, gradients)
        lens.meter.forward(_image_tokens(prompt.positions))
        kept = None if cache is None else branch(cache, prompt.length - 1)
        return _State(prompt, lens.generator.positions(prompt), kept), captured

    def _whole_cache(self) -> DynamicCache | None:
        """An empty cache for a whole prompt, where its last token can be left out of it again."""
        structure = self.lens.structure
        cache = new_cache(structure.generator) if structure.keys == "prompt" else None
        return cache if cache is not None and can_be_cut(cache) else None

    def _check_context(self, tokens: int) -> None:
        context = self.lens.structure.context
        if context is not None and tokens > context:
            raise AttnLensError(
                f"The prompt and its answer take {tokens} tokens, and the model's context holds {context}. Shorten the "
                "question, read fewer or smaller images, or ask for fewer new tokens."
            )

    # From tensors to arrays that know where they lie.

    def _traced(self, prompt: Prompt, captured: capture.Captured) -> Trace:
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


def _image_tokens(positions: Sequence[Sequence[int]]) -> int:
    return sum(len(span) for span in positions)
