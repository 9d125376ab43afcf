"""Where image tokens lie: one function for each grid kind, from an adapter's facts to a `Layout`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnlens.adapters._grids import GridSpec
from attnlens.lens._layouts import anyres, crops, cross_attention, native, single, slices, tiles
from attnlens.lens._layouts.base import Layout, Processed, View

__all__ = ["Layout", "Processed", "View", "layout_of"]


def layout_of(spec: GridSpec, image: Processed) -> Layout:
    """The layout of one image under an adapter's grid. Raises AttnLensError where the two do not fit."""
    return _KINDS[spec.kind](spec, image)


_KINDS: dict[str, Callable[[Any, Processed], Layout]] = {
    "square": single.square,
    "thw": native.thw,
    "sizes": single.sizes,
    "rows": native.rows,
    "unpadded": native.unpadded,
    "shapes": native.shapes,
    "positions": single.positions,
    "slices": slices.slices,
    "local_global": slices.local_global,
    "crops": crops.crops,
    "tiles": tiles.tiles,
    "anyres": anyres.anyres,
    "latents": cross_attention.latents,
    "cross": cross_attention.cross,
}
