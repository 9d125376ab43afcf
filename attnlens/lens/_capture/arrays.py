"""From captured weights to a trace's arrays: which keys are image tokens, and which query saw which patch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from attnlens.errors import AttnLensError
from attnlens.lens._layouts import Layout
from attnlens.lens._trace import Array


def array(values: Tensor) -> Array:
    return values.detach().float().cpu().numpy()


def rows_at(weights: Sequence[Tensor], columns: list[int], length: int) -> Array:
    """The last query's row at `columns` of its keys, of which there are `length`: [layers, heads, image_tokens].

    A sliding window's cache holds the last keys only: what is before them was not looked at. In a layer with fewer
    heads than another each stands several times, which leaves every mean over heads as it is.
    """
    return _at_columns([w[0, :, -1] for w in weights], columns, length)


def word_rows_at(weights: Sequence[Tensor], columns: list[int], length: int) -> Array:
    """The same of every query that the weights are of: [layers, heads, words, image_tokens]."""
    return _at_columns([w[0] for w in weights], columns, length)


def _at_columns(layers: Sequence[Tensor], columns: list[int], length: int) -> Array:
    """[heads, ..., keys] of each layer -> [layers, heads, ..., image_tokens]."""
    rows = []
    for row in layers:
        if row.shape[-1] > length:
            raise AttnLensError(
                f"The language model looks at {row.shape[-1]} keys, and by the adapter there are {length}. Correct "
                "its grid: what a resampler puts in the place of patches, for one, has no place in the image."
            )
        rows.append(pad(row, (length - row.shape[-1], 0))[..., columns])
    heads = math.lcm(*(row.shape[0] for row in rows))
    return array(torch.stack([row.repeat_interleave(heads // row.shape[0], dim=0) for row in rows]))


def keys_of(layouts: Sequence[Layout]) -> tuple[range, ...]:
    """Where each image's keys stand among those of all images."""
    ends = np.cumsum([len(layout.cells) for layout in layouts]).tolist()
    return tuple(range(end - len(layout.cells), end) for end, layout in zip(ends, layouts, strict=True))


def spans_of(keys: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    """Each image's part of the image tokens (or keys) of all, one image's after another's."""
    ends = np.cumsum([len(one) for one in keys]).tolist()
    return tuple(slice(end - len(one), end) for end, one in zip(ends, keys, strict=True))


def patches_of(weights: Sequence[Tensor], layouts: Sequence[Layout]) -> Array | None:
    """[tiles, heads, queries, keys] of each connector layer -> [layers, heads, image_tokens, patches]."""
    if not weights:
        return None
    return array(torch.stack([_by_image(w, layouts) for w in weights]))


def _by_image(weights: Tensor, layouts: Sequence[Layout]) -> Tensor:
    """[tiles, heads, queries, keys] -> [heads, queries of all images, patches], zero where a tile is not a query's."""
    widest = max(len(layout.with_cells.cells) for layout in layouts)
    images, start = [], 0
    for layout in layouts:
        keys, queries = len(layout.cells) // layout.tiles, layout.tokens // layout.tiles
        if weights.shape[-1] - keys not in (0, queries):  # some resamplers look at themselves, too
            raise AttnLensError(
                f"The connector looks at {weights.shape[-1]} keys, of which the adapter's grid has {keys} for "
                f"{queries} queries. Correct grid in the adapter: its kind, patch or cls."
            )
        own = weights[start : start + layout.tiles, :, :, :keys]
        start += layout.tiles
        diagonal = torch.stack([torch.block_diag(*own[:, head]) for head in range(own.shape[1])])
        patches = diagonal[..., np.flatnonzero(layout.cells >= 0)]
        images.append(pad(patches, (0, widest - patches.shape[-1])))
    return torch.cat(images, dim=1)
