"""Claims about the terminal: nothing breaks in a narrow one, --quiet leaves results, exit codes are documented."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attnlens import adapters, recipes
from attnlens.cli import app


def in_terminal(*arguments: str, columns: int) -> str:
    """What a command prints on a terminal of that width."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "attnlens.cli", *arguments]
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(command, stdout=follower, stderr=subprocess.DEVNULL, env=environment)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says so where the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_a_table_breaks_no_word_and_no_path_in_a_terminal_of(columns):
    words = {word for name in recipes.names() for word in f"{name} {recipes.card(name).signal}".split()}
    assert words <= set(in_terminal("recipes", "list", columns=columns).split())
    listed = in_terminal("adapters", "list", columns=columns)
    assert {path.name for path in adapters.available().values()} <= {os.path.basename(one) for one in listed.split()}


def test_in_a_wide_terminal_a_row_is_a_line():
    lines = in_terminal("recipes", "list", columns=300).splitlines()
    assert len([line for line in lines if line.strip()]) == 1 + len(recipes.names())


def test_an_answer_is_told_without_breaking_its_picture_s_path(tmp_path):
    picture = tmp_path / "a-rather-long-folder-name-for-a-picture" / "out.png"
    assert str(picture) in in_terminal("demo", "--save", str(picture), columns=50)


@pytest.mark.parametrize(
    "arguments", [("--quiet", "data", "show"), ("data", "--quiet", "show"), ("data", "show", "--quiet")]
)
def test_quiet_may_stand_anywhere(arguments, tmp_path):
    file = tmp_path / "data.json"
    assert CliRunner().invoke(app, ["data", "make", str(file), "--count", "1", "--bins", "small"]).exit_code == 0
    done = CliRunner().invoke(app, [*arguments, str(file)])
    assert done.exit_code == 0, done.output
    assert "examples" in done.stdout


def test_quiet_leaves_results_and_errors_and_takes_hints(tmp_path):
    missing = ["ask", str(tmp_path / "none.png"), "what is it?"]
    loud, quiet = (CliRunner().invoke(app, [*more, *missing]) for more in ((), ("--quiet",)))
    assert (loud.exit_code, quiet.exit_code) == (2, 2)
    assert "There is no file" in quiet.stderr
    shown = [CliRunner().invoke(app, [*more, "adapters", "show", "llava"]) for more in ((), ("--quiet",))]
    assert [bool(one.stderr) for one in shown] == [True, False]
    assert shown[0].stdout == shown[1].stdout


def test_a_question_may_be_the_word_quiet(tmp_path):
    done = CliRunner().invoke(app, ["ask", "--", str(tmp_path / "none.png"), "--quiet"])
    assert (done.exit_code, "There is no file" in done.stderr) == (2, True)


def test_help_tells_of_completion_and_exit_codes():
    shown = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "--install-completion" in shown
    assert all(f"{code} " in shown.partition("Exit codes:")[2] for code in (0, 1, 2, 130))
