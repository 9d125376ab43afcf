"""A reading: a model that has read an image, and can be asked about it again and again.

The image's tokens are prefilled once and their KV cache kept. A question is a short tail on that cache, of which
the last token runs by itself with its attention in the open (capture.py). An answer decodes on from the same tail,
and a crop is appended to the same cache. Where what comes before the question is not the same for every question,
each question is a whole prompt of its own, exactly; `cost` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from attnlens.errors import AttnLensError
from attnlens.geometry import Box, Grid
from attnlens.images import crop
from attnlens.lens import capture
from attnlens.lens.cache import branch, new_cache
from attnlens.lens.canvas import canvas_of, gradient_to_canvas, to_canvas, token_grid
from attnlens.lens.cost import Cost
from attnlens.lens.prompts import PreparedImage, Prompt, joined, on_device
from attnlens.lens.trace import Array, Trace

if TYPE_CHECKING:
    from attnlens.lens.lens import Lens

_PROBES = ("A", "what is it?")  # two questions without a common start: where their prompts part, a question begins


@dataclass(frozen=True)
class Answer:
    """A greedy answer: text, token ids (the end token included), summed log-probability, and what it cost."""

    text: str
    tokens: tuple[int, ...]
    log_prob: float
    cost: Cost


@dataclass(frozen=True)
class _State:
    """A prompt and the KV cache of its first tokens."""

    prompt: Prompt
    positions: Tensor | None  # position ids of the whole prompt
    cache: DynamicCache

    def begins(self, prompt: Prompt, positions: Tensor | None) -> bool:
        """Whether `prompt` starts with exactly these tokens, at these positions."""
        stop = self.cache.get_seq_length()
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
        self._traces: dict[str, Trace] = {}
        self._asked: tuple[str, _State] | None = None
        self._prefix: _State | None = self._read(parent._prefix if parent is not None else None)

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
        with self.lens.meter.measure() as stretch:
            asked = self._ask(question)
            self._check_context(asked.prompt.length + max_new_tokens)
            tokens, log_prob = self.lens.generator.decode(
                asked.prompt, asked.positions, branch(asked.cache), max_new_tokens
            )
        text = self.lens.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(text, tuple(tokens), log_prob, stretch.cost)

    def zoom(self, box: Sequence[float]) -> Reading:
        """A reading of these images and, after them, the crop `box` of the first: only the crop is new work.

        `box`: (x1, y1, x2, y2) in pixels of the first image.
        """
        piece = crop(self.image, Box.from_any(box, self.image.size))
        return Reading(self.lens, (*self._prepared, PreparedImage(piece)), parent=self)

    def pixel_gradient(self, question: str) -> tuple[Array, ...]:
        """d log p(top token) / d pixels, for each image: float32 [channels, height, width] on its canvas.

        The canvas is the image as the processor hands it to the model, normalised. One pass through the whole model
        with the whole graph, parameters frozen.
        """
        prompt = self._prompt(question)
        gradient = capture.pixel_gradient(self.lens.model, self._outer_inputs(prompt))
        self.lens.meter.forward(_image_tokens(prompt.positions))
        self.lens.meter.backward()
        return self._on_canvas(gradient_to_canvas, gradient, prompt)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """For each image, where its tokens (or, behind a connector with attention, its patches) lie in it."""
        return self._grids(self._prompt(_PROBES[0]), None)

    def canvases(self) -> tuple[Array, ...]:
        """Each image as the model gets it: float32 [channels, height, width], normalised by the processor."""
        prompt = self._prompt(_PROBES[0])
        return self._on_canvas(to_canvas, prompt.vision["pixel_values"], prompt)

    # Prefix, tail, whole prompt: how a question's state comes about.

    @property
    def _whole_prompts(self) -> bool:
        return not self.lens.spec.language_model.shared_prefix

    def _read(self, known: _State | None) -> _State | None:
        """Prefill the images (on a cache that holds some already), if they come before every question alike."""
        if self._whole_prompts:
            return None
        first, second = (self._prompt(probe) for probe in _PROBES)
        stop = first.end_of_images
        if not torch.equal(first.ids[:, :stop], second.ids[:, :stop]):
            return None
        return self._advance(first, stop, known)

    def _ask(self, question: str) -> _State:
        """The state before the last token of `question`'s prompt; that of the last question is kept."""
        if self._asked is not None and self._asked[0] == question:
            return self._asked[1]
        if self._whole_prompts:
            state = self._whole_pass(question, gradients=False)[0]
        else:
            prompt = self._prompt(question)
            state = self._advance(prompt, prompt.length - 1, self._prefix)
        self._asked = (question, state)
        return state

    def _advance(self, prompt: Prompt, stop: int, known: _State | None) -> _State:
        """The state of `prompt` up to token `stop`, starting from `known` where the prompt begins so."""
        lens, positions = self.lens, self.lens.generator.positions(prompt)
        if known is not None and known.begins(prompt, positions):
            cache, held = branch(known.cache), len(known.prompt.images)
        else:
            cache, held = new_cache(lens.generator.model), 0
        if cache.get_seq_length() < stop:
            fresh = [p.features for p in prompt.images[held:]]
            vision = on_device(joined(fresh), lens.model) if fresh else None
            lens.generator.extend(prompt, positions, stop, cache, vision)
            lens.meter.forward(_image_tokens(prompt.positions[held:]))
        return _State(prompt, positions, cache)

    def _replay(self, question: str, gradients: bool) -> Trace:
        lens, asked = self.lens, self._ask(question)
        last = asked.prompt.length - 1
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
        lens, prompt = self.lens, self._prompt(question)
        cache = new_cache(lens.generator.model)
        inputs = {**self._outer_inputs(prompt), "past_key_values": cache, "use_cache": True}
        captured = capture.one_pass(lens.model, lens.tracer, lens.structure, inputs, gradients)
        lens.meter.forward(_image_tokens(prompt.positions))
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        cache.crop(-1)
        return _State(prompt, lens.generator.positions(prompt), cache), captured

    def _outer_inputs(self, prompt: Prompt) -> dict[str, Any]:
        """The whole prompt as the whole model takes it."""
        inputs = {"input_ids": prompt.ids, "attention_mask": torch.ones_like(prompt.ids)}
        vision = on_device(prompt.vision, self.lens.model)
        return {**inputs, **prompt.extras, **vision, **self.lens.generator.last_logits_only}

    def _prompt(self, question: str) -> Prompt:
        prompt = self.lens.prompter.prompt(self._prepared, question)
        self._check_context(prompt.length)
        return prompt

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
        columns = [position for span in prompt.positions for position in span]
        ends = np.cumsum([len(span) for span in prompt.positions]).tolist()
        connector = self._patches(captured.connector)
        return Trace(
            attention=_rows(captured.rows, columns),
            attention_gradient=None if captured.row_gradients is None else _rows(captured.row_gradients, columns),
            connector_attention=connector,
            connector_gradient=self._patches(captured.connector_gradients or []),
            layers=self.lens.structure.layers,
            spans=tuple(slice(end - len(span), end) for end, span in zip(ends, prompt.positions, strict=True)),
            grids=self._grids(prompt, None if connector is None else connector.shape[-1]),
            top_token=captured.top_token,
            log_prob=captured.log_prob,
            input_ids=prompt.ids[0].cpu().numpy(),
        )

    def _patches(self, weights: Sequence[Tensor]) -> Array | None:
        """[images, heads, queries, keys] of each connector layer -> [layers, heads, images * queries, patches]."""
        if not weights:
            return None
        grid = self.lens.spec.grid
        cls = grid.cls if grid.kind == "latents" else 0
        return _array(torch.stack([w[..., cls:].transpose(0, 1).flatten(1, 2) for w in weights]))

    def _grids(self, prompt: Prompt, patches: int | None) -> tuple[Grid, ...]:
        lens, spec, grids = self.lens, self.lens.spec.grid, []
        for index, (prepared, span) in enumerate(zip(self._prepared, prompt.positions, strict=True)):
            canvas = canvas_of(lens.processor.image_processor, prepared.image.size, prompt.vision, index, spec)
            cells = patches if spec.kind == "latents" else len(span)
            grids.append(token_grid(spec, canvas, lens.model.config, prompt.vision, index, cells))
        return tuple(grids)

    def _on_canvas(self, place: Callable[..., Array], values: Tensor, prompt: Prompt) -> tuple[Array, ...]:
        spec, config = self.lens.spec.grid, self.lens.model.config
        return tuple(place(spec, values, prompt.vision, index, config) for index in range(len(self._prepared)))


def _image_tokens(positions: Sequence[range]) -> int:
    return sum(len(span) for span in positions)


def _array(values: Tensor) -> Array:
    return values.detach().float().cpu().numpy()


def _rows(weights: Sequence[Tensor], columns: list[int]) -> Array:
    """The last query's row at the image tokens' columns: [layers, heads, image_tokens]."""
    return _array(torch.stack([w[0, :, -1, columns] for w in weights]))
