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
FALSE = "model_types: [qwen2_vl]\ngrid: {kind: thw, merge: 1}\n"
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


def test_a_false_adapter_fails_with_what_was_found(pytest_run, tmp_path):
    (tmp_path / "mine.yaml").write_text(FALSE)
    done = pytest_run("--attnlens-adapter", "mine.yaml")
    assert done.returncode == 1
    assert "mine.yaml::qwen2_vl[tokens] FAILED" in done.stdout
    assert "Image features and image tokens do not match" in done.stdout
    assert "Traceback" not in done.stdout
    assert "test_own.py::test_own PASSED" in done.stdout


def test_a_check_that_does_not_apply_is_skipped_with_the_reason(pytest_run):
    done = pytest_run("--attnlens-adapter", str(ROOT / "adapters" / "blip_2.yaml"), "-rs")
    assert done.returncode == 0, done.stdout
    assert "blip_2.yaml::blip-2[places] SKIPPED" in done.stdout
    assert "queries" in done.stdout


def test_several_adapters_are_proved_in_one_run(pytest_run, tmp_path):
    (tmp_path / "first.yaml").write_text(TRUE)
    (tmp_path / "second.yaml").write_text(FALSE)
    done = pytest_run("--attnlens-adapter", "first.yaml", "--attnlens-adapter", "second.yaml")
    assert done.returncode == 1
    assert "first.yaml::llava[rows] PASSED" in done.stdout
    assert "second.yaml::qwen2_vl[rows] FAILED" in done.stdout


def test_an_adapter_of_several_types_is_proved_on_each(pytest_run, tmp_path):
    (tmp_path / "mine.yaml").write_text("model_types: [llava, fast_vlm_]\ngrid: {kind: square}\n")
    done = pytest_run("--attnlens-adapter", "mine.yaml")
    assert done.returncode == 1
    assert "mine.yaml::llava[rows] PASSED" in done.stdout
    assert "mine.yaml::fast_vlm_[rows] FAILED" in done.stdout
    assert "transformers knows no model type 'fast_vlm_'" in done.stdout


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


def test_a_bundled_adapter_is_proved_by_its_name(pytest_run):
    done = pytest_run("--attnlens-adapter", "vipllava", "-k", "rows")
    assert done.returncode == 0, done.stdout
    assert "vipllava.yaml::vipllava[rows] PASSED" in done.stdout


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


def test_one_check_can_be_chosen_by_name(pytest_run, tmp_path):
    (tmp_path / "mine.yaml").write_text(TRUE)
    done = pytest_run("--attnlens-adapter", "mine.yaml", "-k", "places")
    assert done.returncode == 0, done.stdout
    assert f"1 passed, {len(CHECKS)} deselected" in done.stdout


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
