"""Answers: a reading, boxes and a question in, an `Answer` out."""

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
