"""Claims about `attnlens doctor`: what it prints, at which width, and what its exit code says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import attnlens
from attnlens import doctor
from attnlens.cli import app
from attnlens.doctor import Finding

ROOT = Path(__file__).parents[2]
OK = Finding("versions", "torch", "ok", "2.13.0 (tested: 2.13 to 2.14)")
NOTE = Finding("devices", "cpu float16", "note", "eager; sdpa: [no] kernel", "Use --dtype float32. " * 6)
FAILS = Finding("folders", "hub cache", "fails", "/a/very/long/path" * 8, "Give HF_HOME another folder.")


def run(monkeypatch, *findings, options=()):
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    return CliRunner().invoke(app, ["doctor", *options], env={"COLUMNS": "80"})


@pytest.mark.parametrize(("findings", "code"), [([OK], 0), ([OK, NOTE], 0), ([OK, NOTE, FAILS], 1)])
def test_the_exit_code_is_1_where_something_fails(monkeypatch, findings, code):
    assert run(monkeypatch, *findings).exit_code == code
    assert run(monkeypatch, *findings, options=["--json"]).exit_code == code


def test_it_is_read_at_80_columns_with_what_to_do_below_each_finding(monkeypatch):
    shown = run(monkeypatch, OK, NOTE, FAILS).stdout
    assert max(map(len, shown.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == f"attnlens {attnlens.__version__}"
    assert [area for area in lines if area in ("versions", "devices", "folders")] == ["versions", "devices", "folders"]
    assert "ok torch 2.13.0 (tested: 2.13 to 2.14)" in lines
    assert "note cpu float16 eager; sdpa: [no] kernel" in lines
    assert "-> Give HF_HOME another folder." in lines
    assert lines[-1] == "1 finding to mend, 1 to note"
    assert "\x1b" not in shown


def test_with_json_it_is_one_object(monkeypatch):
    told = json.loads(run(monkeypatch, OK, FAILS, options=["--json"]).stdout)
    assert (told["attnlens"], told["works"]) == (attnlens.__version__, False)
    assert told["findings"][0] == {
        "area": "versions",
        "name": "torch",
        "state": "ok",
        "seen": "2.13.0 (tested: 2.13 to 2.14)",
        "advice": "",
    }


def test_help_says_what_the_words_and_the_exit_code_mean():
    shown = " ".join(CliRunner().invoke(app, ["doctor", "--help"]).stdout.split())
    for said in ("torchvision", "ok", "note", "fails", "exit code is 1", "--json", "Nothing is downloaded"):
        assert said in shown


@pytest.mark.slow
def test_here_nothing_fails():
    command = [sys.executable, "-m", "attnlens.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    told = json.loads(done.stdout)
    assert [one for one in told["findings"] if one["state"] == "fails"] == []
    assert done.returncode == 0
    names = {one["name"] for one in told["findings"]}
    assert {"Python", "torch", "torchvision", "cpu float32", "pocket/llava, cpu", "hub cache"} <= names
