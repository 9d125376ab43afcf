"""A reading: a model that has read an image, and can be asked about it again and again.

Its attention is in _observed. An answer decodes on from the tail that a question has left on the images' KV cache, and
a crop is appended to the same cache; `cost` shows it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from PIL import Image

from attnlens._images import crop
from attnlens._renamed import Renamed
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.lens._capture import hidden_states
from attnlens.lens._capture.arrays import array
from attnlens.lens._cost import Cost
from attnlens.lens._inputs.prompt import PreparedImage
from attnlens.lens._inputs.token_positions import REMOVED, differing_tokens, find_text
from attnlens.lens._model.exclusive import exclusively
from attnlens.lens._model.generator import check_new_tokens, generate
from attnlens.lens._model.kv_cache import branch
from attnlens.lens._next_tokens import next_tokens
from attnlens.lens._observed import Observed
from attnlens.lens._pixels import Pixels
from attnlens.lens._text import generate_text
from attnlens.lens._trace import Array


@dataclass(frozen=True)
class Answer:
    """A greedy answer, and what it cost.

    Examples:
        >>> answer = reading.answer(question)
        >>> answer.text, round(answer.log_prob, 1)
        ('2', -0.6)
    """

    text: str
    """The answer without special tokens and outer spaces."""
    tokens: tuple[int, ...]
    """Its token ids, the end token included."""
    log_prob: float
    """Summed log-probability of `tokens`."""
    cost: Cost
    """The work that this answer took; what was read before does not count again."""


class Reading(Observed):
    """What `lens.read` returns. It never changes what the model answers: greedy text equals `model.generate`.

    The images' tokens are prefilled once, together with the first question, and their KV cache is kept: a further
    question is a short tail on it, where the images are read before the question. `copy.deepcopy` makes a reading on a
    lens of its own, which reads the images anew. A reading is not pickled.

    Examples:
        >>> reading = lens.read(image)
        >>> reading.answer(question).text, reading.zoom(scene.box).answer(question).text
        ('2', '6')
    """

    if not TYPE_CHECKING:  # words of 0.1.0
        lens = Renamed("_host.face", "the lens that read it: keep that one")

    def __deepcopy__(self, memo: dict[int, Any]) -> Reading:
        return Reading(copy.deepcopy(self._host, memo), [PreparedImage(one.copy()) for one in self.images])

    def __reduce__(self) -> NoReturn:
        raise AttnLensError(
            "A Reading holds a model's memory of images and is not pickled. Read the images again where they are asked "
            "about. Its traces, maps and answers can be pickled."
        )

    @exclusively
    def answer(self, question: str, max_new_tokens: int = 20) -> Answer:
        """The model's greedy answer to a question about the images.

        Args:
            question: what is asked about the images.
            max_new_tokens: how many tokens the answer has at most.

        Returns:
            The `Answer`, the text that `model.generate` gives.

        Raises:
            AttnLensError: for a question that cannot be asked or is too long with the images and the answer, and for a
                `max_new_tokens` that is no whole number of at least 1.

        Examples:
            >>> reading.answer(question).text
            '2'
        """
        host = self._host
        check_new_tokens(max_new_tokens)
        with host.meter.measure() as stretch:
            asked = self._prefix.of(question)
            host.check_context(asked.prompt.length + max_new_tokens)
            if asked.cache is None:
                inputs = host.inputs(asked.prompt)
                tokens, log_prob = generate(host.model, host.generator.model, host.tokenizer, inputs, max_new_tokens)
                host.meter.forward(asked.prompt.image_tokens)
            else:
                cache = branch(asked.cache)
                tokens, log_prob = host.generator.decode(asked.prompt, asked.positions, cache, max_new_tokens)
        host.check_log_probs(asked.prompt, torch.tensor(log_prob))
        text = self._host.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(text, tuple(tokens), log_prob, stretch.cost)

    @exclusively
    def next_token(self, question: str) -> Array:
        """log p of every token as the answer's first. No attention is looked at.

        Args:
            question: what is asked about the images.

        Returns:
            float32 [vocabulary].

        Raises:
            AttnLensError: for a question that cannot be asked or is too long with the images.

        Examples:
            >>> log_probs = reading.next_token(question)
            >>> log_probs.shape, lens.tokenizer.decode(log_probs.argmax())
            ((721,), '2')
        """
        return array(self._prefix.log_probs(question))

    def zoom(self, box: Sequence[float], image: int = 0) -> Reading:
        """A reading of these images and, after them, a crop of one of them: only the crop is new work.

        Args:
            box: (x1, y1, x2, y2) in pixels of the image of that number; clipped to it, and rounded to whole pixels.
            image: the number of the image, counted from 0.

        Returns:
            The new reading, whose last image is the crop. This one stays as it is.

        Raises:
            AttnLensError: for a box that is none or lies outside the image, and for an unknown image.

        Examples:
            >>> reading.answer(question).text
            '2'
            >>> closer = reading.zoom(scene.box).answer(question)
            >>> closer.text, closer.cost.image_tokens
            ('6', 100)
        """
        whole = self.image_at(image)
        return self.with_image(crop(whole, Box.from_any(box, whole.size)))

    def with_image(self, image: Image.Image) -> Reading:
        """A reading of these images and, after them, another: only that is new work.

        Args:
            image: an RGB image.

        Returns:
            The new reading, whose last image is that one. This one stays as it is.

        Examples:
            >>> reading.with_image(image.rotate(90)).grids[1].shape
            (10, 10)
        """
        return Reading(self._host, (*self._prepared, PreparedImage(image)), before=self._prefix)

    def read_alone(self, *images: Image.Image) -> Reading:
        """A reading of other images, on the same model, such as crops of these.

        Args:
            *images: RGB images, at least one.

        Returns:
            A reading of those images alone.

        Examples:
            >>> reading.read_alone(image.crop(scene.box)).answer(question).text
            '6'
        """
        if not images:
            raise AttnLensError("There is no image to read: give at least one.")
        return Reading(self._host, [PreparedImage(image) for image in images])

    def next_tokens(self, images: Sequence[Image.Image], question: str, batch: int = 8) -> Array:
        """As `Lens.next_tokens`, for RGB images, such as crops of those read.

        Args:
            images: RGB images, each of which is asked about alone.
            question: what is asked about each.
            batch: how many images of the same size go through the model together, at most; each counts as a pass.

        Returns:
            float32 [images, vocabulary], log p of every token as the answer's first.

        Raises:
            AttnLensError: as `Lens.next_tokens`.

        Examples:
            >>> reading.next_tokens([image.crop((0, 0, 200, 200)), image.crop((200, 200, 400, 400))], question).shape
            (2, 721)
        """
        return next_tokens(self._host, images, question, batch)

    def generate_text(self, text: str, max_new_tokens: int = 64) -> str:
        """As `Lens.generate_text`: what the model says without an image.

        Args:
            text: what the model replies to.
            max_new_tokens: how many tokens the reply has at most.

        Returns:
            The reply, without special tokens and outer spaces.

        Raises:
            AttnLensError: as `Lens.generate_text`.

        Examples:
            >>> reading.generate_text("Name a colour.")
            'blue'
        """
        return generate_text(self._host, text, max_new_tokens)

    def token_positions(self, question: str, words: str | None = None, *, unlike: str = REMOVED) -> tuple[int, ...]:
        """Where tokens stand in the question's prompt: those of some words, or those of the whole question.

        Args:
            question: what is asked about the images.
            words: a part of the prompt behind the images, whose tokens are wanted. None stands for the question's own:
                those from the first to the last in which its prompt differs from the prompt of `unlike`.
            unlike: the other question, where `words` is None; by default next to nothing.

        Returns:
            Positions in the prompt, counted from 0.

        Raises:
            AttnLensError: for words that do not stand there, or cannot be read.

        Examples:
            >>> reading.token_positions(question, "pink sign")
            (109, 110)
            >>> reading.token_positions(question)
            (104, 105, 106, 107, 108, 109, 110, 111)
        """
        prompt = self._prompt(question)
        if words is not None:
            return find_text(prompt, self.tokenizer, words)
        return differing_tokens(prompt, self._prompt(unlike))

    @exclusively
    def embedding_gradient(self, question: str) -> tuple[Array, ...]:
        """|dH / d(visual embedding)| of every token of each image.

        H is the entropy, in nats, of the answer's first token (arXiv 2604.08456). The embedding is the token's state as
        it enters the first layer, and its gradient counts by its L2 norm over the channels. With cross-attention to the
        image, the tokens are its keys. One forward and one backward pass of the whole prompt; the vision tower has no
        graph.

        Args:
            question: what is asked about the images.

        Returns:
            For each image, float32 [image_tokens].

        Raises:
            AttnLensError: for a question that cannot be asked or is too long with the images, and for gradients that
                are not finite.

        Examples:
            >>> [gradient.shape for gradient in reading.embedding_gradient(question)]
            [(100,)]
        """
        host, prompt = self._host, self._prompt(question)
        gradient = hidden_states.entropy_gradient(host.model, host.structure, host.inputs(prompt), prompt.length)
        host.check_finite("gradients", [gradient], ["the image's embeddings"])
        found = array(gradient)
        host.meter.forward(prompt.image_tokens)
        host.meter.backward()
        return tuple(found[list(positions)] for positions in self._keys(prompt))

    @exclusively
    def pixel_gradient(self, question: str) -> tuple[Array, ...]:
        """d log p(top token) / d pixels, for each image on its canvas.

        The canvas is the image as the processor hands it to the model, normalised. One pass through the whole model
        with the whole graph, parameters frozen.

        Args:
            question: what is asked about the images.

        Returns:
            For each image, float32 [channels, height, width], in pixels of its canvas, as in `canvases`.

        Raises:
            AttnLensError: for a model that turns the image into codes, for a grid of which it is not known where the
                pixels lie, and for gradients that are not finite.

        Examples:
            >>> [gradient.shape for gradient in reading.pixel_gradient(question)]
            [(3, 80, 80)]
        """
        return self._pixels().gradient(self._prompt(question))

    def canvases(self, centred: bool = False) -> tuple[Array, ...]:
        """Each image as the model gets it, normalised by the processor.

        Where the model sees an image in several views, the first: that of the tiles.

        Args:
            centred: whether to undo the division by the processor's deviations, so that only its means are taken off:
                colours of 0 to 1 about 0.

        Returns:
            For each image, float32 [channels, height, width], in pixels of its canvas.

        Raises:
            AttnLensError: for a grid of which it is not known where the pixels lie.

        Examples:
            >>> (canvas,) = reading.canvases(centred=True)
            >>> canvas.shape, bool(abs(canvas).max() <= 1)
            ((3, 80, 80), True)
        """
        return self._pixels().canvases(centred)

    def _pixels(self) -> Pixels:
        return Pixels(self._host, self._prepared, self.layouts)
