"""The one error that attnlens raises for input it cannot use, and how it quotes those of others."""

__all__ = ["AttnLensError"]

_LONGEST = 300


class AttnLensError(Exception):
    """Says what was seen, what was expected, and what to do next."""


def first_line(error: BaseException) -> str:
    """What another's error says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def sentence(error: BaseException) -> str:
    """The same, with a full stop."""
    line = first_line(error)
    return line if line.endswith(".") else f"{line}."


def quoted(value: object) -> str:
    """`value` as an error quotes it: text in quotation marks, control characters escaped, cut where it is very long.

    >>> quoted("a" * 1000)[-25:]
    "aa' ... (1000 characters)"
    """
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]!r} ... ({len(value)} characters)"
    try:
        return repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return f"one {type(value).__name__} of thousands of digits"
