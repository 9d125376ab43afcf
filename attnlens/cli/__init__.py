"""The command line: `attnlens --help`, or `python -m attnlens.cli` from a checkout."""

from attnlens.cli._main import app

__all__ = ["app"]
