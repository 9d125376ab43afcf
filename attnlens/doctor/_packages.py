"""What the installed packages are, next to what attnlens was tested with and what it asks for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from attnlens import _versions
from attnlens.doctor._findings import Finding, State

MODULES = {
    "torch": "torch",
    "transformers": "transformers",
    "nnsight": "nnsight",
    "accelerate": "accelerate",
    "einops": "einops",
    "numpy": "numpy",
    "scipy": "scipy",
    "pillow": "PIL",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "typer": "typer",
    "rich": "rich",
    "safetensors": "safetensors",
}
"""What attnlens needs: the name of each package for pip, and that of its module."""
EXTRAS = {"matplotlib": "plot", "peft": "peft"}
"""Packages that not every use needs, and the extra of attnlens that installs them."""

Attempts = Mapping[str, Mapping[str, Any]]


def needed(attempts: Attempts) -> Iterator[Finding]:
    """Python and what attnlens needs: installed, of a version that is let in, and importable."""
    tested = {one.name: one for one in _versions.findings()}
    python = tested["Python"]
    yield Finding("versions", "Python", _state(python.state), f"{python.seen} (tested: {python.tested})", python.advice)
    for name, module in MODULES.items():
        error = attempts.get(f"import {module}", {}).get("error")
        if name in tested:
            one = tested[name]
            seen, state, advice = one.seen, _state(one.state), one.advice
            told = "not installed" if seen is None else f"{seen} (tested: {one.tested})"
        else:
            seen, state, advice = _asked_for(name)
            told = seen or "not installed"
        if error is not None and seen is not None:
            state, told = "fails", f"{told}: {error}"
            advice = advice or _again(name, seen, error, "error" in attempts.get("import torch", {}))
        yield Finding("versions", name, state, told, advice)


def _again(name: str, seen: str, error: str, torchless: bool) -> str:
    """What to do about an installed package that cannot be imported; it may be another's fault."""
    if "torchvision" in error:
        return "The reason is torchvision: mend that first."
    again = f"pip install --force-reinstall --no-deps '{name}=={seen.partition('+')[0]}'"
    return f"The reason may be torch: mend that first, then {again}" if torchless and name != "torch" else again


def extras(attempts: Attempts) -> Iterator[Finding]:
    """What not every use needs: absent is fine, installed and broken is not."""
    for name, extra in EXTRAS.items():
        seen, error = _versions.installed(name), attempts.get(f"import {name}", {}).get("error")
        if seen is None and error is None:
            yield Finding("extras", name, "ok", f'not installed; pip install "attnlens[{extra}]" brings it')
        elif error is not None:
            told = f"{seen}: {error}" if seen else error
            yield Finding("extras", name, "fails", told, f"pip install --force-reinstall {name}, or uninstall it.")
        else:
            yield Finding("extras", name, "ok", str(seen))


def torchvision(attempts: Attempts) -> Iterator[Finding]:
    """It need not be there. Where it is and does not fit torch, transformers cannot make its image processors."""
    yield _torchvision(attempts)


def _torchvision(attempts: Attempts) -> Finding:
    seen, found = _versions.installed("torchvision"), importlib.util.find_spec("torchvision")
    if found is None and seen is None:
        return Finding("extras", "torchvision", "ok", "not installed, and not needed")
    if found is None:
        return Finding(
            "extras", "torchvision", "note", f"{seen} is listed, and its files are gone", "pip uninstall torchvision"
        )
    if (error := attempts.get("torch", {}).get("error")) is not None:
        return Finding("extras", "torchvision", "note", f"{seen}: not tried, for torch cannot be imported ({error})")
    result = attempts.get("torchvision", {"error": "not tried"})
    if "error" in result:
        beside = f"the one made for torch {_versions.installed('torch')}"
        return Finding(
            "extras",
            "torchvision",
            "fails",
            f"{seen or 'half installed'}: {result['error']}",
            "attnlens does without it, but transformers uses it where it finds it: pip uninstall torchvision (then "
            f"delete what is left of its folder), or install {beside}.",
        )
    return Finding("extras", "torchvision", "ok", str(seen or result["version"]))


def _state(state: _versions.State) -> State:
    return "ok" if state == "tested" else "note" if state == "newer" else "fails"


def _asked_for(name: str) -> tuple[str | None, State, str]:
    """The version installed, whether attnlens takes it, and what to do."""
    seen, wanted = _versions.installed(name), _requirement(name)
    if seen is None:
        return None, "fails", f"pip install '{wanted or name}'"
    if wanted is not None and not wanted.specifier.contains(seen, prereleases=True):
        return seen, "fails", f"attnlens needs {wanted}: pip install '{wanted}'"
    return seen, "ok", ""


def _requirement(name: str) -> Any:
    """What attnlens' own metadata asks of a package; None where it is run from a folder, or cannot be read."""
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        wanted = (Requirement(line) for line in importlib.metadata.requires("attnlens") or ())
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return None
    return next((one for one in wanted if one.marker is None and canonicalize_name(one.name) == name.lower()), None)
