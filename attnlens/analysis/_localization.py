"""Localization heads: those few heads of a model that look, sample after sample, at what is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from attnlens._checks import is_count
from attnlens.errors import AttnLensError
from attnlens.lens import Lens
from attnlens.lens._observed import LayerChoice
from attnlens.maps._heads import COUNT, Head, focused

LOWEST = 10
"""How many heads of a sample count in the paper: those of the lowest spatial entropy."""


class Question(Protocol):
    """A question about an image. No answer and no box is needed."""

    @property
    def question(self) -> str: ...
    def open(self) -> Any:
        """The image: whatever `lens.read` takes."""


def localization_heads(
    lens: Lens,
    examples: Iterable[Question],
    *,
    count: int = COUNT,
    lowest: int = LOWEST,
    connector_layer: LayerChoice = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[Head, ...]:
    """The `count` heads that are most often among the `lowest` most focused of a sample, most frequent first.

    After arXiv 2503.06287, which takes 1000 samples of RefCOCO. The most focused heads are those of the lowest spatial
    entropy among the heads that look at the image enough: the attention of the last prompt token, summed over the
    image's tokens, lies above the elbow of all heads' (as of `boxes.components`). On each example one trace does.

    Args:
        lens: the model whose heads are looked for.
        examples: questions about images, each with `question` and `open()`, such as those of `attnlens.evaluate`. No
            answer and no box is needed.
        count: how many heads come back; the paper averages the 3 most frequent.
        lowest: how many heads of each sample count; in the paper the lowest 10.
        connector_layer: where the connector has attention, the layer of it that carries the maps to patches: its
            number, "mean" for the mean of all, None for the adapter's default.
        progress: called with the number of examples done; None calls nothing.

    Returns:
        The heads, for `maps.head_attention`; fewer than `count` where fewer were ever counted.
            Of heads that are as frequent as each other, the one of the lower mean entropy where it was counted comes
            first: the paper does not say.

    Raises:
        AttnLensError: when there is no example, and for a `count` or `lowest` that is no whole number of at least 1.

    Examples:
        >>> examples = attnlens.evaluate.pocket_examples("validation", ["small"], ["read"], count=4)
        >>> heads = attnlens.analysis.localization_heads(lens, examples)
        >>> len(heads), maps.head_attention(reading, question, heads).grid.shape
        (3, (10, 10))
    """
    for name, value in (("count", count), ("lowest", lowest)):
        if not is_count(value):
            raise AttnLensError(f"{name} is {value!r}; expected a whole number of heads, at least 1.")
    entropies: dict[Head, list[float]] = {}
    done = 0
    for done, example in enumerate(examples, 1):
        reading = lens.read(example.open())
        for one in focused(reading, example.question, connector_layer=connector_layer)[:lowest]:
            entropies.setdefault(one.head, []).append(one.entropy)
        if progress is not None:
            progress(done)
    if not done:
        raise AttnLensError("There is no example to find heads on. Give at least one, better a hundred.")
    ordered = sorted(entropies, key=lambda head: (-len(entropies[head]), sum(entropies[head]) / len(entropies[head])))
    return tuple(ordered[:count])
