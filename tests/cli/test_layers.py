"""Claims about `attnlens layers`: what it prints, writes and refuses."""

import json
import math

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import attnlens
from attnlens import adapters, evaluate
from attnlens.analysis import Candidate, Ranking
from attnlens.cli._layers import layers
from attnlens.errors import AttnLensError
from tests import tiny

RATIOS = {Candidate(0): [0.5, 2.0], Candidate(1): [4.0, 9.0], Candidate("mean"): [2.0, 2.0]}


def run(*arguments):
    app = typer.Typer()
    app.command()(layers)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def ranked(monkeypatch):
    """Stands in for the model and the ranking; what the ranking was asked for."""
    asked = {}

    def rank(lens, examples, *, heads, right, progress):
        asked.update(examples=examples, heads=heads, right=right)
        for number in range(len(examples)):
            progress(number + 1)
        known = {**RATIOS, Candidate(1, None, 0): [9.0, 9.0]} if heads else RATIOS
        values = np.array(list(known.values())).T
        judged = None if right is None else np.array([True, False])
        return Ranking(tuple(known), values, values > 3, judged, depth=2)

    class Lens:
        spec = adapters.find("llava")

    monkeypatch.setattr("attnlens.analysis.rank", rank)
    monkeypatch.setattr("attnlens.lens.load", lambda *_, **__: Lens())
    return asked


def test_the_table_has_every_layer_and_marks_the_best(ranked):
    done = run("--count", 2)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("2 examples of pocket validation scenes (small, medium; read)\n")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1] == ["layer", "ratio", "covered"]
    assert [line[0] for line in lines[2:]] == ["0", "1", "mean"]
    assert [line[-1] for line in lines[2:]] == ["%", "best", "%"]
    assert lines[3][1] == "6.50"  # the mean of 4 and 9
    assert ranked["right"] is None


def test_json_has_what_the_table_has_and_null_for_what_is_not_known(ranked, tmp_path):
    done = run("--json", "--answers", "--heads", "--count", 2)
    told = json.loads(done.stdout)
    assert set(told) == {"model", "data", "examples", "best", "candidates", "adapter", "picture"}
    assert [(row["layer"], row["head"]) for row in told["candidates"]] == [(0, None), (1, None), ("mean", None), (1, 0)]
    best = told["best"]
    assert (best["layer"], best["ratio"], best["right"], best["wrong"]) == (1, 6.5, 4.0, 9.0)
    assert best["right_interval"] == [None, None]
    assert ranked["right"] is evaluate.right
    assert ranked["heads"]


def test_the_adapter_gets_the_best_layer_and_says_why(ranked, tmp_path):
    path = tmp_path / "mine.yaml"
    done = run("--write", path, "--adapter", "llava", "--count", 2)
    assert done.exit_code == 0, done.output
    spec = adapters.find(path)
    assert (spec.defaults.layer, spec.defaults.layers, spec.defaults.window) == (1, 2, 336)
    text = path.read_text()
    assert "the highest attention ratio of 3 maps, 6.50" in text
    assert "on 2 examples of pocket validation scenes (small, medium; read)" in text
    assert "# LLaVA-1.5: CLIP tower" in text
    again = run("--write", path)
    assert isinstance(again.exception, AttnLensError)
    assert "--force" in str(again.exception)
    assert run("--write", path, "--force", "--count", 2).exit_code == 0


def test_a_pocket_model_s_own_adapter_is_what_is_written(ranked, tmp_path):
    path = tmp_path / "mine.yaml"
    assert run("--write", path, "--count", 2).exit_code == 0
    assert "# pocket/llava" in path.read_text()


def test_the_chart_has_right_and_wrong_apart(ranked, tmp_path):
    pytest.importorskip("matplotlib")
    pictures = []
    for name, options in (("all.png", []), ("apart.png", ["--answers"])):
        done = run("--save", tmp_path / name, "--count", 2, *options)
        assert done.exit_code == 0, done.output
        pictures.append(np.asarray(Image.open(tmp_path / name)))
    vermilion = [(abs(picture.astype(int) - (213, 94, 0)).sum(axis=-1) < 9).sum() for picture in pictures]
    assert vermilion[0] == 0
    assert vermilion[1] > 20


def data_file(folder, boxes):
    picture = folder / "a.png"
    Image.new("RGB", (100, 80), "red").save(picture)
    entries = [
        {"id": i, "question": "what?", "labels": ["one"], "image_path": "a.png"}
        | ({} if box is None else {"bbox": box})
        for i, box in enumerate(boxes)
    ]
    path = folder / "data.json"
    path.write_text(json.dumps(entries))
    return path


def test_examples_of_a_file_are_evenly_spaced_and_those_without_a_box_are_told_of(ranked, tmp_path):
    box = [10, 10, 30, 30]
    path = data_file(tmp_path, [box, box, None, box, box])
    done = run("--data", path, "--count", 2)
    assert [example.id for example in ranked["examples"]] == ["0", "3"]
    assert "1 of 5 examples have no box" in done.stderr
    assert "2 examples of data.json" in done.stdout


def test_a_data_set_without_boxes_is_refused(ranked, tmp_path):
    done = run("--data", data_file(tmp_path, [None, None]))
    assert isinstance(done.exception, AttnLensError)
    assert "has a box" in str(done.exception)
    assert not ranked


def test_a_data_set_that_is_not_there_is_refused_with_the_splits(ranked):
    done = run("--data", "valdation")
    assert isinstance(done.exception, AttnLensError)
    assert "train, validation, test" in str(done.exception)


def test_a_connector_with_attention_is_ranked_and_written_too(tmp_path, monkeypatch):
    model, processor = tiny.build("instructblip")
    lens = attnlens.load(model=model, processor=processor, adapter="instructblip")
    monkeypatch.setattr("attnlens.lens.load", lambda *_, **__: lens)
    box = [20, 20, 60, 50]
    path = tmp_path / "mine.yaml"
    arguments = ("--data", data_file(tmp_path, [box, box]), "--json", "--write", path, "--adapter", "instructblip")
    told = json.loads(run(*arguments).stdout)
    pairs = [(row["connector_layer"], row["layer"]) for row in told["candidates"]]
    assert pairs == [(k, layer) for k in (0, 1) for layer in (0, 1, 2)] + [("mean", "mean")]
    best = max(told["candidates"], key=lambda row: row["ratio"])
    defaults = adapters.find(path).defaults
    assert (defaults.connector_layer, defaults.layer) == (best["connector_layer"], best["layer"])
    assert math.isclose(told["best"]["ratio"], best["ratio"])
