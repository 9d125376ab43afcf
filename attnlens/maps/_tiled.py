"""High-resolution maps: one map for every tile, put together (ViCrop, arXiv 2502.17422)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnlens._images import crop
from attnlens.boxes._tiles import tiles
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading

Map = Callable[..., ImportanceMap]


def tiled(map_function: Map, max_side: int = 1024) -> Map:
    """A map that reads the image in tiles of at most `max_side` pixels a side.

    The high-resolution maps of ViCrop (arXiv 2502.17422). An image that fits into one tile gives the plain map. Tiles
    are not normalised against each other, as in the released code: right for a ratio, questionable for a gradient,
    whose scale follows each tile's own confidence.

    Args:
        map_function: (reading, question, **options) -> ImportanceMap, such as `relative_attention`. It is called for
            each tile, on a reading of that tile alone.
        max_side: the longest side of a tile, in pixels of the original image; `attnlens.boxes.tiles` says how an image
            is cut.

    Returns:
        A function (reading, question, *, image=0, **options) -> ImportanceMap, whose map is on the grid of the whole
            image. `image` says which of the images read, counted from 0; `options` go to `map_function`. It raises
            AttnLensError for an image that was not read, and for a `max_side` that is no whole number of at least 1.

    Examples:
        >>> in_tiles = maps.tiled(maps.relative_attention, max_side=250)  # 400 x 400 pixels are four tiles
        >>> in_tiles(reading, question).grid.shape
        (20, 20)
    """

    def tiled_map(reading: Reading, question: str, *, image: int = 0, **options: Any) -> ImportanceMap:
        whole = reading.image_at(image)
        boxes = tiles(whole.size, max_side)
        if len(boxes) == 1 and len(boxes[0]) == 1:
            return map_function(reading, question, **options, **({"image": image} if image else {}))
        maps = [
            [map_function(reading.read_alone(crop(whole, box)), question, **options) for box in row] for row in boxes
        ]
        return ImportanceMap.stitch(maps, boxes, whole.size)

    return tiled_map
