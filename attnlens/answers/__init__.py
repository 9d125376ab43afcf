"""Answers: a reading, boxes and a question in, an `Answer` out."""

from attnlens.answers.reprompt import alone, append, replace
from attnlens.answers.verify import Verdict, verify, verify_crops

__all__ = ["Verdict", "alone", "append", "replace", "verify", "verify_crops"]
