"""The one error that attnlens raises for input it cannot use, and how it quotes those of others."""


class AttnLensError(Exception):
    """Says what was seen, what was expected, and what to do next."""


def first_line(error: BaseException) -> str:
    """What another's error says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
