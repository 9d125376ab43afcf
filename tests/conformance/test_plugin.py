"""Claims about the pytest plug-in: an adapter is proved by a project's own test run, and costs nothing where it is not.

Every claim is that of a test run of its own, in a folder of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attnlens.conformance import CHECKS

ROOT = Path(__file__).parents[2]
TRUE = "model_types: [llava]\ngrid: {kind: square}\n"
HEAVY = {"torch", "transformers", "nnsight", "numpy", "pydantic"}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pytest_run(tmp_path: Path) -> Run:
    """pytest in a project that has one test of its own, which passes."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")

    def run(*arguments: str, command: str = "sys.exit(pytest.main(sys.argv[1:]))") -> subprocess.CompletedProcess[str]:
        plug_in = ("-p", "attnlens.conformance.plugin", "-p", "no:cacheprovider", "-v")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # an installed attnlens registers the same plug-in
        return subprocess.run(
            [sys.executable, "-c", f"import pytest, sys; {command}", *plug_in, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def test_a_true_adapter_passes_check_by_check_beside_the_project_s_own_tests(pytest_run, tmp_path):
    (tmp_path / "mine.yaml").write_text(TRUE)
    done = pytest_run("--attnlens-adapter", "mine.yaml")
    assert done.returncode == 0, done.stdout
    assert f"{len(CHECKS) + 1} passed" in done.stdout
    for check in CHECKS:
        assert f"mine.yaml::llava[{check}] PASSED" in done.stdout
    assert "test_own.py::test_own PASSED" in done.stdout


def test_every_type_of_every_adapter_fails_passes_or_is_skipped_by_itself_and_says_why(pytest_run, tmp_path):
    (tmp_path / "false.yaml").write_text("model_types: [qwen2_vl]\ngrid: {kind: thw, merge: 1}\n")
    (tmp_path / "several.yaml").write_text("model_types: [llava, lava]\ngrid: {kind: square}\n")
    given = ("false.yaml", "several.yaml", "blip_2")  # the last is a bundled one, by its name
    done = pytest_run(*(part for name in given for part in ("--attnlens-adapter", name)), "-rs", "-k", "rows or places")
    assert done.returncode == 1
    assert "false.yaml::qwen2_vl[rows] FAILED" in done.stdout
    assert "(RuntimeError: shape mismatch" in done.stdout  # the model's own words
    assert "several.yaml::llava[rows] PASSED" in done.stdout
    assert "several.yaml::lava[rows] FAILED" in done.stdout
    assert "transformers knows no model type 'lava'" in done.stdout
    assert "blip_2.yaml::blip-2[rows] PASSED" in done.stdout
    assert "blip_2.yaml::blip-2[places] SKIPPED" in done.stdout
    assert "image tokens are queries" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model_types: [llava]\n", "mine.yaml: grid: missing"),
        ("model_types: [llava]\ngrid: {kind: squre}\n", "expected kind: 'square'"),
        ("model_types: [llava\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_adapter_is_a_usage_error(text, expected, pytest_run, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    done = pytest_run("--attnlens-adapter", "mine.yaml")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert expected in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_file_that_is_not_there_is_a_usage_error(pytest_run):
    done = pytest_run("--attnlens-adapter", "nowhere.yaml")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "nowhere.yaml" in done.stderr


def test_a_checkpoint_is_proved_with_its_own_processor(pytest_run, tmp_path):
    (tmp_path / "mine.yaml").write_text(TRUE)
    done = pytest_run("--attnlens-adapter", "mine.yaml", "--attnlens-model", "pocket/llava")
    assert done.returncode == 0, done.stdout
    assert "mine.yaml::pocket/llava[rows] PASSED" in done.stdout


def test_a_checkpoint_that_is_not_there_fails_with_a_message(pytest_run, tmp_path):
    (tmp_path / "mine.yaml").write_text(TRUE)
    done = pytest_run("--attnlens-adapter", "mine.yaml", "--attnlens-model", "nowhere")
    assert done.returncode == 1
    assert "The model 'nowhere' could not be loaded" in done.stdout
    assert "INTERNALERROR" not in done.stdout


def test_a_model_without_an_adapter_to_prove_is_a_usage_error(pytest_run):
    done = pytest_run("--attnlens-model", "pocket/llava")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--attnlens-adapter" in done.stderr


def test_without_the_option_nothing_heavy_is_imported(pytest_run):
    done = pytest_run(command="pytest.main(sys.argv[1:]); print('LOADED', *sys.modules)")
    assert "1 passed" in done.stdout
    loaded = {name.split(".")[0] for name in done.stdout.split("LOADED", 1)[1].split()}
    assert "attnlens" in loaded
    assert not loaded & HEAVY


def test_pytest_finds_the_plug_in_by_its_entry_point():
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"attnlens": "attnlens.conformance.plugin"}
