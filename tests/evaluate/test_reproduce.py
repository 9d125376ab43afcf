"""What a reproduction measures, and that it can be stopped, killed, resumed and repeated."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import attnlens
from attnlens import boxes, croppers, maps, pocket, recipes
from attnlens.cli._reproduce import reproduce as command
from attnlens.errors import AttnLensError
from attnlens.evaluate import _conditions, _dataset, _measure, _plan, _report, _reproduce
from attnlens.evaluate._conditions import Layers
from attnlens.evaluate._plan import Plan
from attnlens.evaluate._records import Records
from attnlens.geometry import Box
from tests import tiny

ROOT = Path(__file__).parents[2]
TINY = Plan(main=1, sizes=1, high=1, ablations=1, tasks=1, several=1, validation=1)


def counted(*counts: int, **options: Any) -> Plan:
    """A plan of those counts, in the order of its fields."""
    fields = ("main", "sizes", "high", "ablations", "tasks", "several", "validation")
    return Plan(**dict(zip(fields, counts, strict=True)), **options)


@pytest.fixture(scope="module", autouse=True)
def short_answers() -> Iterator[None]:
    """A random model never ends its answer; two tokens of it are as good as twenty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_measure, "MAX_NEW_TOKENS", 2)
        yield


@pytest.fixture(scope="module")
def lens() -> Any:
    model, processor = tiny.build("llava")
    return attnlens.load(model=model, processor=processor, adapter="llava")


class Enough(Exception):  # noqa: N818 - no error
    """Stops a run in a test."""


def never(done: int, total: int) -> None:
    pass


def measured(lens: Any, path: Path, tick: Any = never, chosen: Plan = TINY) -> dict[Any, Any]:
    with Records(path, _measure.settings(lens, "tiny/llava", "0", chosen.split)) as records:
        with contextlib.suppress(Enough):
            _measure.measure(lens, chosen, records, tick)
        return records.all()


def untimed(records: dict[Any, Any]) -> dict[Any, Any]:
    return {key: {k: v for k, v in record.items() if k != "seconds"} for key, record in records.items()}


@pytest.fixture(scope="module")
def whole(lens: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Any, Any]]:
    """A run from start to end: its folder, and its records."""
    out = tmp_path_factory.mktemp("whole")
    return out, measured(lens, out / "records" / "tiny.jsonl")


@pytest.fixture(scope="module")
def resumed(lens: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[Any, Any]], list[str]]:
    """A run that was stopped while it ranked layers, and again after 40 questions: folder, records each time, asked."""
    out = tmp_path_factory.mktemp("resumed")
    asked: list[str] = []
    ask = _measure.ask

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments[2])
        return ask(*arguments, **options)

    def until(limit: int) -> Any:
        def tick(done: int, total: int) -> None:
            if len(asked) >= limit:
                raise Enough

        return tick

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_measure, "ask", counted)
        path = out / "records" / "tiny.jsonl"
        return out, [measured(lens, path, until(limit)) for limit in (0, 40, 10**6, 10**6)], asked


def test_a_run_that_was_stopped_goes_on_where_it_was(
    whole: tuple[Path, Any], resumed: tuple[Path, list[dict[Any, Any]], list[str]]
) -> None:
    out, (first, second, third, fourth), asked = resumed
    assert first == {}
    assert 40 <= len(second) < len(third)
    assert list(third.items())[: len(second)] == list(second.items()), "a record was made again"
    assert untimed(third) == untimed(whole[1])
    assert len(asked) == sum(key[0] in ("answer", "picture") for key in third), "a question was asked twice"
    assert fourth == third
    assert lines(out / "records" / "tiny.jsonl") == 1 + len(third)


def test_two_runs_give_the_same_report_but_for_its_seconds(whole: tuple[Path, Any], resumed: tuple[Path, Any]) -> None:
    contents = []
    for out in (whole[0], resumed[0]):
        text = _report.write(out).read_text()
        numbers = json.loads((out / "report.json").read_text())
        seconds = numbers.pop("seconds")
        assert seconds["tiny/llava"]["small"]["rel-att"] > 0
        before, after = text.split("## Seconds per question")
        pictures = {path.name: path.read_bytes() for path in sorted((out / "pictures").iterdir())}
        contents.append((json.dumps(numbers), before, after.split("## ", 1)[1], pictures))
        assert set(pictures) == {"sizes.png", "layers.png", "example-tiny--llava.png"}
        assert str(out) not in text
    assert contents[0] == contents[1]


def test_a_larger_plan_contains_a_smaller_one() -> None:
    def wanted(chosen: Plan) -> set[tuple[str, str]]:
        return {(one.example.id, name) for one in _plan.asked(chosen, Layers(1)) for name in one.conditions}

    assert wanted(TINY) < wanted(counted(4, 3, 2, 2, 2, 2, 1, ablation_sizes=("small", "medium")))


def test_the_human_crop_is_asked_for_where_there_is_a_box_and_tiles_where_images_are_large() -> None:
    work = _plan.asked(counted(6, 6, 2, 1, 6, 1, 1), Layers(1, 0))
    assert len({one.example.id for one in work}) == len(work)
    without = [one for one in work if one.example.box is None]
    assert without
    assert not any("human" in one.conditions for one in without)
    assert not any(one.ratios for one in without)
    for one in work:
        tiled = any(name.endswith("-high") for name in one.conditions)
        assert tiled == (one.example.group == "high")
        assert one.records == len(set(one.conditions)) + one.ratios
        if one.example.task == "read" and one.example.group == "small":
            assert set(one.conditions) >= {"none", "human", "centre", "random", "rel-att", "grad-att", "pure-grad"}
    assert "rel-att layer=1 connector_layer=0" in work[0].conditions


def test_the_pocket_clip_crops_small_targets_in_small_and_large_images_and_no_other_cropper_is_asked() -> None:
    with_clip = {}
    for one in _plan.asked(counted(4, 4, 2, 2, 2, 2, 1), Layers(0)):
        assert not {"yolo", "sam"} & set(one.conditions)
        if "clip" in one.conditions:
            assert set(_conditions.others()) < set(one.conditions), "not the scenes that the other recipes are asked of"
            with_clip.setdefault((one.example.group, one.example.task), []).append(one.example.id)
    assert {group: len(found) for group, found in with_clip.items()} == {("small", "read"): 4, ("high", "read"): 2}


def test_the_clip_condition_crops_as_the_pocket_clip_says_whatever_the_model(
    lens: Any, whole: tuple[Path, Any]
) -> None:
    scorer = croppers.clip_scorer(pocket.cropper_path("clip"))
    for size in ("small", "high"):
        example = _dataset.pocket_examples("report", [size], ["read"], 1)[0]
        record = whole[1]["answer", example.id, "clip"]
        (found,) = croppers.clip(scorer)(example.open(), example.question)
        assert record["boxes"] == [list(found.box)]
        assert record["holds"] == found.box.covers(example.box)
        assert record["cost"]["external"] == 20 * 4
        assert whole[1]["answer", example.id, "rel-att"]["cost"]["external"] == 0


def test_layers_are_ranked_on_no_scene_that_is_asked_about() -> None:
    asked = {one.example.image_path for one in _plan.asked(TINY, Layers(0))}
    assert asked.isdisjoint(example.image_path for example in _plan.ranked(TINY))


def test_a_count_scales_all_counts_and_leaves_none_out() -> None:
    some = counted(400, 200, 100, 150, 50, 100, 10)
    assert some.scaled(40) == counted(40, 20, 10, 15, 5, 10, 1)
    assert some.scaled(1) == counted(1, 1, 1, 1, 1, 1, 1)
    assert counted(30, 0, 0, 0, 0, 0, 9).scaled(10) == counted(10, 0, 0, 0, 0, 0, 3)
    with pytest.raises(AttnLensError, match="at least one"):
        _plan.FULL.scaled(0)


@pytest.mark.parametrize(
    ("name", "options", "criterion"),
    [
        ("rel-att layer=1", {"layer": 1}, "density"),
        ("rel-att layer=mean", {"layer": "mean"}, "density"),
        ("rel-att variant=released", {"variant": "released"}, "density"),
        ("rel-att criterion=sum", {}, "sum"),
    ],
)
def test_a_condition_changes_the_one_choice_that_it_names(
    lens: Any, name: str, options: dict[str, Any], criterion: str
) -> None:
    image, question = tiny.images("landscape", 1)[0].resize((900, 700)), "what is written on the red sign?"
    result = attnlens.ask(lens, image, question, _conditions.recipe_of(name), max_new_tokens=2)
    expected = maps.relative_attention(lens.read(image), question, **options)
    np.testing.assert_array_equal(result.importance.values, expected.values)
    found = boxes.search(expected, window=lens.adapter.defaults.window, criterion=criterion)
    assert result.boxes == [one.box for one in found if one.confident]


def test_an_unchanged_condition_is_the_bundled_recipe() -> None:
    for name in ("none", "human", "rel-att", "pure-grad-high"):
        assert _conditions.recipe_of(name) == recipes.find(name)


def test_centre_and_random_crops_are_as_wide_as_the_window_and_inside_the_image(lens: Any) -> None:
    examples = _dataset.pocket_examples("report", ["small"], ["read"], 20)
    side = lens.adapter.defaults.window
    box_of = partial(_conditions.box_of, lens=lens)
    assert box_of("centre", example=examples[0], image_size=(1000, 800)) == Box(332, 232, 668, 568)
    random = [box_of("random", example=one, image_size=(1000, 400)) for one in examples]
    assert random == [box_of("random", example=one, image_size=(1000, 400)) for one in examples]
    assert len(set(random)) > 10
    for box in random:
        assert (box.width, box.height) == (side, side)
        assert box.clip((1000, 400)) == box
    assert box_of("random", example=examples[0], image_size=(300, 200)) == Box(0, 0, 300, 200)
    assert box_of("human", example=examples[0], image_size=(300, 200)) == examples[0].box
    assert box_of("rel-att", example=examples[0], image_size=(300, 200)) is None


def test_records_of_other_weights_are_refused(whole: tuple[Path, Any]) -> None:
    model, processor = tiny.build("llava", seed=1)
    other = attnlens.load(model=model, processor=processor, adapter="llava")
    with pytest.raises(AttnLensError, match="other settings.*weights"):
        measured(other, whole[0] / "records" / "tiny.jsonl")


def test_every_record_says_what_was_asked_and_what_it_cost(lens: Any, whole: tuple[Path, Any]) -> None:
    records = whole[1]
    example = _dataset.pocket_examples("report", ["small"], ["read"], 1)[0]
    result = attnlens.ask(lens, example.open(), example.question, "human", box=example.box, max_new_tokens=2)
    record = records["answer", example.id, "human"]
    assert record["answer"] == result.answer
    assert record["right"] == (result.answer in example.labels)
    assert record["boxes"] == [list(result.boxes[0])]
    assert record["holds"] is True
    assert record["cost"] == {k: v for k, v in result.cost.as_dict().items() if k != "seconds"}
    assert np.shape(records["ratios", example.id]["ratios"]) == (1, len(lens._host.structure.layers))


def answer(bin_name: str, right: bool) -> dict[str, Any]:
    return {"bin": bin_name, "task": "read", "right": right, "boxes": [[0, 0, 1, 1]]}


def test_the_example_shown_is_the_first_small_one_that_the_crop_turns_right() -> None:
    found = {("answer", name, "none"): answer("small", right) for name, right in (("a", True), ("b", False))}
    found |= {("answer", name, "rel-att"): answer("small", True) for name in ("a", "b")}
    assert _measure.pictured(found) == "b"
    assert _measure.pictured({("answer", "a", "rel-att"): answer("small", False)}) == "a"
    assert _measure.pictured({("answer", "a", "rel-att"): answer("large", True)}) is None


def test_a_folder_goes_by_its_name_and_no_two_models_share_a_file(tmp_path: Path) -> None:
    for name in ("a/one", "b/one"):
        (tmp_path / name).mkdir(parents=True)
    assert _reproduce.label(str(tmp_path / "a/one")) == "one"
    assert _reproduce.record_paths(["pocket/llava"], tmp_path) == {
        "pocket/llava": tmp_path / "records" / "pocket--llava.jsonl"
    }
    with pytest.raises(AttnLensError, match="same name"):
        _reproduce.record_paths([str(tmp_path / "a/one"), str(tmp_path / "b/one")], tmp_path)


@pytest.fixture
def commands() -> typer.Typer:
    app = typer.Typer()
    app.command()(command)
    return app


def test_an_output_folder_that_cannot_be_written_is_told_before_a_model_is_loaded(
    commands: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reproduce, "run", lambda *_, **__: pytest.fail("the run was started"))
    (tmp_path / "file").touch()
    result = CliRunner().invoke(commands, [str(tmp_path / "file" / "out")])
    assert isinstance(result.exception, AttnLensError)
    assert "cannot be written" in str(result.exception) or "can be written" in str(result.exception)


def test_a_report_without_records_says_how_to_get_some(commands: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(commands, [str(tmp_path), "--report-only"])
    assert isinstance(result.exception, AttnLensError)
    assert "attnlens reproduce" in str(result.exception)


def test_ctrl_c_says_how_to_go_on(commands: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, progress: Any, **__: Any) -> None:
        progress("pocket/llava", 3, 10)
        raise KeyboardInterrupt

    monkeypatch.setattr(_reproduce, "run", interrupted)
    result = CliRunner().invoke(commands, [str(tmp_path), "--model", "pocket/llava", "--quick"])
    assert result.exit_code == 130
    assert "same command goes on" in result.output


def test_the_command_measures_what_its_options_say(
    commands: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(_reproduce, "run", lambda *given, **options: calls.append((*given, options["jobs"])))
    monkeypatch.setattr(_report, "write", lambda out: out / "report.md")
    options = ["--model", "a", "--model", "b", "--quick", "--count", "3", "--jobs", "1"]
    result = CliRunner().invoke(commands, [str(tmp_path), *options])
    assert calls == [(["a", "b"], tmp_path, _plan.QUICK.scaled(3), 1)]
    assert result.stdout.replace("\n", "") == str(tmp_path / "report.md")


def test_again_measures_another_stream_and_says_how_many_figures_hold(
    commands: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"mean": 50.0, "low": 40.0, "high": 60.0, "count": 300}
    numbers = {name: {"m": {"small": {"none": value}}} for name in ("accuracy", "gain", "crop_holds_target")}
    calls: list[Any] = []
    (tmp_path / "report.json").write_text(json.dumps(numbers))

    def write(out: Path) -> Path:
        (out / "report.json").write_text(json.dumps(numbers))
        return out / "report.md"

    monkeypatch.setattr(_reproduce, "run", lambda *given, **options: calls.append(given[2]))
    monkeypatch.setattr(_report, "write", write)
    out = _reproduce.writable(tmp_path / "again")
    result = CliRunner().invoke(commands, [str(out), "--again", str(tmp_path / "report.json")])
    assert calls == [_plan.AGAIN]
    assert {one.example.image_path.split("/")[0] for one in _plan.asked(_plan.AGAIN, Layers(0))} == {"scene:again"}
    assert "3 of 3 figures (100%)" in result.stdout
    assert (out / "again.md").is_file()


RUN = """
import signal
import sys
from pathlib import Path
from attnlens.evaluate import _plan, _reproduce
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    chosen = _plan.Plan(main=1, sizes=1, high=1, ablations=1, tasks=1, several=1, validation=1)
    _reproduce.run([sys.argv[1]], Path(sys.argv[2]), chosen, version="0", jobs=1, progress=lambda *_: None)
"""


def started(folder: Path, script: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(out)],
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ends_by_itself(group: int) -> None:
    """Waits until no process of the group is left: a worker must not outlive its parent."""
    deadline = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)
        pytest.fail("a process outlived the run")


def lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "how"), [(os.killpg, signal.SIGKILL), (os.kill, signal.SIGKILL), (os.killpg, signal.SIGINT)]
)
def test_a_run_that_is_killed_half_way_and_started_again_loses_nothing_and_repeats_nothing(
    tmp_path: Path, kill: Callable[[int, int], None], how: signal.Signals
) -> None:
    folder, script = tiny.save("llava", tmp_path / "tiny"), tmp_path / "run.py"
    script.write_text(RUN)
    found = {}
    for name in ("whole", "killed"):
        out = tmp_path / name
        path = out / "records" / "tiny.jsonl"
        if name == "killed":
            process, deadline = started(folder, script, out), time.monotonic() + 100
            while lines(path) < 30:
                assert process.poll() is None, process.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            kill(process.pid, how)
            process.wait(timeout=60)
            ends_by_itself(process.pid)
            before = path.read_bytes()
            assert lines(path) < lines(tmp_path / "whole/records/tiny.jsonl")
        process = started(folder, script, out)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()
        settings = json.loads(path.read_bytes().splitlines()[0])["settings"]
        with Records(path, settings) as records:
            found[name] = untimed(records.all())
    assert path.read_bytes().startswith(before[: before.rfind(b"\n")])
    assert found["killed"] == found["whole"]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 3.0])
def test_ctrl_c_while_a_worker_starts_prints_no_traceback_of_it(tmp_path: Path, seconds: float) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        RUN.replace("    _reproduce.run(", "    print('starts', flush=True)\n    _reproduce.run(")
        + "    print('was not stopped')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tiny.save("llava", tmp_path / "tiny")), str(tmp_path / "out")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        process.stdout.readline()
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=300)
    assert "was not stopped" not in said
    assert errors.count("Traceback") == 1, errors  # that of the script itself
    assert errors.strip().endswith("KeyboardInterrupt")
    ends_by_itself(process.pid)


def test_a_process_that_is_started_in_the_block_never_sees_ctrl_c() -> None:
    code = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT)\nprint('went on')"
    )
    with _reproduce._no_interrupt():
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.stdout.strip() == "went on", child.stderr
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in child.stderr


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_message(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    names, nothing = [str(tmp_path / "empty")], lambda *_: None
    with pytest.raises(AttnLensError, match="could not be loaded"):
        _reproduce.run(names, tmp_path / "out", TINY, version="0", jobs=1, progress=nothing)
