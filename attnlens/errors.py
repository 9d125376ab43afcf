"""The one error that attnlens raises for input it cannot use, and how it quotes those of others."""

_LONGEST = 300


class AttnLensError(Exception):
    """Says what was seen, what was expected, and what to do next."""


def first_line(error: BaseException) -> str:
    """What another's error says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def quoted(text: str) -> str:
    """`text` as an error quotes it: in quotation marks, control characters escaped, cut where it is very long.

    >>> quoted("a" * 1000)[-25:]
    "aa' ... (1000 characters)"
    """
    return repr(text) if len(text) <= _LONGEST else f"{text[:_LONGEST]!r} ... ({len(text)} characters)"
