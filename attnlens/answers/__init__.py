"""Answers: a reading, boxes and a question in, an `Answer` out."""

from attnlens.answers.reprompt import alone, append, replace

__all__ = ["alone", "append", "replace"]
