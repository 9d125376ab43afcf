"""Claims about `attnlens data`: what it writes, what it says of a file, and that help needs nothing heavy."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from attnlens import evaluate
from attnlens.cli._data import app
from attnlens.errors import AttnLensError
from attnlens.pocket import scenes

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "120"})


def test_make_writes_every_bin_and_task_of_the_test_split(tmp_path):
    done = run("make", tmp_path / "data.json", "--count", 1)
    assert done.exit_code == 0, done.output
    assert evaluate.read(tmp_path / "data.json") == evaluate.pocket_examples("test", scenes.BINS, scenes.TASKS, 1)
    assert done.stdout.strip() == f"24 examples: {tmp_path / 'data.json'}"
    assert done.stderr == ""
    assert not (tmp_path / "images").exists()


def test_make_writes_the_part_that_is_asked_for_each_once(tmp_path):
    chosen = ["--split", "validation", "--bins", "high", "--bins", "small", "--bins", "high", "--tasks", "read"]
    assert run("make", tmp_path / "data.json", *chosen, "--count", 2).exit_code == 0
    wanted = evaluate.pocket_examples("validation", ["high", "small"], ["read"], 2)
    assert evaluate.read(tmp_path / "data.json") == wanted


def test_make_with_images_writes_them_beside_the_file(tmp_path):
    done = run("make", tmp_path / "data.json", "--bins", "medium", "--tasks", "read", "--count", 2, "--images")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "images").glob("*.png"))) == 2
    first = evaluate.read(tmp_path / "data.json")[0]
    assert first.open().tobytes() == scenes.scene_in_bin(0, "medium").image.tobytes()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--split", "exam", "split must"), ("--bins", "tiny", "bin"), ("--tasks", "x", "task")],
)
def test_make_refuses_what_there_is_not(tmp_path, option, value, said):
    done = run("make", tmp_path / "data.json", option, value, "--count", 1)
    assert isinstance(done.exception, AttnLensError)
    assert said in str(done.exception)
    assert not (tmp_path / "data.json").exists()


def test_show_counts_boxes_and_areas_by_group_and_task(tmp_path):
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    entry = {"question": "?", "labels": ["x"], "image_path": "a.png"}
    entries = [
        entry | {"id": 1, "bbox": [0, 0, 10, 5], "group": "small", "task": "read"},
        # Half of this one is outside: only what is inside counts.
        entry | {"id": 2, "bbox": [90, 0, 110, 50], "group": "small", "task": "read"},
        entry | {"id": 3, "group": "small", "task": "read"},
        entry | {"id": 4},
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(entries))
    done = run("show", path, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "file": str(path),
        "count": 4,
        "with_box": 2,
        "groups": [
            {"group": "small", "task": "read", "count": 3, "with_box": 2, "area": [0.01, 0.1]},
            {"group": None, "task": None, "count": 1, "with_box": 0, "area": None},
        ],
    }
    rows = [re.split(r"\s{2,}", line.strip()) for line in run("show", path).stdout.splitlines()]
    assert rows[1:] == [["small", "read", "3", "2", "1 to 10"], ["-", "-", "1", "0"], ["all", "4", "2"]]


def test_the_areas_of_the_benchmark_lie_in_their_bins(tmp_path):
    evaluate.write(tmp_path / "data.json", evaluate.pocket_examples("test", scenes.BINS, ["read"], 5))
    for row in json.loads(run("show", tmp_path / "data.json", "--json").stdout)["groups"]:
        low, high = scenes.BINS[row["group"]].area
        assert low <= row["area"][0] <= row["area"][1] < high


def test_show_tells_of_an_image_that_is_missing(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"id": 1, "question": "?", "labels": ["x"], "image_path": "gone.png"}]))
    done = run("show", path)
    assert isinstance(done.exception, AttnLensError)
    assert "gone.png" in str(done.exception)


@pytest.mark.parametrize("command", ["make", "show"])
def test_help_teaches_with_an_example(command):
    text = re.sub(r"\s+", " ", run(command, "--help").stdout)
    assert f"attnlens data {command} " in text


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom attnlens.cli._data import app\n"
        "try:\n    app(['make', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("count", [10**9, 10**30])
def test_make_refuses_a_number_of_scenes_that_nothing_holds(tmp_path, count):
    done = run("make", tmp_path / "data.json", "--count", count)
    assert done.exit_code != 0
    assert isinstance(done.exception, AttnLensError)
    assert "at most 100000" in str(done.exception)


@pytest.mark.parametrize("name", ["pipe", "zero"])
def test_show_refuses_a_pipe_and_an_endless_device(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    done = run("show", tmp_path / "pipe" if name == "pipe" else "/dev/zero")
    assert isinstance(done.exception, AttnLensError)
    assert "not a regular file" in str(done.exception)


def test_show_prints_names_and_not_what_they_would_do_to_a_terminal(tmp_path):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    entry = {
        "id": 1,
        "question": "?",
        "labels": ["x"],
        "image_path": "a.png",
        "group": "\x1b[2Jred\x9b1m",
        "task": "[bold]",
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps([entry]))
    shown = run("show", path).stdout
    assert r"\x1b[2Jred\x9b1m" in shown
    assert "[bold]" in shown
    assert not set(shown) & set("\x1b\x9b")
