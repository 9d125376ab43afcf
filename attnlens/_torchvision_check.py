"""Whether the torchvision that is installed can be imported: transformers takes its presence for that.

torchvision is not needed. Where it is there and does not fit its torch, transformers' own imports fail, each in another
way and none by naming it. `require` says so in one error; where there is none, nothing is imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util

from attnlens import _versions
from attnlens.errors import AttnLensError, first_line


def require() -> None:
    """Raises AttnLensError where torchvision is installed and cannot be imported."""
    problem = broken()
    if problem is not None:
        raise AttnLensError(problem)


@functools.cache
def broken() -> str | None:
    """What is wrong with the installed torchvision, and what to do; None where it works or is not there."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision.transforms.v2")  # what transformers imports of it
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        return (
            f"torchvision {_version('torchvision')} is installed and cannot be imported beside torch "
            f"{_version('torch')} ({type(error).__name__}: {first_line(error)}), and transformers imports it where it "
            "is installed. attnlens does not need it: pip uninstall torchvision. Or install the torchvision that was "
            "built for your torch: both in one pip install, from one index, such as pip install -U torch torchvision."
        )
    return None


def _version(name: str) -> str:
    return _versions.installed(name) or "of an unknown version"
