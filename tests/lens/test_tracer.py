"""The tracer brings back what modules put out, and leaves the user's Python as it was."""

from __future__ import annotations

import subprocess
import sys


def test_loading_attnlens_puts_no_attribute_on_every_python_object() -> None:
    program = "import attnlens.lens._capture.tracer, sys; sys.exit(hasattr(object, 'save') or hasattr(1, 'save'))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
