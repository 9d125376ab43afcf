"""Answers: a reading, boxes and a question in, an `Answer` out."""

from attnlens.answers.reprompt import alone, append, replace, union
from attnlens.answers.verifier import Verdict, verify, verify_crops

__all__ = ["Verdict", "alone", "append", "replace", "union", "verify", "verify_crops"]
