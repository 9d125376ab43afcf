"""The locks hold what pyproject.toml asks for: newest versions of one day, and exactly its lower bounds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEWEST, OLDEST = "constraints.txt", "constraints-oldest.txt"


def requirements(*extras: str) -> list[Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [Requirement(line) for line in lines if not line.startswith("attnlens[")]


def floor(requirement: Requirement) -> Version:
    (bound,) = [one.version for one in requirement.specifier if one.operator == ">="]
    return Version(bound)


def pinned(lock: str) -> dict[str, Version]:
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    return {line.split("==")[0]: Version(line.split("==")[1]) for line in lines if not line.startswith("#")}


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=str)
def test_every_dependency_has_a_lower_bound(requirement):
    assert [one.operator for one in requirement.specifier].count(">=") == 1


@pytest.mark.parametrize("requirement", requirements("plot", "peft", "dev", "docs"), ids=str)
def test_the_oldest_lock_pins_exactly_the_lower_bound(requirement):
    assert pinned(OLDEST)[canonicalize_name(requirement.name)] == floor(requirement)


@pytest.mark.parametrize("requirement", requirements("plot", "peft", "dev", "docs"), ids=str)
def test_the_lock_pins_a_version_that_is_allowed(requirement):
    assert requirement.specifier.contains(pinned(NEWEST)[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("lock", [NEWEST, OLDEST])
def test_a_lock_has_exact_versions_and_neither_addresses_nor_local_builds(lock):
    header, *lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    assert header.startswith("# Made by `make lock`")
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert not [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert not {"attnlens", "pip"} & set(pinned(lock))


@pytest.mark.parametrize("lock", [NEWEST, OLDEST])
def test_a_lock_leaves_gpu_libraries_to_the_torch_of_each_platform(lock):
    assert not [name for name in pinned(lock) if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_the_lock_has_the_torch_that_the_makefile_states():
    (stated,) = re.findall(r"^TORCH\s*\?=\s*(\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned(NEWEST)["torch"] == Version(stated)


def environment(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run what makes the Makefile's environments."""
    return subprocess.run(
        [str(ROOT / ".ci" / "environment"), *([str(folder), *arguments] if arguments else [])],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def fake_python(folder: Path, version: str) -> Path:
    """A program that says it is that Python, and is a shell script."""
    minor = int(version.split(".")[1])
    path = folder / f"python{version}"
    path.write_text(f'#!/bin/sh\ncase "$2" in *print*) echo {version} ;; *) exit {int(minor < 11)} ;; esac\n')
    path.chmod(0o755)
    return path


def test_an_older_python_is_refused_with_the_version_seen_and_the_command_to_use(tmp_path):
    done = environment(tmp_path, PYTHON=str(fake_python(tmp_path, "3.10")))
    assert done.returncode == 1
    assert "3.11 or newer is needed, seen 3.10" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert environment(tmp_path, PYTHON=str(fake_python(tmp_path, "3.14"))).returncode == 0


def test_a_python_that_is_not_there_is_told(tmp_path):
    done = environment(tmp_path, PYTHON=str(tmp_path / "python"))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "does not run" in done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment that is made already: its Python and pip are those that run the tests, and it takes no time."""
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path / "environment"


OFFLINE = {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}


@pytest.mark.parametrize(
    "nowhere",
    [{"PIP_NO_INDEX": "1"}, {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}],
    ids=["no index", "no answer"],
)
def test_without_an_index_the_environment_ends_in_one_line_that_says_what_is_missing(folder, nowhere):
    done = environment(folder, NEWEST, "attnlens-has-no-such-package", **OFFLINE | nowhere)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "could not be fetched" in done.stderr
    assert "A network or a package index is needed once" in done.stderr
    assert str(folder / "pip.log") in done.stderr
    assert "ERROR: " in (folder / "pip.log").read_text()


def test_a_lock_that_does_not_fit_is_told_with_the_way_to_do_without(folder, tmp_path):
    index = tmp_path / "simple" / "hatchling"
    index.mkdir(parents=True)
    (index / "index.html").write_text('<a href="hatchling-1.0-py3-none-any.whl">hatchling</a>')
    with zipfile.ZipFile(index / "hatchling-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("hatchling-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hatchling\nVersion: 1.0\n")
        wheel.writestr(
            "hatchling-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("hatchling-1.0.dist-info/RECORD", "")
    lock = tmp_path / "lock.txt"
    lock.write_text("hatchling==1.1\n")
    done = environment(folder, str(lock), "einops", **OFFLINE, PIP_INDEX_URL=index.parent.as_uri())
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "Cannot install hatchling" in done.stderr
    assert "make LOCK=/dev/null" in done.stderr
