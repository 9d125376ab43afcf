"""Claims about what doctor finds: broken packages are findings, whatever they do; folders are told as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from attnlens import _versions, doctor, pocket
from attnlens.doctor import _attempts, _devices, _examination, _folders, _packages, _probes

ROOT = Path(__file__).parents[2]
WELL = {f"import {name}": {} for name in _packages.MODULES.values()}
CPU = {"cpu": {"what": "2 threads", "memory": 8 * 2**30, "free": None}}


def by_name(findings):
    found = {}
    for one in findings:
        found.setdefault(one.name, one)
    return found


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a package into the way of the real one, here and in the Pythons that are started."""

    def put(name, code, version=None):
        (tmp_path / f"{name}.py").write_text(code)
        if version is not None:
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    monkeypatch.syspath_prepend(tmp_path)
    return put


# What is tried in a Python of its own.


TORCH = "nn = autograd = None"  # enough of it, and quick
BROKEN = {
    "an error": ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchv"),
    "a crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal 11"),
    "an exit": ("import os; os._exit(3)", "ended with code 3"),
    "SystemExit": ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    "half of it": ("__version__ = '0.29.1'", "torchvision.ops"),
    "output": ("print('{}'); import sys; print('{}', file=sys.stderr); raise ImportError('no')", "ImportError: no"),
}


@pytest.mark.parametrize(("code", "told"), BROKEN.values(), ids=list(BROKEN))
def test_a_torchvision_that_does_not_work_is_a_finding_with_what_to_do(fake, code, told):
    fake("torch", TORCH)
    fake("torchvision", code, "0.29.1")
    tried = _attempts.attempt("torchvision")
    assert "error" not in tried["torch"]
    (found,) = _packages.torchvision(tried)
    assert (found.state, found.seen[:7]) == ("fails", "0.29.1:")
    assert told in found.seen
    assert "pip uninstall torchvision" in found.advice


def test_what_hangs_is_left_in_time(fake):
    fake("torch", TORCH)
    fake("torchvision", "import time; time.sleep(600)")
    assert _attempts.attempt("torchvision", timeout=3)["torchvision"] == {"error": "no answer in time"}


def test_a_crash_hides_nothing_that_comes_behind_it(fake):
    fake("torch", "import os; os._exit(1)")
    fake("torchvision", "")
    tried = _attempts.attempt("torchvision")
    assert "code 1" in tried["torch"]["error"]
    assert "code 1" in tried["torchvision"]["error"]  # which begins with torch, too


def test_a_torchvision_beside_a_torch_that_fails_is_not_to_blame(fake):
    fake("torch", "raise OSError('libcudart.so.13: cannot open shared object file')")
    fake("torchvision", "import torch", "0.29.1")
    (found,) = _packages.torchvision(_attempts.attempt("torchvision"))
    assert found.state == "note"
    assert "libcudart" in found.seen


def test_torchvision_that_is_absent_is_fine_and_one_without_files_is_said(monkeypatch):
    monkeypatch.setattr(_packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_versions, "installed", lambda name: None)
    (absent,) = _packages.torchvision({})
    assert (absent.state, absent.advice) == ("ok", "")
    monkeypatch.setattr(_versions, "installed", lambda name: "0.29.1")
    (gone,) = _packages.torchvision({})
    assert (gone.state, gone.advice) == ("note", "pip uninstall torchvision")


def test_a_torch_that_cannot_be_imported_is_told_of_and_everything_else_is_still_looked_at(fake):
    fake("torch", "raise OSError('libtorch.so: cannot open shared object file')")
    findings = list(doctor.examine())
    assert {one.area for one in findings} == {"versions", "extras", "devices", "folders"}
    assert by_name(findings)["torch"].state == "fails"
    assert "libtorch.so" in by_name(findings)["torch"].seen
    assert by_name(findings)["numpy"].state == "ok"
    assert "torch" in by_name(findings)["devices"].seen
    assert by_name(findings)["bundled models"].state == "ok"


def test_a_python_that_cannot_be_started_is_a_finding(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    (found,) = [one for one in doctor.examine() if one.area == "devices" and one.name == "Python"]
    assert (found.state, "could not be started" in found.seen) == ("fails", True)


def test_an_error_while_looking_is_a_finding(monkeypatch):
    monkeypatch.setattr(_examination._attempts, "attempt", lambda kind, timeout: WELL)
    monkeypatch.setattr(_examination._packages, "needed", lambda tried: 1 / 0)
    (found,) = [one for one in doctor.examine() if "ZeroDivisionError" in one.seen]
    assert (found.area, found.state) == ("versions", "fails")


HEAVY = ["torch", "transformers", "nnsight", "numpy", "PIL", "yaml", "scipy", "packaging"]


@pytest.mark.parametrize(
    ("blocked", "begin"),
    [
        (HEAVY, "from attnlens.cli import app; sys.argv = ['attnlens', 'doctor']; app()"),
        ([*HEAVY, "typer", "rich", "pydantic"], "from attnlens.doctor.__main__ import main; sys.exit(main())"),
    ],
    ids=["the command", "python -m attnlens.doctor"],
)
def test_it_begins_without_what_it_looks_at(blocked, begin):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked})); "
        "from attnlens.doctor import _attempts; _attempts.attempt = lambda kind, timeout: {}; "
    )
    done = subprocess.run([sys.executable, "-c", code + begin], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"fails +(folders: )?adapters", done.stdout)
    assert re.search(r"ok +(versions: )?torch", done.stdout)


# Versions.


def test_every_package_that_attnlens_asks_for_is_looked_at():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.match(r"[\w-]+", line).group() for line in project["dependencies"]}
    assert set(_packages.MODULES) == named
    wanted = {kind: lines for kind, lines in project["optional-dependencies"].items() if kind not in ("docs", "dev")}
    assert {
        re.match(r"[\w-]+", line).group(): kind for kind, lines in wanted.items() for line in lines
    } == _packages.EXTRAS


def test_versions_are_told_against_the_tested_range(monkeypatch):
    here = dict.fromkeys(_packages.MODULES, "99.1") | {"transformers": "5.22.0", "nnsight": None}
    monkeypatch.setattr(_versions, "installed", lambda name: here.get(name, "3.12.1"))
    found = by_name(_packages.needed(WELL))
    assert (found["torch"].state, found["transformers"].state, found["nnsight"].state) == ("note", "fails", "fails")
    assert found["Python"].state == "ok"
    assert "pip install 'transformers>=5.23" in found["transformers"].advice
    assert str(_versions.TESTED["transformers"]) in found["transformers"].seen
    assert found["nnsight"].seen == "not installed"


def test_what_is_older_than_asked_for_missing_or_broken_says_the_command_that_mends_it(monkeypatch):
    packaging = pytest.importorskip("packaging.requirements")
    here = {"pillow": "9.0", "pydantic": None}
    monkeypatch.setattr(_versions, "installed", lambda name: here.get(name, "99.1"))
    asked = {"pillow": packaging.Requirement("pillow>=10.1"), "pydantic": packaging.Requirement("pydantic>=2")}
    monkeypatch.setattr(_packages, "_requirement", asked.get)
    found = by_name(_packages.needed(WELL | {"import scipy": {"error": "ImportError: DLL load failed"}}))
    assert (found["pillow"].state, found["pydantic"].state, found["scipy"].state) == ("fails",) * 3
    assert "pip install 'pillow>=10.1'" in found["pillow"].advice
    assert found["pydantic"].advice == "pip install 'pydantic>=2'"
    assert "DLL load failed" in found["scipy"].seen
    assert "pip install --force-reinstall --no-deps 'scipy==99.1'" in found["scipy"].advice


def test_what_another_package_broke_is_not_reinstalled(monkeypatch):
    monkeypatch.setattr(_versions, "installed", lambda name: "3.12.1" if name == "Python" else "5.24.0")
    torchvision = "RuntimeError: operator torchvision::nms does not exist"
    found = by_name(_packages.needed(WELL | {"import transformers": {"error": torchvision}}))
    assert found["transformers"].advice == "The reason is torchvision: mend that first."
    no_torch = {
        "import torch": {"error": "OSError: libtorch.so"},
        "import accelerate": {"error": "OSError: libtorch.so"},
    }
    found = by_name(_packages.needed(WELL | no_torch))
    assert found["accelerate"].advice.startswith("The reason may be torch")
    assert "mend that first" not in found["torch"].advice


def test_a_package_run_from_a_folder_asks_for_nothing(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_packages.importlib.metadata, "requires", nothing)
    assert _packages._requirement("pillow") is None


def test_an_extra_is_fine_where_it_is_absent_and_a_finding_where_it_is_broken(monkeypatch):
    monkeypatch.setattr(_versions, "installed", lambda name: "3.1" if name == "matplotlib" else None)
    found = by_name(_packages.extras({"import matplotlib": {"error": "ImportError: numpy 1"}}))
    assert (found["matplotlib"].state, found["peft"].state) == ("fails", "ok")
    assert 'pip install "attnlens[peft]"' in found["peft"].seen


# Devices.


def test_a_dtype_and_an_implementation_are_compared_with_eager_float32(monkeypatch):
    for dtype in _probes.DTYPES:
        for how in ("eager", "sdpa"):
            assert _probes._forward("cpu", dtype, how) == {}
    monkeypatch.setitem(_probes.TOLERANCE, "bfloat16", 1e-6)
    with pytest.raises(ArithmeticError, match="off by"):
        _probes._forward("cpu", "bfloat16", "sdpa")


def test_a_bundled_model_loads_looks_and_answers():
    assert _probes._model("cpu", "llava")["seconds"] > 0


def test_what_does_not_work_on_a_device_is_told_with_what_does():
    tried = {
        "devices": CPU,
        "forward cpu float32 eager": {},
        "forward cpu float32 sdpa": {},
        "forward cpu float16 eager": {},
        "forward cpu float16 sdpa": {"error": "RuntimeError: not implemented for 'Half'"},
        "model cpu llava": {"seconds": 1.25},
        "model cpu qwen2_5_vl": {"error": "AttnLensError: Can't load video processor"},
    }
    found = by_name(_devices.devices(tried))
    assert found["cpu"].seen == "2 threads, 8.0 GiB of memory"
    assert (found["cpu float32"].state, found["cpu float32"].seen) == ("ok", "eager, sdpa")
    assert (found["cpu float16"].state, found["cpu float16"].seen[:12]) == ("note", "eager; sdpa:")
    assert "--dtype float32" in found["cpu float16"].advice
    assert found["pocket/llava, cpu"].state == "ok"
    assert found["pocket/qwen2_5_vl, cpu"].state == "fails"


def test_without_float32_a_device_fails():
    tried = {"devices": CPU, "forward cpu float32 eager": {}, "forward cpu float32 sdpa": {"error": "x"}}
    assert by_name(_devices.devices(tried))["cpu float32"].state == "fails"


def test_a_torch_made_for_gpus_that_finds_none_is_a_note():
    found = by_name(_devices.devices({"devices": CPU, "gpu": {"built": "CUDA 13.0"}}))
    assert (found["gpu"].state, "CUDA 13.0" in found["gpu"].seen) == ("note", True)
    assert "gpu" not in by_name(_devices.devices({"devices": CPU, "gpu": {"built": None}}))
    two = CPU | {"cuda:0": {"what": "H100", "memory": 80 * 2**30, "free": 70 * 2**30}}
    found = by_name(_devices.devices({"devices": two, "gpu": {"built": "CUDA 13.0"}}))
    assert "gpu" not in found
    assert found["cuda:0"].seen == "H100, 80.0 GiB of memory, 70.0 GiB free"


# Folders.

FLAGS = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@pytest.fixture
def plain(monkeypatch, tmp_path):
    """No flag is set, and the home is an empty folder."""
    for flag in (*FLAGS, "XDG_CONFIG_HOME", "ATTNLENS_ADAPTERS"):
        monkeypatch.delenv(flag, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"HF_HOME": "~/hf"},
        {"HF_HUB_CACHE": "$HOME/cache"},
        {"XDG_CACHE_HOME": "~/xdg"},
        {"HF_HOME": "a", "HF_HUB_CACHE": "b"},
    ],
    ids=str,
)
def test_the_cache_is_where_huggingface_hub_has_it(plain, monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert _folders.hub_cache() == Path(done.stdout.strip())


def test_a_cache_that_cannot_be_written_fails_and_offline_it_is_a_note(plain, monkeypatch):
    (plain / "hub" / "models--some--model").mkdir(parents=True)
    monkeypatch.setenv("HF_HOME", str(plain))
    (found,) = _folders.downloads()
    assert (found.state, "1 models" in found.seen) == ("ok", True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (found,) = _folders.downloads()
    assert found.state == "fails"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, network = _folders.downloads()
    assert (found.state, network.state, network.name) == ("note", "note", "network")
    assert "unset HF_HUB_OFFLINE" in network.advice


def test_a_cache_that_is_a_file_fails(plain, monkeypatch):
    (plain / "hub").write_text("")
    monkeypatch.setenv("HF_HOME", str(plain))
    (found,) = _folders.downloads()
    assert (found.state, "is no folder" in found.seen) == ("fails", True)


def test_folders_of_adapters_are_read_file_by_file(plain, monkeypatch):
    good, bad = plain / "good", plain / "bad"
    good.mkdir()
    bad.mkdir()
    (good / "mine.yaml").write_text((ROOT / "adapters" / "llava.yaml").read_text())
    monkeypatch.setenv("ATTNLENS_ADAPTERS", str(good))
    own, first, last = _folders.adapters()
    assert {own.state, first.state, last.state} == {"ok"}
    assert ("not needed" in own.seen, "1 of 1 are valid" in first.seen) == (True, True)
    assert "can be used by name" in last.seen
    (bad / "wrong.yaml").write_text("model_types: [x]\ngrid: {kind: cube}\n")
    (bad / "torn.yaml").write_text("a: [")
    monkeypatch.setenv("ATTNLENS_ADAPTERS", os.pathsep.join(map(str, (good, bad, plain / "nowhere"))))
    failed = [one for one in _folders.adapters() if one.state == "fails"]
    assert [name for one in failed for name in ("torn.yaml", "wrong.yaml", "nowhere") if name in one.seen] == [
        *("torn.yaml", "wrong.yaml", "nowhere")
    ]
    assert all(one.advice for one in failed)


def test_bundled_weights_that_are_damaged_are_named(monkeypatch):
    (found,) = _folders.bundled()
    assert (found.state, found.seen[:14]) == ("ok", "instructblip, ")

    def damaged(name):
        raise pocket._library.AttnLensError(f"The weights of the pocket model {name!r} are damaged")

    monkeypatch.setattr(pocket, "path", damaged)
    *failed, _ = _folders.bundled()
    assert len(failed) == len(pocket.names())
    assert {one.state for one in failed} == {"fails"}
