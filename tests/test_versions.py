"""Versions that give wrong maps are refused, newer ones are told once in one line, and nothing heavy is loaded."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import attnlens
from attnlens import _versions
from attnlens.errors import AttnLensError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SUITABLE = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "nnsight": "0.8.1"}


@pytest.fixture
def here(monkeypatch):
    """Call it with versions by package name, None for what is not installed: as if they were installed here."""
    _versions._announce_newer.cache_clear()

    def pretend(python: str = "3.11.7", **installed: str | None) -> None:
        found = SUITABLE | installed

        def version(name: str) -> str:
            if found[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(platform, "python_version", lambda: python)

    yield pretend
    _versions._announce_newer.cache_clear()


def states() -> dict[str, str]:
    return {finding.name: finding.state for finding in _versions.findings()}


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        ("5.21.0", "refused"),
        ("5.22.9", "refused"),
        ("5.23.0", "tested"),
        ("5.24.0.dev0", "tested"),
        ("5.24.7", "tested"),
        ("5.25.0.dev0", "newer"),
        ("5.25", "newer"),
        ("5.100.1", "newer"),
        ("6.0.0rc1", "refused"),
        ("6", "refused"),
        (None, "missing"),
        ("unknown", "refused"),
    ],
)
def test_the_state_of_transformers_follows_from_its_version(here, seen, state):
    here(transformers=seen)
    assert states()["transformers"] == state


@pytest.mark.parametrize(
    ("name", "seen", "state"),
    [
        ("torch", "2.12.1", "refused"),
        ("torch", "2.14.1+cu130", "tested"),
        ("torch", "2.15.0", "newer"),
        ("torch", "3.0.0", "newer"),
        ("nnsight", "0.8.0", "refused"),
        ("nnsight", "0.8.2", "tested"),
        ("nnsight", "0.9.0", "refused"),
    ],
)
def test_torch_and_nnsight_have_ranges_of_their_own(here, name, seen, state):
    here(**{name: seen})
    assert states() == {"Python": "tested", "torch": "tested", "transformers": "tested", "nnsight": "tested"} | {
        name: state
    }


@pytest.mark.parametrize(
    ("python", "state"), [("3.10.13", "refused"), ("3.11.0", "tested"), ("3.13.9", "tested"), ("3.14.0rc2", "newer")]
)
def test_an_older_python_is_refused_and_a_newer_one_is_only_told(here, python, state):
    here(python=python)
    assert states()["Python"] == state


@pytest.mark.parametrize("seen", ["5.22.0", "6.0.0", None])
def test_load_refuses_such_a_version_and_says_what_to_install(here, seen):
    here(transformers=seen)
    with pytest.raises(AttnLensError, match="transformers") as raised:
        attnlens.load("pocket/llava")
    assert (seen or "not installed") in str(raised.value)
    assert "pip install 'transformers>=5.23,<6'" in str(raised.value)
    assert ("wrong crops" in str(raised.value)) == (seen == "5.22.0")


def test_newer_versions_are_told_in_one_line_once(here, caplog):
    here(python="3.14.1", transformers="5.25.0", torch="2.16.0")
    with caplog.at_level(logging.INFO, "attnlens"):
        for _ in range(3):
            _versions.announce()
    (record,) = caplog.records
    line = record.getMessage()
    assert (record.levelno, record.name, "\n" in line) == (logging.WARNING, "attnlens", False)
    assert all(seen in line for seen in ("Python 3.14.1", "transformers 5.25.0", "torch 2.16.0", "5.23 to 5.24"))
    assert "nnsight" not in line


def test_tested_versions_are_not_worth_a_word(here, caplog):
    here()
    with caplog.at_level(logging.DEBUG, "attnlens"):
        _versions.announce()
    assert not caplog.records
    assert not [finding.advice for finding in _versions.findings() if finding.advice]


def run_pretending(transformers: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh Python in which that version of transformers seems to be installed."""
    pretend = (
        "import importlib.metadata as metadata; real = metadata.version; metadata.version = "
        f"lambda name: {transformers!r} if name == 'transformers' else real(name); "
    )
    return subprocess.run(
        [sys.executable, "-c", pretend + code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_command_line_says_it_once_on_standard_error_and_goes_on():
    code = (
        "import sys, tempfile; from attnlens.cli import app; "
        "sys.argv = ['attnlens', 'demo', '--json', '--save', tempfile.mkdtemp() + '/demo.png']; app()"
    )
    done = run_pretending("5.99.0", code)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "5.99.0" in line]
    assert len(lines) == 1, done.stderr
    assert "5.99.0" not in done.stdout


def test_a_refused_version_is_told_before_anything_heavy_is_imported():
    code = (
        "import sys, attnlens\n"
        "try:\n    attnlens.load\nexcept attnlens.AttnLensError as error:\n    print(error)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = run_pretending("5.22.0", f"exec({code!r})")
    assert done.returncode == 0, done.stderr or "torch was loaded"
    assert "transformers 5.22.0" in done.stdout


def test_what_is_refused_is_what_pyproject_does_not_allow():
    allowed = {line.split(">=")[0]: line for line in PROJECT["dependencies"]}
    for name, tested in _versions.TESTED.items():
        if name == "Python":
            assert PROJECT["requires-python"] == tested.requirement
        else:
            assert allowed[name] == name + tested.requirement


def test_the_classifiers_name_the_pythons_that_were_tested():
    named = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if ":: Python :: 3." in line]
    tested = _versions.TESTED["Python"]
    first, last = (int(version.split(".")[1]) for version in (tested.oldest, tested.newest))
    assert named == [f"3.{minor}" for minor in range(first, last + 1)]
