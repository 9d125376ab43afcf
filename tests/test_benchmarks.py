"""Claims about benchmarks/: each script runs, and what it counts (not what it times) is what the docs say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_answer_takes_the_flops_that_the_docs_say() -> None:
    found = json.loads(run("benchmarks/cost.py", "--json", "--repeats", "1"))
    stated = re.search(r"attnlens takes ([\d.]+) times the FLOPs", (ROOT / "docs" / "results.md").read_text("utf-8"))
    assert stated is not None
    ways = found["ways"]
    assert ways["attnlens"]["gflop"] / ways["two-image answer"]["gflop"] == pytest.approx(float(stated[1]), abs=0.006)
    assert found["map_difference"] < 1e-4


@pytest.mark.slow
def test_the_box_search_benchmark_finds_the_double_loop_s_boxes() -> None:
    assert "density" in run("benchmarks/box_search.py")
