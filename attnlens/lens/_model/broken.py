"""Model types that a release of transformers breaks by itself: its plain forward fails, and so would every reading."""

from __future__ import annotations

import transformers

from attnlens.errors import AttnLensError

KNOWN_BROKEN: dict[str, tuple[tuple[str, ...], str]] = {
    "llama4": (
        ("5.24.0",),
        "Llama4ForConditionalGeneration.forward reads image_outputs of its language model's output, which has none",
    ),
}
"""Model types, with the releases of transformers that cannot run them and why not."""


def broken(model_type: str, version: str = transformers.__version__) -> str | None:
    """Why that version of transformers cannot run models of that type, and what can; None where nothing is known."""
    versions, reason = KNOWN_BROKEN.get(model_type, ((), ""))
    if version not in versions:
        return None
    return (
        f"transformers {version} cannot run models of the type {model_type!r}: a plain forward fails, with or without "
        f"an image ({reason}). Install another release that attnlens supports: "
        f"pip install 'transformers>=5.23,{','.join(f'!={one}' for one in versions)}'."
    )


def check_runs(model_type: str) -> None:
    """Raises AttnLensError for a model type that the installed transformers breaks by itself."""
    if (reason := broken(model_type)) is not None:
        raise AttnLensError(reason)
