"""Records, damaged: those that were written, or one error; and of files without checksums a report, or one error."""

import json

import pytest
from hypothesis import strategies as st

from attnlens import AttnLensError
from attnlens.evaluate import _tables
from attnlens.evaluate._claims import claims
from attnlens.evaluate._markdown import markdown
from attnlens.evaluate._records import Records
from tests.fuzz.trying import amounts, damaged, on_many, outcome

SETTINGS = {
    "model": "m", "split": "report", "type": "llava", "parameters": 9, "weights": "abc", "layers": [0, 1],
    "connector_layers": 0, "defaults": {"layer": 1, "window": 100}, "versions": {"attnlens": "0"},
}  # fmt: skip
ASKED = {"bin": "small", "task": "read"}
COST = {"prefills": 1, "forwards": 4, "backwards": 0, "image_tokens": 100}
ANSWER = {**ASKED, "answer": "7", "right": True, "boxes": [], "holds": None, "seconds": 0.5, "cost": COST}
RECORDS = {
    ("ranking", "8"): {"examples": 8, "layer": 1, "connector_layer": None, "ratio": 2.5},
    ("answer", "report/small/read/0", "none"): ANSWER,
    ("answer", "report/small/read/0", "rel-att"): {
        **ANSWER,
        "right": False,
        "boxes": [[0, 1, 20.5, 30]],
        "holds": True,
    },
    ("ratios", "report/small/read/0"): {**ASKED, "right": True, "ratios": [[0.5, None]]},
    ("answer", "report/small/read/1", "none"): {**ASKED, "refused": "no words"},
}


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "records" / "m.jsonl"
    with Records(path, SETTINGS) as records:
        for key, data in RECORDS.items():
            records.add(key, data)
    return path.read_bytes()


@amounts(fast=100, long=2000)
def test_what_is_read_was_written(tmp_path, whole, count):
    path, lines = tmp_path / "records" / "m.jsonl", whole.splitlines(keepends=True)
    kept = []

    def claim(data):
        path.write_bytes(data)
        found = outcome(lambda: _tables.read(tmp_path))
        if isinstance(found, AttnLensError):
            assert "m.jsonl" in str(found) or "no records" in str(found)
            return
        # Whole lines may be lost without a trace; what is there is true.
        assert all(RECORDS[key] == record for key, record in found[0].records.items())
        assert set(path.read_bytes().splitlines(keepends=True)) <= set(lines)
        kept.append(len(found[0].records))

    moved = st.permutations(lines[1:]).map(lambda rest: b"".join([lines[0], *rest[:4]]))
    on_many(claim, count, st.one_of(damaged(whole, whole), damaged(whole), moved))
    assert kept


@amounts(fast=15, long=400)
def test_a_file_without_checksums_gives_a_report_or_one_error(tmp_path, count):
    path = tmp_path / "records" / "m.jsonl"
    path.parent.mkdir()
    content = [{"settings": SETTINGS}, *({"key": key, "data": data} for key, data in RECORDS.items())]
    whole = "".join(json.dumps(line) + "\n" for line in content).encode()
    outcomes = {"report": 0, "error": 0}

    def claim(change):
        place, byte = change
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        numbers = outcome(lambda: _tables.numbers(_tables.read(tmp_path)))
        if isinstance(numbers, AttnLensError):
            assert "m.jsonl" in str(numbers)
            outcomes["error"] += 1
            return
        assert markdown({**numbers, "claims": claims(numbers)}, {})
        outcomes["report"] += 1

    digits = st.sampled_from([place for place, byte in enumerate(whole) if chr(byte).isdigit()])
    anywhere = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))
    on_many(claim, count, st.one_of(anywhere, st.tuples(digits, st.sampled_from(b"0123456789"))))
    assert all(outcomes.values()), outcomes
