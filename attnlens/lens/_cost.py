"""What an answer cost, counted in the same way for every method."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Cost:
    """Work done by the model, and by others that chose its crop. Costs are added and subtracted.

    Examples:
        >>> reading = lens.read(image)
        >>> first, second = reading.answer(question).cost, reading.answer("What colour is the sign?").cost
        >>> first.image_tokens, second.image_tokens, (first + second).forwards
        (100, 0, 2)
    """

    prefills: int = 0
    """Passes over image tokens; a crop appended to an image already read counts as one, over the crop alone."""
    forwards: int = 0
    """Passes over prompt tokens, prefills included.

    The passes that generate the answer's tokens are not counted, since every method makes them.
    """
    backwards: int = 0
    """Gradient passes."""
    image_tokens: int = 0
    """Image tokens prefilled, all passes together."""
    external: int = 0
    """Pictures that other models have looked at.

    One for each crop that CLIP scores, and one for each image that a detector or a segmenter takes in, whatever it is
    asked about it afterwards.
    """
    seconds: float = 0.0
    """Wall-clock, that of other models too."""

    def as_dict(self) -> dict[str, int | float]:
        """The counts by their names, as JSON takes them.

        Returns:
            A dict with one entry for each field.

        Examples:
            >>> attnlens.lens.Cost(prefills=1, forwards=2, image_tokens=100).as_dict()
            {'prefills': 1, 'forwards': 2, 'backwards': 0, 'image_tokens': 100, 'external': 0, 'seconds': 0.0}
        """
        return asdict(self)

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class Meter(threading.local):
    """Counts what is done for a lens, for each thread its own; `measure` gives the cost of a stretch of work."""

    def __init__(self) -> None:
        self._total = Cost()

    def forward(self, image_tokens: int = 0) -> None:
        self._total += Cost(prefills=int(image_tokens > 0), forwards=1, image_tokens=image_tokens)

    def backward(self) -> None:
        self._total += Cost(backwards=1)

    def external(self, images: int) -> None:
        """Other models have looked at that many pictures."""
        self._total += Cost(external=images)

    def now(self) -> Cost:
        """The running total, with the clock's reading as `seconds`: subtract two of them."""
        return self._total + Cost(seconds=time.perf_counter())

    @contextmanager
    def measure(self) -> Iterator[Stretch]:
        stretch = Stretch(self.now())
        yield stretch
        stretch.cost = self.now() - stretch.start


@dataclass
class Stretch:
    """A measured stretch of work; `cost` is there once it has ended."""

    start: Cost
    cost: Cost = Cost()
