"""Files of data: what comes back is what was kept, exactly, and whatever else a file holds is one clear error."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save, save_file

from attnlens import AttnLensError, Grid, ImportanceMap
from attnlens._storage import _checksum

NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@st.composite
def maps(draw: st.DrawFn) -> ImportanceMap:
    values = draw(arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=NUMBERS))
    spans = []
    for count in values.shape:
        starts = draw(arrays.arrays(np.float64, count, elements=st.floats(-1e4, 1e4)))
        spans.append(np.stack([starts, starts + draw(st.floats(0.01, 1e3))], axis=1))
    return ImportanceMap(values, Grid(spans[1], spans[0], draw(st.tuples(st.integers(1, 9999), st.integers(1, 9999)))))


def one_map() -> ImportanceMap:
    return ImportanceMap([[0.0, np.nan, 3], [1, np.inf, 5]], Grid.regular(2, 3, (30, 20)))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return one_map().save(tmp_path / "map.safetensors")


@settings(max_examples=30)
@given(m=maps())
def test_a_map_comes_back_from_file_pickle_and_copy_as_it_was(m: ImportanceMap, tmp_path_factory: Any) -> None:
    path = m.save(tmp_path_factory.getbasetemp() / "kept" / "one.safetensors")
    for back in (ImportanceMap.load(path), pickle.loads(pickle.dumps(m)), copy.deepcopy(m), copy.copy(m)):
        np.testing.assert_array_equal(back.values, m.values)
        np.testing.assert_array_equal(back.grid.x, m.grid.x)
        np.testing.assert_array_equal(back.grid.y, m.grid.y)
        assert (back.values.dtype, back.grid.image_size) == (np.float32, m.grid.image_size)
        assert not any(array.flags.writeable for array in (back.values, back.grid.x, back.grid.y))
        assert (back, hash(back)) == (m, hash(m))
    assert os.listdir(path.parent) == [path.name]


def test_maps_are_equal_where_their_values_and_grids_are() -> None:
    m = one_map()
    assert m != replace(m, values=m.values + 1)
    assert m != replace(m, grid=Grid.regular(2, 3, (31, 20)))
    assert m != m.values.tolist()
    zero, minus_zero = (ImportanceMap([[value]], Grid.regular(1, 1, (1, 1))) for value in (0.0, -0.0))
    assert (zero, hash(zero)) == (minus_zero, hash(minus_zero))


def damages(sound: bytes) -> Iterator[bytes]:
    for at in range(len(sound)):
        for bits in (0x01, 0xFF):
            yield sound[:at] + bytes([sound[at] ^ bits]) + sound[at + 1 :]
    for length in range(0, len(sound), 7):
        yield sound[:length]
    yield sound + b"\0"


def test_every_flipped_byte_and_every_cut_is_noticed(kept: Path) -> None:
    """Or changes nothing: blanks in the header may be others."""
    refused, whole, tried = 0, one_map(), list(damages(kept.read_bytes()))
    for damaged in tried:
        kept.write_bytes(damaged)
        try:
            assert ImportanceMap.load(kept) == whole
        except AttnLensError:
            refused += 1
    assert refused > 0.99 * len(tried) > 1000


def header(**changed: str) -> dict[str, str]:
    data = json.dumps({"kind": "ImportanceMap", "values": {"values": "v", "grid": {}}})
    return {"format": "attnlens", "version": "1", "data": data, "checksum": _checksum(data, {}), **changed}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no file of safetensors"),
        (pickle.dumps([1]), "no file of safetensors"),
        (b"\xff" * 400, "no file of safetensors"),
        (save({"weight": np.zeros(3)}), "not written by attnlens"),
        (save({"weight": np.zeros(3)}, {"format": "pt"}), "not written by attnlens"),
        (save({}, header(version="2")), "version 2 .* reads version 1"),
        (save({}, header(version="²")), "not written by attnlens"),
        (save({"more": np.zeros(3)}, header()), "damaged"),
        (save({}, header(checksum="0")), "damaged"),
        (save({}, header()), "does not hold what a ImportanceMap is made of"),
    ],
    ids=["empty", "pickle", "noise", "weights", "torch", "future", "no version", "more", "checksum", "without a grid"],
)
def test_what_is_no_file_of_ours_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(AttnLensError, match=said):
        ImportanceMap.load(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["values", "grid.x", "grid.y", "a", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["values", "grid", "x", "y", "image_size"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(values=JSON, kind=st.sampled_from(["ImportanceMap", "Trace", None, 3]), whole=st.booleans())
def test_what_says_it_is_a_map_and_is_none_is_refused(
    values: Any, kind: Any, whole: bool, tmp_path_factory: Any
) -> None:
    """A checksum keeps damage out, not what somebody writes on purpose."""
    said = json.dumps({"kind": kind, "values": values} if whole else values)
    held = {"values": np.zeros((1, 1)), "grid.x": np.ones((2, 3)), "grid.y": np.zeros(3, dtype=bool)}
    path = tmp_path_factory.getbasetemp() / "crafted.safetensors"
    save_file(held, path, header(data=said, checksum=_checksum(said, held)))
    with pytest.raises(AttnLensError):
        ImportanceMap.load(path)


def test_deeply_nested_data_is_refused(tmp_path: Path) -> None:
    said = "[" * 200_000
    save_file({}, tmp_path / "deep.safetensors", header(data=said, checksum=_checksum(said, {})))
    with pytest.raises(AttnLensError):
        ImportanceMap.load(tmp_path / "deep.safetensors")


def test_a_path_that_is_no_file_of_data_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("none.safetensors", "pipe.safetensors", "folder.safetensors"):
        with pytest.raises(AttnLensError, match="There is no file"):
            ImportanceMap.load(tmp_path / name)
    for path in (tmp_path / "map.png", 3, None):
        with pytest.raises(AttnLensError, match=r"ends in \.safetensors"):
            one_map().save(path)  # type: ignore[arg-type]
    with pytest.raises(AttnLensError, match="cannot be written"):
        one_map().save(tmp_path / "folder.safetensors")
    with pytest.raises(AttnLensError, match="cannot be written"):
        one_map().save(tmp_path / "folder.safetensors" / ("x" * 300 + ".safetensors"))
    assert os.listdir(tmp_path / "folder.safetensors") == []
