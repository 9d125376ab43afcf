"""The settings of ZoomEye for a model family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from attnlens import _renamed
from attnlens._checks import check_count, is_number, is_whole
from attnlens.errors import AttnLensError

Variant = Literal["released", "thorough"]
"""Whose search it is: that of ZoomEye's released code, or ours, which differs as `find_one` says."""


@_renamed.arguments(start="threshold", floor="min_threshold", falls="decay", least="min_confidence")
@dataclass(frozen=True)
class Preset:
    """The settings of ZoomEye for one model family; contradictory ones, or ones of another kind, raise AttnLensError.

    Examples:
        >>> Preset(input_side=336, bias=0.2).levels
        (0.6, 0.5, 0.4, 0.2, 0.0, -0.2)
    """

    input_side: int
    """The model's input resolution, in pixels."""
    bias: float
    """The weight, at the root, of what is seen against what may be found: 0 to 1."""
    threshold: float = 0.6
    """The answering confidence that ends the search, -1 to 1."""
    min_threshold: float = 0.0
    """The least that the threshold falls to, -1 to 1."""
    decay: tuple[float, ...] = (0.1, 0.1, 0.2)
    """By how much the threshold falls each time, at least 0.001; the last fall repeats."""
    scale: float = 1.0
    """Boxes are enlarged to this many input sides."""
    depth: int = 5
    """How often an image is cut when one target is looked for."""
    depth_of_all: int = 2
    """How often an image is cut when all targets are looked for."""
    min_confidence: float = 0.6
    """The existing confidence from which a region counts as one of several, -1 to 1."""
    variant: Variant = "released"
    """Whose search it is: "released", that of the released code, or "thorough", ours.

    The two differ as `find_one` says, and in that the released code shows the model each region enlarged to `scale`
    input sides while it searches.
    """

    def __post_init__(self) -> None:
        check_count("input_side", self.input_side, "pixels")
        if not (is_number(self.bias) and 0 <= self.bias <= 1):
            raise AttnLensError(f"bias is {self.bias!r}; expected a weight from 0 to 1.")
        if not (
            is_number(self.min_threshold)
            and is_number(self.threshold)
            and -1 <= self.min_threshold <= self.threshold <= 1
        ):
            raise AttnLensError(
                f"The threshold starts at {self.threshold!r} and falls to {self.min_threshold!r}; expected confidences "
                "from -1 to 1, min_threshold <= threshold."
            )
        decay = self.decay if isinstance(self.decay, tuple | list) else ()
        if not decay or not all(is_number(fall) and fall >= 0.001 for fall in decay):
            raise AttnLensError(f"decay is {self.decay!r}; expected one or more numbers, at least 0.001 each.")
        if not (is_number(self.scale) and self.scale > 0):
            raise AttnLensError(f"scale is {self.scale!r}; expected a number above 0, 1 for the input side itself.")
        if not (is_number(self.min_confidence) and -1 <= self.min_confidence <= 1):
            raise AttnLensError(f"min_confidence is {self.min_confidence!r}; expected a confidence from -1 to 1.")
        if self.variant not in get_args(Variant):
            raise AttnLensError(f"variant is {self.variant!r}; expected one of {', '.join(get_args(Variant))}.")
        for name in ("depth", "depth_of_all"):
            cuts = getattr(self, name)
            if not (is_whole(cuts) and cuts >= 0):
                raise AttnLensError(f"{name} is {cuts!r}; expected a whole number of cuts, at least 0.")

    if not TYPE_CHECKING:  # words of 0.1.0
        start, floor = _renamed.Renamed("threshold"), _renamed.Renamed("min_threshold")
        falls, least = _renamed.Renamed("decay"), _renamed.Renamed("min_confidence")

    @property
    def levels(self) -> tuple[float, ...]:
        """The thresholds one after the other, from `threshold` down to what is not below `min_threshold`.

        As released, one more follows that is: the code lowers the threshold first, and checks afterwards whether it is
        too low.
        """
        levels = [self.threshold]
        falls = chain(self.decay, repeat(self.decay[-1]))
        while levels[-1] >= self.min_threshold:
            levels.append(round(levels[-1] - next(falls), 9))  # so that falls of 0.1 reach a floor of 0 exactly
        return tuple(levels if self.variant == "released" else levels[:-1])


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "llava-1.5": Preset(336, bias=0.2),
        "llava-onevision": Preset(384, bias=0.6, scale=1.2),
        # Side and bias of InternVL2.5 are its tiles' side and the other tiled family's bias: neither is published.
        "internvl2.5": Preset(448, bias=0.6, threshold=0.2, min_threshold=-0.2, scale=1.2),
        "qwen2.5-vl": Preset(448, bias=0.6, threshold=0.95, decay=(0.05, 0.1, 0.2), scale=1.2),
        # Chosen on validation scenes, of starts from 0.6 to 0.95: these models are sure of what they cannot read.
        "pocket": Preset(100, bias=0.2, threshold=0.9),
    }
)
"""The released settings per model family."""
