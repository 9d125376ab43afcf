"""Where the bundled models are: one folder each, as `from_pretrained` wants it."""

import pathlib

from attnlens.errors import AttnLensError

_MODELS = pathlib.Path(__file__).parent / "models"


def names() -> list[str]:
    """The names of the bundled models, without the `pocket/` in front."""
    return sorted(config.parent.name for config in _MODELS.glob("*/config.json"))


def path(name: str) -> pathlib.Path:
    """The folder of a bundled model.

    >>> path("llava").name
    'llava'

    Raises AttnLensError, with the names there are, when there is no such model.
    """
    if name not in names():
        raise AttnLensError(f"no pocket model is named {name!r}; there is {', '.join(names()) or 'none'}")
    return _MODELS / name
