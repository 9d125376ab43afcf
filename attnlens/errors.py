"""The one error that attnlens raises for input it cannot use."""


class AttnLensError(Exception):
    """Says what was seen, what was expected, and what to do next."""
