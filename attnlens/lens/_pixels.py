"""The pixels that a model is given, and the gradient on them, each image on its own canvas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from attnlens.errors import AttnLensError
from attnlens.lens._capture import passes
from attnlens.lens._capture.arrays import array
from attnlens.lens._host import Host
from attnlens.lens._inputs.batching import concat_images, on_device
from attnlens.lens._inputs.prompt import PreparedImage, Prompt
from attnlens.lens._layouts import Layout
from attnlens.lens._trace import Array


class Pixels:
    """Those of a reading's images, in the first view of each."""

    def __init__(self, host: Host, images: Sequence[PreparedImage], layouts: Sequence[Layout]) -> None:
        self._host = host
        self._images = images
        self._layouts = layouts

    def gradient(self, prompt: Prompt) -> tuple[Array, ...]:
        """As `Reading.pixel_gradient` says."""
        return tuple(copies.sum(axis=0) for copies in self._copies(self.raw_gradient(prompt)))

    def canvases(self, centred: bool) -> tuple[Array, ...]:
        """As `Reading.canvases` says."""
        scale = self._deviation() if centred else np.ones((1, 1, 1), np.float32)
        return tuple(copies.mean(axis=0) * scale for copies in self._copies(self._given()))

    def raw_gradient(self, prompt: Prompt) -> tuple[Tensor, ...]:
        """d log p(top token) / d pixels of each image, in the form and order in which the image processor gives its
        first view's pixels."""
        host, spec = self._host, self._host.adapter.prompt
        if not spec.pixel_gradient:
            raise AttnLensError(
                f"{host.name} turns the image into codes, and no gradient passes through them to the "
                "pixels. Use a map of attention: relative_attention or gradient_attention."
            )
        pixels = [one.to(host.model.device, host.model.dtype) for one in self._given()]
        leaves = [one.detach().requires_grad_() for one in pixels]
        named = zip(self._images, self._keys(), leaves, strict=True)
        features = [{**one.features, key: leaf} for one, key, leaf in named]
        whole = {key: value for key, value in concat_images(features, spec).items() if key in prompt.vision_inputs}
        inputs = host.inputs(prompt) | on_device(whole, host.model)
        gradients = passes.pixel_gradient(host.model, inputs, leaves, partial(host.generator.first_token, prompt))
        host.check_finite("gradients", gradients, ["the pixels"] * len(gradients))
        host.meter.forward(prompt.image_tokens)
        host.meter.backward()
        return tuple(gradients)

    def _given(self) -> list[Tensor]:
        return [one.features[key] for one, key in zip(self._images, self._keys(), strict=True)]

    def _keys(self) -> list[str]:
        """For each image, the image processor's output that holds the pixels of its first view."""
        return [layout.views[0].key or self._host.adapter.prompt.pixels for layout in self._layouts]

    def _copies(self, values: Sequence[Tensor]) -> Iterator[Array]:
        """[copies, channels, height, width] of each image's first view, from values in the form of its pixels."""
        for layout, one in zip(self._layouts, values, strict=True):
            place = layout.views[0].pixels
            if place is None:
                raise AttnLensError(
                    f"Where the pixels of {type(self._host.processor.image_processor).__name__} lie is not known for "
                    f"the grid kind {self._host.adapter.grid.kind!r}. Use a map of attention."
                )
            yield place(array(one))

    def _deviation(self) -> Array:
        """The processor's standard deviations, [channels or 1, 1, 1]."""
        processor = self._host.processor.image_processor
        deviation = processor.image_std if getattr(processor, "do_normalize", False) else (1.0, 1.0, 1.0)
        return np.asarray(deviation, np.float32).reshape(-1, 1, 1)  # Fuyu's is one number
