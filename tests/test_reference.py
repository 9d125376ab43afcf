"""Claims about the public side: what is public shows in the import line, stands in the reference, and can be looked up.

A module is public where no part of its path begins with an underscore. Each of them says in `__all__` what it offers;
the reference names just that, by the path by which it is imported; and every function, class and method of it says what
it takes, gives and raises, with an example that is run here.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest
from pydantic import BaseModel

import attnlens
from attnlens.pocket import scenes

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
LISTED = re.findall(r"^::: (\S+)", REFERENCE, flags=re.MULTILINE)
COMMANDS = {"attnlens.cli", "attnlens.cli.__main__"}  # typed on the command line, not imported
PLUGIN = {"attnlens.conformance.plugin"}  # imported by pytest
MODULES = ["attnlens", *(found.name for found in pkgutil.walk_packages(attnlens.__path__, "attnlens."))]
PUBLIC = [name for name in MODULES if not re.search(r"\._", name) and name not in COMMANDS | PLUGIN]


def resolved(path: str) -> Any:
    """What stands at a path; `pkgutil.resolve_name` would find the modules of 0.1.0 (attnlens._renamed) first."""
    door, _, name = path.rpartition(".")
    return getattr(importlib.import_module(door), name)


def offered() -> Iterator[tuple[str, Any]]:
    """The path and the value of everything that a public module offers, modules aside."""
    for name in PUBLIC:
        module = importlib.import_module(name)
        for word in module.__all__:
            value = getattr(module, word)
            if not isinstance(value, ModuleType) and word != "__version__":
                yield f"{name}.{word}", value


def test_every_public_module_says_what_it_offers():
    assert [name for name in PUBLIC if not hasattr(importlib.import_module(name), "__all__")] == []


def test_the_reference_names_just_what_public_modules_offer():
    """Once each: what is offered at two doors stands there by one of them."""
    listed = {path: resolved(path) for path in LISTED}
    assert len(listed) == len(LISTED)
    paths = dict(offered())
    assert set(listed) <= set(paths)
    missing = {path for path, value in paths.items() if not any(value is one for one in listed.values())}
    assert missing == set()


def test_the_reference_names_every_public_module_by_what_it_holds():
    doors = {path.rpartition(".")[0] for path in LISTED}
    empty = {name for name in PUBLIC if not importlib.import_module(name).__all__}
    twice = {"attnlens.errors", "attnlens.geometry", "attnlens.importance"}  # their names stand at attnlens itself
    assert set(PUBLIC) - doors - empty == twice


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions, and the public methods of public classes, by the path of the reference."""
    for path in LISTED:
        value = resolved(path)
        if inspect.isfunction(value):
            yield path, value
        if inspect.isclass(value):
            ours = [one for one in value.__mro__ if one.__module__.startswith("attnlens.")]
            for name, member in {name: member for one in reversed(ours) for name, member in vars(one).items()}.items():
                method = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                homes = tuple(f"{one.__name__}." for one in ours)
                own = inspect.isfunction(method) and method.__qualname__.startswith(homes)
                if own and not name.startswith("_") and name != "holds":
                    yield f"{path}.{name}", method


FUNCTIONS = dict(functions())


def sections(function: Callable[..., Any]) -> dict[str, str]:
    """The sections of a docstring by title."""
    found = re.split(r"^(Args|Returns|Yields|Raises|Examples?):$", inspect.getdoc(function) or "", flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_docstrings_say_in_one_line_what_it_is():
    for path, function in FUNCTIONS.items():
        first = (inspect.getdoc(function) or "").split("\n\n")[0]
        assert 0 < len(first) <= 240, path


@pytest.mark.parametrize("path", FUNCTIONS)
def test_docstrings_can_be_looked_up_in(path):
    function = FUNCTIONS[path]
    found = sections(function)
    takes = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
    described = re.findall(r"^    \*{0,2}(\w+)(?: \([^)]*\))?:", found.get("Args", ""), flags=re.MULTILINE)
    assert described == takes
    returned = function.__annotations__.get("return")
    assert ("Returns" in found) == (returned not in ("None", None, "NoReturn"))
    assert ">>>" in (inspect.getdoc(function) or ""), "no example"


def test_classes_have_an_example_and_say_what_their_fields_are():
    for path in LISTED:
        value = resolved(path)
        if inspect.isclass(value) and get_origin(value) is None:
            assert inspect.getdoc(value), path
            if not issubclass(value, BaseModel | Exception):
                assert ">>>" in inspect.getdoc(value) or any(one.startswith(f"{path}.") for one in FUNCTIONS), path


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the examples of the reference start from, as its first lines say."""
    lens = attnlens.load("pocket/llava")
    scene = scenes.scene(seed=5, target_area=0.004)
    reading = lens.read(scene.image)
    return {
        "attnlens": attnlens,
        "lens": lens,
        "scene": scene,
        "image": scene.image,
        "question": scene.question,
        "reading": reading,
        "Box": attnlens.Box,
        "Grid": attnlens.Grid,
        "ImportanceMap": attnlens.ImportanceMap,
        "maps": attnlens.maps,
        "boxes": attnlens.boxes,
        "answers": attnlens.answers,
        "recipes": attnlens.recipes,
        "scenes": scenes,
    }


def examples() -> Iterator[Any]:
    """The modules with an example in them."""
    for name in MODULES:
        path = ROOT.joinpath(*name.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if ">>>" in source.read_text(encoding="utf-8"):
            yield name


@pytest.mark.parametrize("name", examples())
def test_the_examples_run(name, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs={**names, **vars(module)}):
        runner.run(example, out=told.append, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)
