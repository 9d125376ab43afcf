"""Answers: a reading, boxes and a question in, an `Answer` out."""

from attnlens.answers.reprompt import (
    alone,
    append,
    append_canvas,
    outlined,
    outlined_union,
    replace,
    replace_by_canvas,
    union,
)
from attnlens.answers.verifier import Verdict, verify, verify_crops

__all__ = [
    "Verdict",
    "alone",
    "append",
    "append_canvas",
    "outlined",
    "outlined_union",
    "replace",
    "replace_by_canvas",
    "union",
    "verify",
    "verify_crops",
]
