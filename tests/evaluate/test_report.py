"""From records to tables, claims, Markdown and pictures: on records written by hand, whose figures are known."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnlens.errors import AttnLensError
from attnlens.evaluate import _report, _tables
from attnlens.evaluate._claims import claims
from attnlens.evaluate._records import Records
from attnlens.pocket import scenes

SETTINGS = {
    "type": "llava",
    "split": "report",
    "parameters": 1_500_000,
    "weights": "abc",
    "layers": [0, 1, 2],
    "connector_layers": 2,
    "defaults": {"layer": 1, "window": 100},
    "versions": {"attnlens": "0", "torch": "2"},
}
COUNT = 20
RIGHT = {
    # Of twenty questions, the first so many are answered rightly.
    ("small", "none"): 4,
    ("small", "human"): 18,
    ("small", "rel-att"): 14,
    ("small", "grad-att"): 3,
    ("small", "clip"): 6,
    ("small", "rel-att layer=2 connector_layer=1"): 16,
    ("small", "rel-att layer=0 connector_layer=0"): 20,
    ("small", "grad-att criterion=sum"): 2,
    ("large", "none"): 19,
    ("large", "human"): 19,
    ("large", "rel-att"): 19,
    ("large", "grad-att"): 10,
    ("high", "none"): 2,
    ("high", "rel-att"): 5,
    ("high", "rel-att-high"): 12,
}
RATIOS = {True: [[1.0, 2.0, 3.0], [1.0, 1.5, 9.0]], False: [[0.5, 1.0, None], [1.0, 1.0, 4.0]]}
"""By whether the answer is right: [connector_layers, layers]; the best pair is layer 2, connector layer 1."""


def write(out: Path, model: str = "some/model", right: dict[tuple[str, str], int] = RIGHT, ranked: bool = True) -> Path:
    path = out / "records" / f"{model.replace('/', '--')}.jsonl"
    with Records(path, {"model": model, **SETTINGS}) as records:
        if ranked:
            # The one on fewer examples is of an earlier, smaller run.
            for examples, layer in ((9, 0), (30, 2)):
                found = {"examples": examples, "layer": layer, "connector_layer": int(examples == 30), "ratio": 4.5}
                records.add(("ranking", str(examples)), found)
        for (size, condition), count in right.items():
            for number in range(COUNT):
                records.add(
                    ("answer", f"test/{size}/read/{number}", condition), answer(size, condition, number < count)
                )
        for number in range(COUNT):
            record = {"bin": "small", "task": "read", "right": number < 4, "ratios": RATIOS[number < 4]}
            records.add(("ratios", f"test/small/read/{number}"), record)
    return path


def answer(size: str, condition: str, right: bool) -> dict[str, Any]:
    cost = {"prefills": 1 if condition == "none" else 2, "forwards": 4, "backwards": 0, "image_tokens": 100}
    boxes = [] if condition == "none" else [[0, 0, 10, 10]]
    holds, seconds = right and condition != "none", 0.5 if right else 0.25
    common = {"bin": size, "task": "read", "answer": "7", "right": right}
    return {**common, "boxes": boxes, "holds": holds, "seconds": seconds, "cost": cost}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("records")
    write(out)
    return _tables.numbers(_tables.read(out))


def test_accuracies_and_gains_are_those_of_the_records(numbers: dict[str, Any]) -> None:
    accuracy, gain = numbers["accuracy"]["some/model"], numbers["gain"]["some/model"]
    for (size, condition), right in RIGHT.items():
        assert accuracy[size][condition]["mean"] == 100 * right / COUNT
        assert accuracy[size][condition]["count"] == COUNT
        if condition != "none":
            assert gain[size][condition]["mean"] == pytest.approx(100 * (right - RIGHT[size, "none"]) / COUNT)
    assert "none" not in gain["small"]


def test_the_interval_of_a_mean_is_a_percentile_bootstrap_over_the_questions(numbers: dict[str, Any]) -> None:
    found = numbers["gain"]["some/model"]["small"]["rel-att"]
    changes = np.array([0.0] * 10 + [1.0] * 10)  # wrong to right for 10 of 20, in some order
    rng = np.random.default_rng(123)
    means = 100 * rng.choice(changes, (20_000, COUNT)).mean(axis=1)
    assert [found["mean_low"], found["mean_high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=5.01)


def test_the_reported_interval_is_that_of_further_scenes_and_has_a_width_where_all_agree(
    numbers: dict[str, Any],
) -> None:
    accuracy = numbers["accuracy"]["some/model"]["small"]
    none, sure = accuracy["none"], accuracy["rel-att layer=0 connector_layer=0"]  # 4 and 20 of 20
    assert none["low"] < none["mean_low"] or none["high"] > none["mean_high"]
    assert (sure["mean"], sure["mean_low"], sure["high"]) == (100, 100, 100)
    assert 75 < sure["low"] < 95  # Jeffreys: 20.5 of 21


def test_a_difference_is_paired_over_the_examples_that_both_have(tmp_path: Path) -> None:
    with Records(tmp_path / "records" / "m.jsonl", {"model": "m", **SETTINGS}) as records:
        for number in range(6):
            records.add(("answer", f"e{number}", "none"), answer("small", "none", number % 2 == 0))
        for number in (0, 1):
            records.add(("answer", f"e{number}", "rel-att"), answer("small", "rel-att", True))
    gain = _tables.numbers(_tables.read(tmp_path))["gain"]["m"]["small"]["rel-att"]
    assert (gain["mean"], gain["count"]) == (50.0, 2)


def test_a_second_crop_is_compared_with_one_on_the_questions_that_do_not_say_where_to_look(tmp_path: Path) -> None:
    rights = {"none": 1, "rel-att": 3, "rel-att count=2": 6, "entropy": 5}
    with Records(tmp_path / "records" / "m.jsonl", {"model": "m", **SETTINGS}) as records:
        for condition, count in rights.items():
            for number in range(10):
                record = answer("small", condition, number < count) | {"task": "colour"}
                records.add(("answer", f"test/small/colour/{number}", condition), record)
    several = _tables.numbers(_tables.read(tmp_path))["several"]["m"]
    assert {name: row["accuracy"]["mean"] for name, row in several.items()} == {
        name: 10.0 * count for name, count in rights.items()
    }
    gains = {name: row["gain"] and row["gain"]["mean"] for name, row in several.items()}
    assert gains == {"none": None, "rel-att": 20, "rel-att count=2": 50, "entropy": 40}
    second = {name: row["second"] and row["second"]["mean"] for name, row in several.items()}
    assert second == {"none": None, "rel-att": None, "rel-att count=2": 30, "entropy": None}  # one crop: not measured
    text = _report.write(tmp_path).read_text().split("## Questions for which several places must be looked at")[1]
    assert "| m | rel-att count=2 | 10 | 60.0 [" in text


def test_ratios_are_means_by_answer_at_the_papers_combined_layer(numbers: dict[str, Any]) -> None:
    ratios = numbers["ratios"]["some/model"]
    assert [one["mean"] for one in ratios["right"]] == [1.0, 2.0, 3.0, 1.0, 1.5, 9.0]
    assert [one and one["mean"] for one in ratios["wrong"]] == [0.5, 1.0, None, 1.0, 1.0, 4.0]
    assert ratios["all"][5]["mean"] == pytest.approx((4 * 9 + 16 * 4) / 20)
    assert ratios["all"][2]["count"] == 4


def test_ablations_are_compared_with_the_recipe_as_it_is(numbers: dict[str, Any]) -> None:
    rows = {(r["recipe"], r["choice"], r["size"]): r for r in numbers["ablations"]["some/model"]}
    assert set(rows) == {
        ("rel-att", "layer=2 connector_layer=1", "small"),  # the best by the larger ranking, not by the smaller
        ("grad-att", "criterion=sum", "small"),
        ("rel-att", "tiles of at most 1024 px", "high"),
    }
    assert rows["rel-att", "layer=2 connector_layer=1", "small"]["difference"]["mean"] == pytest.approx(10)
    assert rows["grad-att", "criterion=sum", "small"]["difference"]["mean"] == pytest.approx(-5)
    assert rows["rel-att", "tiles of at most 1024 px", "high"]["difference"]["mean"] == pytest.approx(35)


def test_costs_are_means_and_seconds_medians(numbers: dict[str, Any]) -> None:
    assert numbers["cost"]["some/model"]["small"]["rel-att"] == {
        "backwards": 0.0, "forwards": 4.0, "image_tokens": 100.0, "prefills": 2.0,
    }  # fmt: skip
    assert numbers["seconds"]["some/model"]["small"]["rel-att"] == 0.5
    assert numbers["seconds"]["some/model"]["small"]["none"] == 0.25


def held(numbers: dict[str, Any]) -> list[bool | None]:
    """What is held of ViCrop's four claims, which come first."""
    return [one["holds"] for one in claims(numbers)][:4]


def changed(tmp_path: Path, **counts: int) -> dict[str, Any]:
    """The numbers with other counts of right answers: small_none=..., large_rel=..."""
    names = {"none": "none", "human": "human", "rel": "rel-att", "grad": "grad-att"}
    right = dict(RIGHT)
    for key, count in counts.items():
        size, condition = key.split("_")
        right[size, names[condition]] = count
    write(tmp_path, right=right)
    return _tables.numbers(_tables.read(tmp_path))


def test_the_claims_hold_where_the_records_say_so(numbers: dict[str, Any]) -> None:
    assert held(numbers) == [True, True, True, True]
    assert {one["model"] for one in claims(numbers)} == {"some/model"}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"large_none": 9, "large_rel": 9}, [False, True, True, True]),  # 25 points apart
        ({"large_none": 10, "large_rel": 10}, [True, True, True, True]),  # 30 points
        ({"small_human": 11}, [True, False, True, True]),
        ({"small_rel": 7}, [True, True, True, False]),  # gains 15
        ({"large_rel": 18}, [True, True, True, False]),  # loses 5
        ({"large_rel": 18, "large_grad": 19, "small_grad": 8}, [True, True, True, True]),  # the other recipe does
        ({"large_grad": 19, "large_rel": 18}, [True, True, True, False]),  # no recipe does both
    ],
)
def test_a_claim_fails_where_the_records_say_so(
    tmp_path: Path, counts: dict[str, int], expected: list[bool | None]
) -> None:
    assert held(changed(tmp_path, **counts)) == expected


def searched(numbers: dict[str, Any], **changes: float) -> list[bool | None]:
    """What is held of the claims about searches and second crops, with other figures: gain_focus=..., low_rel=..."""
    figures = {
        "gain_focus": 15, "gain_quick": 30, "gain_zoomeye": 16, "quick_small": 3, "quick_high": 4,
        "zoomeye_small": 5, "zoomeye_high": 8, "low_rel": 0.5, "low_grad": 3,
    } | changes  # fmt: skip
    quick, rows = "focus steps=1 prompt=question", {"rel-att count=2": "low_rel", "grad-att count=2": "low_grad"}
    made = json.loads(json.dumps(numbers))
    for name, key in (("focus", "gain_focus"), (quick, "gain_quick"), ("zoomeye", "gain_zoomeye")):
        made["gain"]["some/model"]["small"][name] = {"mean": figures[key], "low": 0, "high": 99, "count": 9}
    for size in ("small", "high"):
        made["cost"]["some/model"][size][quick] = {"forwards": figures[f"quick_{size}"]}
        made["cost"]["some/model"][size]["zoomeye"] = {"forwards": figures[f"zoomeye_{size}"]}
    made["several"]["some/model"] = {"none": {"second": None}} | {
        name: {"second": {"mean": 9, "mean_low": figures[key], "mean_high": 20, "count": 9}}
        for name, key in rows.items()
    }
    return [one["holds"] for one in claims(made)][4:]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [True, True, True, True]),  # one pass of three, and two of six
        ({"gain_focus": 14.9}, [False, True, True, True]),
        ({"gain_zoomeye": 14.9}, [False, True, True, True]),
        ({"gain_quick": 14.9}, [False, True, True, True]),
        ({"zoomeye_small": 4.9}, [True, False, True, True]),
        ({"quick_high": 4.1}, [True, True, False, True]),
        ({"low_rel": 0}, [True, True, True, False]),
    ],
)
def test_claims_about_searches_and_second_crops_are_judged_by_their_figures(
    numbers: dict[str, Any], changes: dict[str, float], expected: list[bool | None]
) -> None:
    assert searched(numbers, **changes) == expected


def test_claims_about_searches_that_were_not_measured_are_neither_true_nor_false(numbers: dict[str, Any]) -> None:
    assert [one["holds"] for one in claims(numbers)][4:] == [None, None, None, None]


def test_the_ratio_is_judged_at_the_best_layer_of_validation(numbers: dict[str, Any]) -> None:
    other = json.loads(json.dumps(numbers))
    other["models"]["some/model"]["ranking"] = {"layer": 1, "connector_layer": 0, "examples": 9, "ratio": 2.0}
    assert held(other) == [True, True, False, True]


def test_a_claim_without_records_is_neither_true_nor_false(tmp_path: Path) -> None:
    write(tmp_path, right={("small", "rel-att"): 3}, ranked=False)
    assert held(_tables.numbers(_tables.read(tmp_path))) == [None, None, None, None]
    assert "not measured" in _report.write(tmp_path).read_text()


def test_the_report_shows_every_model_and_table_and_can_be_made_again(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "other/model")
    text = _report.write(tmp_path).read_text()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "| some/model | none | 20.0 [" in text
    assert "the stream `report`" in text
    assert "| other/model | human | 90.0 [" in text
    assert "| rel-att | +50.0 [" in text
    assert "| some/model | clip | 30.0 [" in text
    assert "| some/model | rel-att | layer 2, connector layer 1, the best on validation | small | 80.0 [" in text
    assert "| *LLaVA-1.5 7B, paper* | human | 70.0 | 65.4 | 57.0 | - |" in text
    assert text.count("| yes |") == 8
    assert str(tmp_path) not in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.split("](")[1].rstrip(")")).is_file()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for header, rule in itertools.pairwise(rows):
        assert "---" not in rule or header.count("|") == rule.count("|")
    for path in files:
        if "records" not in path.parts:
            path.unlink()
    _report.write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_croppers_that_are_not_there_take_one_line(tmp_path: Path) -> None:
    write(tmp_path, right={key: count for key, count in RIGHT.items() if key[1] != "clip"})
    section = _report.write(tmp_path).read_text().split("(Table 4)\n")[1].split("\n## ")[0]
    assert "clip, yolo and sam need models" in section
    assert "pocket CLIP" not in section
    assert "|" not in section


def test_the_table_of_croppers_says_which_clip_it_is_and_which_croppers_are_not_measured(tmp_path: Path) -> None:
    write(tmp_path)
    section = _report.write(tmp_path).read_text().split("(Table 4)\n")[1].split("\n## ")[0]
    assert "bundled pocket CLIP" in section
    assert "`yolo` and `sam` have no bundled model" in section
    rows = [line.split(" | ")[1] for line in section.splitlines() if line.startswith("| some/model")]
    assert rows == ["none", "human", "rel-att", "grad-att", "clip"]


def test_an_example_is_drawn_from_its_record(tmp_path: Path) -> None:
    path = write(tmp_path)
    scene = scenes.scene_in_bin(0, "small")
    width, height = scene.image.size
    edges = [[[size * i / 4, size * (i + 1) / 4] for i in range(4)] for size in (width, height)]
    with Records(path, {"model": "some/model", **SETTINGS}) as records:
        # Example 10 is the first by name that is wrong without the crop and right with it.
        picture = {
            "image_path": "scene:test/small/read/0",
            "question": scene.question,
            "expected": scene.answer,
            "box": list(scene.box or ()),
            "first": "1",
            "answer": scene.answer,
            "boxes": [[0, 0, 100, 100]],
            "values": np.eye(4).tolist(),
            "x": edges[0],
            "y": edges[1],
        }
        records.add(("picture", "test/small/read/10"), picture)
    assert "An example of each model" in _report.write(tmp_path).read_text()
    with Image.open(tmp_path / "pictures" / "example-some--model.png") as drawn:
        assert drawn.width > 700


def test_a_folder_without_records_and_a_damaged_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(AttnLensError, match="no records"):
        _report.write(tmp_path)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "broken.jsonl").write_text("not json\n")
    with pytest.raises(AttnLensError, match="broken.jsonl"):
        _report.write(tmp_path)


def legacy(out: Path, key: list[str], data: Any, **settings: Any) -> None:
    """A file without checksums, as attnlens 0.1.0 wrote it, with one record."""
    path = out / "records" / "m.jsonl"
    path.parent.mkdir(parents=True)
    lines = [{"settings": {"model": "m", **SETTINGS, **settings}}, {"key": key, "data": data}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


ANSWER = answer("small", "none", True)
ANSWER_KEY = ["answer", "report/small/read/0", "none"]


@pytest.mark.parametrize(
    ("key", "data", "words"),
    [
        (ANSWER_KEY, {("rhght" if k == "right" else k): v for k, v in ANSWER.items()}, "right: missing"),
        (ANSWER_KEY, ANSWER | {"right": 1}, "right: found 1, expected true or false"),
        (ANSWER_KEY, ANSWER | {"bin": "smbll"}, "bin: found 'smbll'"),
        (ANSWER_KEY, ANSWER | {"seconds": "1"}, "seconds"),
        (ANSWER_KEY, ANSWER | {"cost": {"prefilms": 1}}, "cost.prefilms"),
        (ANSWER_KEY, ANSWER | {"boxes": [[1, 2, 3]]}, "boxes.0"),
        (ANSWER_KEY, [ANSWER], "a mapping"),
        (["answer", "report/small/read/0"], ANSWER, "its key"),
        (["anywer", *ANSWER_KEY[1:]], ANSWER, "its key"),
        ([], ANSWER, "its key"),
        (
            ["ratios", "e"],
            {"bin": "small", "task": "read", "right": True, "ratios": [[1.0, 2.0]]},
            "2 lists of 3 numbers",
        ),
        (["ranking", "9"], {"examples": 9, "layer": "0", "connector_layer": 1, "ratio": 2.0}, "layer: found '0'"),
        (["picture", "e"], {"image_path": "a.png"}, "question: missing"),
    ],
)
def test_a_record_of_another_shape_is_named_by_file_and_line(
    tmp_path: Path, key: list[str], data: Any, words: str
) -> None:
    legacy(tmp_path, key, data)
    with pytest.raises(AttnLensError, match=r"Line 2 of .*m\.jsonl") as caught:
        _tables.read(tmp_path)
    assert words in str(caught.value)


def test_settings_of_another_shape_are_named_by_file_and_line(tmp_path: Path) -> None:
    legacy(tmp_path, ANSWER_KEY, ANSWER, layers="all")
    with pytest.raises(AttnLensError, match=r"Line 1 of .*m\.jsonl.*layers: found 'all'"):
        _tables.read(tmp_path)


def test_records_without_checksums_are_reported_on_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    legacy(tmp_path, ANSWER_KEY, ANSWER)
    (found,) = _tables.read(tmp_path)
    assert found.records == {tuple(ANSWER_KEY): ANSWER}
    (said,) = caplog.messages
    assert "1 of m.jsonl" in said
    caplog.clear()
    write(tmp_path / "new")
    _tables.read(tmp_path / "new")
    assert not caplog.messages


def test_a_report_that_cannot_be_finished_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    _report.write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    whole = Path.write_text

    def torn(path: Path, text: str, **options: Any) -> int:
        whole(path, text[: len(text) // 2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", torn)
    with pytest.raises(KeyboardInterrupt):
        _report.write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
