"""Answers: a reading, boxes and a question in, an `Answer` out."""

from typing import TYPE_CHECKING

from attnlens._renamed import names
from attnlens.answers._reprompt import (
    alone,
    append,
    append_montage,
    outlined,
    outlined_union,
    replace,
    replace_by_montage,
    union,
)
from attnlens.answers._verifier import Verdict, verify, verify_crops

__all__ = [
    "Verdict",
    "alone",
    "append",
    "append_montage",
    "outlined",
    "outlined_union",
    "replace",
    "replace_by_montage",
    "union",
    "verify",
    "verify_crops",
]

if not TYPE_CHECKING:
    __getattr__ = names(__name__, append_canvas="append_montage", replace_by_canvas="replace_by_montage")
