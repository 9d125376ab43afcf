"""Data sets with boxes, scores with intervals, and records that survive a killed run."""

from attnlens.evaluate._dataset import Example, export, pocket, read, with_boxes, write
from attnlens.evaluate._records import Records
from attnlens.evaluate._scoring import Interval, bootstrap, difference, right

__all__ = [
    "Example",
    "Interval",
    "Records",
    "bootstrap",
    "difference",
    "export",
    "pocket",
    "read",
    "right",
    "with_boxes",
    "write",
]
