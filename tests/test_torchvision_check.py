"""A torchvision that is installed and does not import is told in one error; one that is not there costs nothing."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnlens import _torchvision_check
from attnlens.errors import AttnLensError

ROOT = Path(__file__).parents[1]
MISFIT = "raise RuntimeError('operator torchvision::nms does not exist')"
LOAD = "import attnlens\nattnlens.load('pocket/llava')"
CHECK = "from attnlens.conformance import check_tiny"
COMMAND = "import sys\nfrom attnlens.cli import app\napp(sys.argv[1:])"
COMMANDS = {
    "ask": ["ask", str(ROOT / "docs" / "images" / "demo.png"), "What does the red sign say?"],
    "demo": ["demo"],
    "check a tiny model": ["adapters", "check", "llava", "--tiny"],
    "check every tiny model": ["adapters", "check", "--tiny", "--all"],
    "draft": ["adapters", "draft", "llava"],
    "recipes": ["recipes", "list"],
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a torchvision 9.8.7 whose import fails as one for another torch does."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(MISFIT)
    information = tmp_path / "torchvision-9.8.7.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 9.8.7\n")
    return tmp_path


def run(code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def names_both_versions_and_the_remedy(text: str) -> bool:
    wanted = (
        "torchvision 9.8.7",
        f"torch {importlib.metadata.version('torch')} ",
        "operator torchvision::nms does not exist",
        "pip uninstall torchvision",
        "pip install -U torch torchvision",
    )
    return all(part in text for part in wanted)


@pytest.mark.parametrize("code", [LOAD, CHECK], ids=["load", "check"])
def test_a_broken_torchvision_is_one_error_in_python(code: str, broken: Path) -> None:
    done = run(code, folder=broken)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("attnlens.errors.AttnLensError: ")
    assert names_both_versions_and_the_remedy(last)


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_broken_torchvision_is_one_message_on_the_command_line(arguments: list[str], broken: Path) -> None:
    done = run(COMMAND, *arguments, folder=broken)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert names_both_versions_and_the_remedy(done.stderr)


def test_without_torchvision_nothing_is_imported_and_nothing_is_wrong() -> None:
    code = (
        "import sys, importlib.util\n"
        "importlib.util.find_spec = lambda name: None\n"
        "from attnlens import _torchvision_check\n"
        "_torchvision_check.require()\n"
        "sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert run(code, folder=ROOT).returncode == 0


def test_the_torchvision_of_this_environment_if_any_imports() -> None:
    _torchvision_check.require()


def test_a_torchvision_without_what_transformers_imports_of_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    _torchvision_check.broken.cache_clear()
    with pytest.raises(AttnLensError, match="No module named 'torchvision.transforms'"):
        _torchvision_check.require()
    sys.modules.pop("torchvision", None)
    _torchvision_check.broken.cache_clear()
