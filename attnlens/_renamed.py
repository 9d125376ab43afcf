"""Words of 0.1.0 that are others now. Each works for one release, and its warning says the new word.

This module, and what names it, goes with 0.3.0: `grep -r _renamed attnlens`.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

MODULES = {
    "attnlens.attribution": "attnlens.analysis",
    "attnlens.canvas": "attnlens.montage",
    "attnlens.boxes.focus": "attnlens.recipes.focus",
    "attnlens.recipes.external": "attnlens.recipes.tools",
    "attnlens.recipes.look": "attnlens.recipes",
    "attnlens.video": "attnlens",
    **{
        f"attnlens.{room}.{name}": f"attnlens.{room}"
        for room, names in {
            "adapters": "library schema",
            "answers": "reprompt verifier",
            "boxes": "components proposals search tiles",
            "conformance": "draft",
            "croppers": "croppers detector scorer segmenter",
            "evaluate": "dataset records scoring",
            "lens": "cost layouts layouts.base lens loading reading trace values words",
            "maps": "attention combined contrast entropy heads pixels tiled values words",
            "pocket": "library",
            "recipes": "ask library recipe",
            "show": "figures files",
        }.items()
        for name in names.split()
    },
    "attnlens.lens.processors": "attnlens.lens._checkpoint.processors",
    "attnlens.conformance.checks": "attnlens.conformance._checks",
    "attnlens.conformance.report": "attnlens.conformance._report",
    "attnlens.conformance.tiny": "attnlens.conformance._tiny.model",
    **{f"attnlens.attribution.{name}": "attnlens.analysis" for name in ("localization", "ranking", "ratio")},
}
"""Modules that the reference of 0.1.0 named, or that scripts used, and where their names stand now."""

Named = TypeVar("Named", bound=Callable[..., Any])


def warn(old: str, new: str, depth: int = 3, category: type[Warning] = DeprecationWarning) -> None:
    """Says in one line that `old` is `new`, of the line of code `depth` calls up.

    `category`: FutureWarning where a file says the old word, whose writer sees no DeprecationWarning.
    """
    warnings.warn(f"{old} is now {new}; the old word goes with attnlens 0.3.0.", category, stacklevel=depth)


class _Moved(ModuleType):
    """A module of 0.1.0: hands out what the room has."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # such as inspect asks of every module: no reason to import anything
        room = MODULES[self.__name__]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # one word on it is enough
            value = getattr(importlib.import_module(room), name)
        warn(f"{self.__name__}.{name}", f"{room}.{getattr(value, '__name__', name)}")
        return value


def keep_modules() -> None:
    """`import` finds the modules of 0.1.0. They are put in place at once: found later, one would take the place of the
    function of its name, as in `attnlens.boxes.search`."""
    for name in MODULES:
        module = _Moved(name, "A module of attnlens 0.1.0.")
        module.__path__ = []
        sys.modules[name] = module


def names(room: str, depth: int = 3, **renamed: str) -> Callable[[str], Any]:
    """The `__getattr__` of a room: old names and the new ones, or the whole path of a room that has moved.

    `depth`: as in `warn`.
    """

    def find(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        new = renamed[name]
        path = new if "." in new else f"{room}.{new}"
        warn(f"{room}.{name}", path, depth)
        return importlib.import_module(path) if "." in new else getattr(importlib.import_module(room), new)

    return find


class Renamed:
    """An attribute or a method of 0.1.0. `says`: what to use, where that is not the attribute it is now."""

    def __init__(self, new: str, says: str | None = None) -> None:
        self._new, self._says = new, says

    def __set_name__(self, owner: type, name: str) -> None:
        self._old, self._owner = name, owner.__name__

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        warn(f"{self._owner}.{self._old}", self._says or f"{self._owner}.{self._new}")
        return functools.reduce(getattr, self._new.split("."), instance)


def arguments(**renamed: str) -> Callable[[Named], Named]:
    """A function, or a class, that takes arguments by their old names too."""

    def decorate(taker: Named) -> Named:
        function: Any = taker.__init__ if isinstance(taker, type) else taker  # type: ignore[misc]

        @functools.wraps(function)
        def take(*args: Any, **kwargs: Any) -> Any:
            for old in renamed.keys() & kwargs.keys():
                warn(f"{taker.__name__}({old}=)", f"{renamed[old]}=")
                if renamed[old] in kwargs:
                    raise TypeError(f"{taker.__name__}() got {old} and {renamed[old]}, which are the same")
                kwargs[renamed[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        if not isinstance(taker, type):
            return cast(Named, take)
        taker.__init__ = take  # type: ignore[misc]
        return cast(Named, taker)

    return decorate


def keys(given: Any, where: str, **renamed: str) -> Any:
    """A mapping from a file, with its old keys under their new names."""
    if not isinstance(given, dict):
        return given
    for old in renamed.keys() & given.keys():
        warn(f"{where}.{old}", f"{where}.{renamed[old]}", category=FutureWarning)
    return {renamed.get(key, key) if isinstance(key, str) else key: value for key, value in given.items()}


def value(where: str, given: Any, renamed: dict[str, str]) -> Any:
    """A word from a file, or the one that it is now."""
    if not isinstance(given, str) or given not in renamed:
        return given
    warn(f"{where}: {given}", renamed[given], category=FutureWarning)
    return renamed[given]
