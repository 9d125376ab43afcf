"""Runs what may crash or hang in a Python of its own, and hears how each attempt ended.

The other Python says which attempt it begins and what came of it, a JSON object a line. Where it ends without a word,
the attempt that it had begun is what ended it; another one goes on behind that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIMEOUT = 300.0
"""Seconds for all attempts of a kind."""
ALL = "all"
"""What is begun when every attempt has been made: what ends a Python after that is no matter."""
_CODE = (
    "import sys; sys.path[:] = {path!r}; from attnlens.doctor._probes import main; main({kind!r}, {known!r}, {out!r})"
)


def attempt(kind: str, timeout: float = TIMEOUT) -> dict[str, dict[str, Any]]:
    """What came of each attempt of that kind in `probes`, by its name: facts, or `error`, a line.

    Under the name of the kind itself stands an error that was none of an attempt's. What there was no time for is
    left out.
    """
    found: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "said")
        while (left := deadline - time.monotonic()) > 0:
            out.write_text("", encoding="utf-8")
            ended = _run(kind, list(found), out, left)
            begun = None
            for line in out.read_text(encoding="utf-8").splitlines():
                said = json.loads(line)
                begun = said.pop("begin", None)
                if "end" in said:
                    found[said.pop("end")] = said
            if ended is None or begun == ALL:
                break
            found[begun or kind] = {"error": ended}
            if begun is None:
                break
    return found


def _run(kind: str, known: list[str], out: Path, timeout: float) -> str | None:
    """How the other Python ended, where it did not end well."""
    code = _CODE.format(path=sys.path, kind=kind, known=known, out=str(out))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **offline},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no answer in time"
    except OSError as error:
        return f"Python could not be started: {error}"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"Python was ended by signal {-done.returncode}"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f"Python ended with code {done.returncode}" + (f": {lines[-1]}" if lines else "")
