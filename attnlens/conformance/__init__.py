"""Is an adapter true of a model? Checks on a checkpoint, or on a tiny random model of its type.

Names are imported when they are first used: every pytest run of a project imports this for the plug-in, and most of
them prove no adapter.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attnlens import _torchvision_check

if TYPE_CHECKING:
    from attnlens.conformance._checks import CHECKS, Finding
    from attnlens.conformance._drafting.draft import Draft, draft
    from attnlens.conformance._report import Report, check_all, check_model, check_tiny

__all__ = ["CHECKS", "Draft", "Finding", "Report", "check_all", "check_model", "check_tiny", "draft"]

_HOMES = {"CHECKS": "_checks", "Finding": "_checks", "Draft": "_drafting.draft", "draft": "_drafting.draft"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'attnlens.conformance' has no attribute {name!r}")
    _torchvision_check.require()
    return getattr(importlib.import_module(f"attnlens.conformance.{_HOMES.get(name, '_report')}"), name)
