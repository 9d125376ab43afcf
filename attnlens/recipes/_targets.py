"""What a question is about: the things to look for, in its own words or in those that the model finds for it.

A target is a phrase such as "red sign". One that begins with "all " is to be found wherever it is, as questions that
count or list things need (type 2 in FOCUS, arXiv 2506.21710, and ZoomEye, arXiv 2411.16044).

>>> targets_in("How many red signs are on the wall?")
['all red signs', 'wall']
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from attnlens.errors import AttnLensError
from attnlens.lens import Lens, Reading

Targets = list[str]
"""Phrases without article, each once, in the order of the text; those to be found everywhere begin with "all "."""

ALL = "all "

LEAD = "Objects to look at:"
"""What the model's list of objects begins with."""

IN_CONTEXT = f"""Which objects have to be found in an image to answer a question about it? Name only what the question \
speaks of. Write "all" before things that have to be counted or listed. Reply with one line that begins with "{LEAD}".

Question: What is the colour of the scarf that the man on the bench is wearing?
{LEAD} the scarf of the man on the bench

Question: Is the bicycle to the left or to the right of the mailbox?
{LEAD} the bicycle and the mailbox

Question: How many candles are there on the cake?
{LEAD} all candles on the cake

Question: Which of the umbrella, the kite and the flag is the largest?
{LEAD} the umbrella, the kite and the flag

Question: What does the label on the green bottle say?
{LEAD} the label on the green bottle

Question: {{question}}
"""
"""The in-context examples, ours: FOCUS prints none, and ZoomEye's are not ours to hand on."""


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_ARTICLES = ("the", "an", "a")
_ENDS = _words(
    "in on of at is are was were be been can could would should will did that which who whose what where when how why",
    "has have had does do or and with from to by for than into onto inside between among under over next left right",
    "above below behind beside near around holding wearing carrying standing sitting written visible shown seen there",
    "here same i you we they he she it them this these those the an a say says show shows read reads mean means look",
    "looks",
)
_GENERAL = _words("image picture photo photograph scene colour color number word text")
_PRONOUNS = _words(
    "i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us our ours",
    "ourselves they them their theirs themselves this that these those who whom whose which what someone somebody",
    "anyone anybody everyone everybody something anything everything nothing",
)
_HOLLOW = _PRONOUNS.union(_ARTICLES) | _words(
    "one ones other others same both each every some any many few several all none thing things"
)

_EVERY = (
    r"(?:how\s+many|(?:(?:the|a)\s+)?(?:total\s+)?(?:number|count)\s+of(?!\s+(?:the|an?)\b)|count(?:ing)?|all)"
    r"(?:\s+of)?(?:\s+(?:the|these|those))?(?:\s+(?:different|more|fewer|other))?"
)
_PHRASE = re.compile(
    rf"\b(?:(?P<every>{_EVERY})|{'|'.join(_ARTICLES)})\s+"
    rf"(?P<words>(?:(?!(?:{'|'.join(sorted(_ENDS))})\b)[\w'’-]+\s*)+)",
    re.IGNORECASE,
)
_LISTED = re.compile(rf"{re.escape(LEAD.rstrip(':'))}[*: \t]*(?P<listed>[^\n]*)", re.IGNORECASE)
_WHICH = re.compile(
    rf"\b(?:which|what)\s+(?P<noun>(?:(?!(?:{'|'.join(sorted(_ENDS))})\b)[\w'’-]+\s+)+?)"
    rf"(?=(?:{'|'.join(sorted(_ENDS))})\b)",
    re.IGNORECASE,
)
_ONE = re.compile(r"(?<=\s)one\Z", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_BETWEEN = re.compile(r"\s*(?:,|;|\band\b)\s*", re.IGNORECASE)
_ENTRY = re.compile(
    rf"(?P<every>all\s+(?:of\s+)?)?(?:(?:{'|'.join(_ARTICLES)})\s+)?(?P<words>.*)", re.IGNORECASE | re.DOTALL
)
_IRREGULAR = {
    "people": "person", "children": "child", "feet": "foot", "teeth": "tooth", "mice": "mouse", "geese": "goose",
    "buses": "bus", "knives": "knife", "leaves": "leaf", "shelves": "shelf", "loaves": "loaf", "wolves": "wolf",
    "potatoes": "potato", "tomatoes": "tomato",
}  # fmt: skip


def targets_in(question: str) -> Targets:
    """The phrases after an article, or after "how many", "number of", "count" or "all", up to a word that ends them.

    >>> targets_in("What is written on the red sign in the image?")
    ['red sign']
    >>> targets_in("Which sign is larger, the red one or the blue one?")
    ['red sign', 'blue sign']

    Deviation: the papers have the model name the targets from examples (`targets_by_model`), for which small models are
    too small, and which is one more pass; these words are the question's own. Raises AttnLensError where there are
    none.
    """
    found = []
    which = _WHICH.search(question)
    noun = "" if which is None else which["noun"].strip()
    if not set(noun.lower().split()) - _HOLLOW - _GENERAL:
        noun = "one"
    for match in _PHRASE.finditer(question):
        words = match["words"].strip()
        if match["every"]:
            found.append(ALL + words)
        elif words.split()[-1].lower() not in _GENERAL:
            found.append(_ONE.sub(noun, words))
    targets = _cleaned(found)
    if not targets:
        raise AttnLensError(
            f"The question {question!r} names nothing to look for in words such as 'the red sign'. Say what: "
            "targets=['red sign']."
        )
    return targets


def targets_by_model(model: Lens | Reading, question: str) -> Targets:
    """The targets that the model itself names, from examples in its prompt, without the image (FOCUS, step I).

    It counts as one forward pass. The examples are in `IN_CONTEXT`. Raises AttnLensError for a reply that lists none:
    small models do not follow examples.
    """
    return targets_in_reply(model.generate_text(IN_CONTEXT.format(question=question)))


def targets_in_reply(reply: str) -> Targets:
    """The targets of a reply that lists them behind `LEAD`, between commas and "and", up to the end of its line.

    >>> targets_in_reply("Objects to look at: the red sign, and all of the dogs.")
    ['red sign', 'all dogs']

    Articles are left out, and so are phrases with a pronoun, which name nothing by themselves (ZoomEye). Raises
    AttnLensError where nothing is left.
    """
    found = _LISTED.search(reply)
    line = "" if found is None else _SENTENCE_END.split(found["listed"])[0]
    entries = [_entry(part) for part in _BETWEEN.split(line)]
    targets = _cleaned(one for one in entries if not _PRONOUNS & set(one.lower().split()))
    if not targets:
        raise AttnLensError(
            f"The model was asked which objects the question needs, and replied {reply!r}; expected a line such as "
            f"'{LEAD} the red sign and the dog'. Say what to look for: targets=['red sign']."
        )
    return targets


def chosen_targets(
    model: Lens | Reading, question: str, targets: Sequence[str] | Literal["model"] | None = None
) -> Targets:
    """The targets that a caller gives; "model": those that the model names; None: those that the question names.

    Each is kept once, whatever its capitals. Raises AttnLensError for targets that are no list of phrases, or empty.
    """
    if targets is None:
        return targets_in(question)
    if targets == "model":
        return targets_by_model(model, question)
    given = [] if isinstance(targets, str) or not isinstance(targets, Sequence) else list(targets)
    if not given or not all(isinstance(one, str) and one.strip() for one in given):
        raise AttnLensError(
            f"targets is {targets!r}; expected a list of phrases such as ['red sign', 'all dogs'], or 'model' to have "
            "the model name them."
        )
    return _each_once(one.strip() for one in given)


def is_everywhere(target: str) -> bool:
    """Whether a target is of type 2: to be found wherever it is."""
    return target.startswith(ALL)


def one_of(target: str) -> str:
    """The phrase to ask about a single place: of "all red signs", "red sign". Other targets stay as they are.

    >>> one_of("all red signs"), one_of("glasses")
    ('red sign', 'glasses')

    Of the words up to the first "of", "on" and the like, the last becomes singular, by the rules of English; ZoomEye's
    code drops an s.
    """
    if not is_everywhere(target):
        return target
    words = target.removeprefix(ALL).split()
    last = next((place for place, word in enumerate(words) if word.lower() in _ENDS), len(words)) - 1
    return " ".join([*words[:last], _singular(words[last]), *words[last + 1 :]])


def _cleaned(phrases: Iterable[str]) -> Targets:
    """Those that name something, each once whatever its capitals."""
    return _each_once(phrase for phrase in phrases if set(phrase.lower().split()) - _HOLLOW)


def _each_once(phrases: Iterable[str]) -> Targets:
    found: dict[str, str] = {}
    for phrase in phrases:
        found.setdefault(phrase.lower(), phrase)
    return list(found.values())


def _entry(part: str) -> str:
    """One of a reply's objects, without article, quotes or bullets, with "all " in front where it is marked so."""
    found = _ENTRY.fullmatch(part.strip(" \t\"'`*-–•.:"))
    if found is None:
        return ""
    return (ALL if found["every"] else "") + found["words"].strip()


def _singular(word: str) -> str:
    lower = word.lower()
    if lower in _IRREGULAR:
        return _IRREGULAR[lower]
    if lower.endswith("men"):
        return f"{word[:-2]}an"
    if lower.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if lower.endswith(("sses", "xes", "zzes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if lower.endswith("s") and not lower.endswith(("ss", "us", "is")) else word
