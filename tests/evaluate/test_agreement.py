"""Which of a report's figures hold on further scenes: on numbers written by hand."""

import json

import pytest

from attnlens.errors import AttnLensError
from attnlens.evaluate import _agreement, _report

REPORT = {
    "accuracy": {"m": {"small": {
        "none": {"mean": 20.0, "low": 15.0, "high": 25.0, "count": 1000},
        "rel-att": {"mean": 80.0, "low": 75.0, "high": 85.0, "count": 1000},
        "focus": {"mean": 90.0, "low": 85.0, "high": 95.0, "count": 400},
    }}},
    "gain": {"m": {"small": {"rel-att": {"mean": 60.0, "low": 53.0, "high": 67.0, "count": 1000}}}},
    "crop_holds_target": {"m": {}},
}  # fmt: skip


def further(**means):
    """Numbers of 300 further scenes: none=..., rel=..., gain=..., focus=(mean, count)."""
    mean, count = means.get("focus", (90.0, 300))
    return {
        "accuracy": {"m": {"small": {
            "none": {"mean": means.get("none", 15.0), "count": 300},
            "rel-att": {"mean": means.get("rel", 85.0), "count": 300},
            "focus": {"mean": mean, "count": count},
            "zoomeye": {"mean": 1.0, "count": 300},
        }}},
        "gain": {"m": {"small": {"rel-att": {"mean": means.get("gain", 70.0), "count": 300}}}},
        "crop_holds_target": {"other": {"small": {"rel-att": {"mean": 1.0, "count": 300}}}},
    }  # fmt: skip


def test_a_figure_holds_where_its_mean_lies_inside_the_reports_interval_ends_included():
    found = _agreement.compared(REPORT, further())
    assert {(one.table, one.condition): one.inside for one in found} == {
        ("accuracy", "none"): True,
        ("accuracy", "rel-att"): True,
        ("accuracy", "focus"): True,
        ("gain", "rel-att"): False,
    }
    assert _agreement.summary(found) == "3 of 4 figures (75%) lie inside the report's interval."


def test_figures_of_fewer_scenes_than_the_intervals_are_made_for_are_left_out():
    found = _agreement.compared(REPORT, further(focus=(10.0, 120)))
    assert "focus" not in {one.condition for one in found}


def test_the_comparison_is_written_as_one_table(tmp_path):
    found = _agreement.compared(REPORT, further(none=15.0))
    _agreement.write(tmp_path / "again.md", found)
    text = (tmp_path / "again.md").read_text()
    assert "| m | accuracy | small | none | 20.0 [15.0, 25.0] | 15.0 | yes |" in text
    assert "| m | difference to no crop | small | rel-att | 60.0 [53.0, 67.0] | 70.0 | **no** |" in text


def test_a_report_of_other_models_and_a_file_that_is_no_report_are_told(tmp_path):
    with pytest.raises(AttnLensError, match="no figure of 300 scenes in common"):
        _agreement.compared({"accuracy": {}}, further())
    for text in ("not json", "[]", json.dumps({"x": 1})):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(AttnLensError, match="no report.json"):
            _report.read(tmp_path / "report.json")
    with pytest.raises(AttnLensError, match="cannot be read"):
        _report.read(tmp_path / "none.json")
