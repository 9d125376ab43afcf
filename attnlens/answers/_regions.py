"""Where a region lies: a box of the first image read, or a `Region`, which says of which."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from attnlens._images import crop
from attnlens.boxes import Region
from attnlens.geometry import Box
from attnlens.lens import Reading

RegionLike = Region | Sequence[float]
"""A `Region`, or (x1, y1, x2, y2) in pixels of the first image."""


def number_of(region: RegionLike) -> int:
    """Which of a reading's images a region lies in."""
    return region.image if isinstance(region, Region) else 0


def image_of(reading: Reading, region: RegionLike) -> Image.Image:
    """The image that a region lies in."""
    return reading.image_at(number_of(region))


def box_of(reading: Reading, region: RegionLike) -> Box:
    """The region's box, clipped to its image."""
    return Box.from_any(region.box if isinstance(region, Region) else region, image_of(reading, region).size)


def crop_of(reading: Reading, region: RegionLike) -> Image.Image:
    """The exact pixels of a region."""
    return crop(image_of(reading, region), box_of(reading, region))
