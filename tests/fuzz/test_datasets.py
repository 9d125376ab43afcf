"""Data sets as JSON, damaged and hostile: examples whose images open, or one error."""

import json
import os

from hypothesis import strategies as st
from PIL import Image

from attnlens import AttnLensError
from attnlens.evaluate import _dataset
from tests.fuzz.trying import amounts, damaged, on_many, outcome

ENTRIES = [
    {"id": "a", "question": "What?", "labels": ["5"], "image_path": "a.png", "bbox": [1, 2, 30, 40], "group": "small"},
    {"id": 2, "question": "Where?", "labels": "left", "image_path": "a.png", "task": "read"},
]
PATHS = [
    "scene:test/small/read/7", "scene:test/small/read/" + "9" * 5000, "scene:test/small/read/-1", "scene:x/y/z/1",
    "scene:test/small/read/٣", "scene:", "~nosuchuser/a.png", "~", "a\0b", "\ud800", "/dev/zero", "a" * 5000, "..", "http://x/a.png",
    "\x1b[2J", "pipe", "data.json",
]  # fmt: skip
VALUE = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(10**400, 10**401), st.floats(), st.text(max_size=8),
        st.sampled_from(PATHS),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


@st.composite
def changed(draw):
    entries = json.loads(json.dumps(ENTRIES))
    entry = draw(st.sampled_from(entries))
    key = draw(st.sampled_from([*entry, "image_path", "bbox", "other"]))
    value = draw(
        st.one_of(
            VALUE, st.sampled_from(PATHS), st.lists(st.one_of(st.floats(), st.integers()), min_size=4, max_size=4)
        )
    )
    entry[key] = value
    return json.dumps(draw(st.sampled_from([entries, entry, [entries], entries * 2]))).encode()


@amounts(fast=80, long=1500)
def test_a_data_set_is_read_and_opens_or_one_error(tmp_path, count):
    Image.new("RGB", (50, 60)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    path, outcomes = tmp_path / "data.json", {"opened": 0, "refused": 0}

    def claim(data):
        path.write_bytes(data)
        found = outcome(lambda: [example.open() for example in _dataset.read(path)])
        outcomes["refused" if isinstance(found, AttnLensError) else "opened"] += 1

    whole = json.dumps(ENTRIES).encode()
    nested = st.sampled_from([b"[" * 200_000, b'{"a":' * 200_000, b"[" * 9_000 + b"]" * 9_000, b"9" * 5000])
    words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    same = words.map(lambda text: json.dumps([{**ENTRIES[0], "id": "x", "question": f"What {text}?"}]).encode())
    hostile = (changed(), changed(), changed(), damaged(whole), nested, st.binary(max_size=100))
    on_many(claim, count, st.one_of(same, *hostile))
    assert min(outcomes.values()) > count / 50, outcomes
