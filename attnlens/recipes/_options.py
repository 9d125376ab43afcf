"""Options that several recipes take, checked before anything is asked of a model."""

from __future__ import annotations

from typing import Any

from attnlens._checks import is_number
from attnlens.errors import AttnLensError
from attnlens.lens import Reading

WINDOW = 336
"""Pixels: the side of the paper's models' input, for adapters that name none."""


def side_of(reading: Reading, window: object) -> float:
    """The least side of a region in original pixels: `window`, or the adapter's where that is None."""
    if window is None:
        return reading.defaults.window or WINDOW
    if not (is_number(window) and window > 0):
        raise AttnLensError(
            f"window is {window!r}; expected the least side of a region in pixels, above 0, or None for the adapter's."
        )
    return window


def check_kind(name: str, given: object, kind: type[Any]) -> None:
    """Raises AttnLensError unless the option of that name is None or of the kind that the recipe understands."""
    if given is not None and not isinstance(given, kind):
        raise AttnLensError(f"{name} is {given!r}; expected an {_door(kind)}, or None for the model's own.")


def check_template(name: str, text: object, needed: str, *others: str) -> None:
    """Raises AttnLensError unless `text` can be filled in, and holds the field {needed}, and perhaps the others."""
    marks = {field: f"\0{field}" for field in (needed, *others)}
    try:
        fits = isinstance(text, str) and marks[needed] in text.format(**marks)
    except (AttributeError, LookupError, TypeError, ValueError):
        fits = False
    if not fits:
        also = "".join(f"; it may hold {{{other}}}" for other in others)
        raise AttnLensError(
            f"{name} is {text!r}; expected a question that holds {{{needed}}}, and no other field{also}. A brace of "
            "its own is written twice: {{ or }}."
        )


def _door(kind: type[Any]) -> str:
    """The name by which a class is imported: without the modules that only the package knows."""
    return ".".join([*(part for part in kind.__module__.split(".") if not part.startswith("_")), kind.__qualname__])
