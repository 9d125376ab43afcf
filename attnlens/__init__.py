"""Shows where a multimodal LLM looks, and uses it.

    import attnlens

    lens = attnlens.load("pocket/llava")
    result = attnlens.ask(lens, "photo.jpg", "What is written on the red sign?")
    result.answer, result.boxes
    result.save("out.png")

Every public name is imported when it is first used: `import attnlens` itself loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attnlens import _renamed

if TYPE_CHECKING:
    from attnlens import (
        adapters,
        analysis,
        answers,
        boxes,
        conformance,
        croppers,
        doctor,
        evaluate,
        lens,
        maps,
        montage,
        pocket,
        recipes,
        show,
    )
    from attnlens._video import frames
    from attnlens.adapters import AdapterSpec
    from attnlens.errors import AttnLensError
    from attnlens.geometry import Box, Grid
    from attnlens.importance import ImportanceMap
    from attnlens.lens import load
    from attnlens.recipes import Recipe, ask

__version__ = "0.2.0"

__all__ = [
    "AdapterSpec",
    "AttnLensError",
    "Box",
    "Grid",
    "ImportanceMap",
    "Recipe",
    "__version__",
    "adapters",
    "analysis",
    "answers",
    "ask",
    "boxes",
    "conformance",
    "croppers",
    "doctor",
    "evaluate",
    "frames",
    "lens",
    "load",
    "maps",
    "montage",
    "pocket",
    "recipes",
    "show",
]

_HOMES = {
    "AdapterSpec": "attnlens.adapters",
    "AttnLensError": "attnlens.errors",
    "Box": "attnlens.geometry",
    "Grid": "attnlens.geometry",
    "ImportanceMap": "attnlens.importance",
    "Recipe": "attnlens.recipes",
    "ask": "attnlens.recipes",
    "frames": "attnlens._video",
    "load": "attnlens.lens",
}
_SUBMODULES = frozenset(__all__) - frozenset(_HOMES) - {"__version__"}
_OLD = {"attribution": "analysis", "canvas": "montage"}

_renamed.keep_modules()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"attnlens.{name}")
    if name in _OLD:
        return _renamed.names("attnlens", 4, **_OLD)(name)
    raise AttributeError(f"module 'attnlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
