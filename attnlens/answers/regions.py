"""Where a region lies: a box of the first image read, or a `Found`, which says of which."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from attnlens.boxes import Found
from attnlens.geometry import Box
from attnlens.images import crop
from attnlens.lens.reading import Reading

Region = Found | Sequence[float]
"""A `Found`, or (x1, y1, x2, y2) in pixels of the first image."""


def number_of(region: Region) -> int:
    """Which of a reading's images a region lies in."""
    return region.image if isinstance(region, Found) else 0


def image_of(reading: Reading, region: Region) -> Image.Image:
    """The image that a region lies in."""
    return reading.image_at(number_of(region))


def box_of(reading: Reading, region: Region) -> Box:
    """The region's box, clipped to its image."""
    return Box.from_any(region.box if isinstance(region, Found) else region, image_of(reading, region).size)


def crop_of(reading: Reading, region: Region) -> Image.Image:
    """The exact pixels of a region."""
    return crop(image_of(reading, region), box_of(reading, region))
