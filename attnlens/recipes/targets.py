"""What a question is about, in its own words: the things to look for."""

from __future__ import annotations

import re

from attnlens.errors import AttnLensError

_ARTICLES = r"(?:the|a|an)"
_STOPS = (
    "in|on|of|at|is|are|was|were|that|which|who|what|has|have|does|do|or|and|with|from|to|under|over|next|left|right|"
    "above|below|behind|beside|near|holding|wearing|written|visible|shown|there|say|says|show|shows|read|reads|mean|means|look|looks"
)
_GENERAL = {"image", "picture", "photo", "photograph", "scene", "colour", "color", "number", "word", "text"}
_PHRASE = re.compile(rf"\b{_ARTICLES}\s+((?:(?!\b(?:{_STOPS})\b)[\w-]+\s*)+)", re.IGNORECASE)


def targets_in(question: str) -> list[str]:
    """The phrases after an article, up to the next word that ends them.

    >>> targets_in("What is written on the red sign in the image?")
    ['red sign']

    Deviation: the papers have the model name the targets from examples, for which small models are too small, and which
    is one more pass; these words are the question's own. Raises AttnLensError where there are none.
    """
    found = [phrase.strip() for phrase in _PHRASE.findall(question)]
    found = [phrase for phrase in dict.fromkeys(found) if phrase and phrase.split()[-1].lower() not in _GENERAL]
    if not found:
        raise AttnLensError(
            f"The question {question!r} names nothing to look for in words such as 'the red sign'. Say what: "
            "targets=['red sign']."
        )
    return found
