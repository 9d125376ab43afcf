"""Where image tokens lie: one function for each grid kind, from an adapter's facts to a `Layout`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnlens.adapters.grids import GridSpec
from attnlens.lens.layouts import anyres, crops, keys, rows, slices, tiles, whole
from attnlens.lens.layouts.base import Layout, Processed, View

__all__ = ["Layout", "Processed", "View", "layout_of"]


def layout_of(spec: GridSpec, image: Processed) -> Layout:
    """The layout of one image under an adapter's grid. Raises AttnLensError where the two do not fit."""
    return _KINDS[spec.kind](spec, image)


_KINDS: dict[str, Callable[[Any, Processed], Layout]] = {
    "square": whole.square,
    "thw": rows.thw,
    "sizes": whole.sizes,
    "rows": rows.rows,
    "unpadded": rows.unpadded,
    "shapes": rows.shapes,
    "positions": whole.positions,
    "slices": slices.slices,
    "local_global": slices.local_global,
    "crops": crops.crops,
    "tiles": tiles.tiles,
    "anyres": anyres.anyres,
    "latents": keys.latents,
    "cross": keys.cross,
}
