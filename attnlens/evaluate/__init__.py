"""Data sets with boxes, scores with intervals, and records that survive a killed run."""

from typing import TYPE_CHECKING

from attnlens._renamed import names
from attnlens.evaluate._dataset import Example, export, pocket_examples, read, with_boxes, write
from attnlens.evaluate._records import Records
from attnlens.evaluate._scoring import Interval, bootstrap, difference, is_correct

__all__ = [
    "Example",
    "Interval",
    "Records",
    "bootstrap",
    "difference",
    "export",
    "is_correct",
    "pocket_examples",
    "read",
    "with_boxes",
    "write",
]

if not TYPE_CHECKING:
    __getattr__ = names(__name__, pocket="pocket_examples", right="is_correct")
