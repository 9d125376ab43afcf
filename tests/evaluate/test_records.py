"""Claims about records: a killed run loses none and writes none twice, and the file of another run is left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from attnlens.errors import AttnLensError
from attnlens.evaluate._records import Records

ROOT = Path(__file__).parents[2]
SETTINGS = {"model": "pocket/llava", "seeds": [0, 10], "version": 1}

WORKER = """
import sys, time
from attnlens.evaluate._records import Records
total, path = int(sys.argv[1]), sys.argv[2]
with Records(path, {"run": 1}) as records:
    for number in range(total):
        key = ("question", str(number))
        if key not in records:
            records.add(key, {"number": number, "text": "x" * (number * 37 % 5000)})
            print(number, flush=True)
            time.sleep(0.0005)
"""


def lines(path):
    return path.read_bytes().split(b"\n")


def said(line):
    """What a line says, once its checksum is seen to be that of the rest."""
    content = json.loads(line)
    checksum = content.pop("crc32")
    assert int(checksum, 16) == zlib.crc32(json.dumps(content).encode())
    return content


def legacy(path, *records, settings=SETTINGS):
    """A file as attnlens 0.1.0 wrote it."""
    content = [{"settings": settings}, *({"key": key, "data": data} for key, data in records)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in content))
    return path


def test_records_are_there_again_when_the_file_is_opened_again(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    with Records(path, SETTINGS) as records:
        records.add(("a", "1"), {"answer": "é\n5", "ratio": 0.1 + 0.2, "box": (1, 2)})
        records.add(("a", "2"), None)
        assert ("a", "1") in records
        assert ("a", "3") not in records
        before = records.all()
    with Records(path, SETTINGS) as records:
        assert (
            records.all()
            == before
            == {
                ("a", "1"): {"answer": "é\n5", "ratio": 0.1 + 0.2, "box": [1, 2]},
                ("a", "2"): None,
            }
        )
        assert list(records.all()) == [("a", "1"), ("a", "2")]
        assert len(records) == 2
        assert records.get(("a", "1"))["box"] == [1, 2]
        assert records.get(("b",)) is None
        records.add(("b",), 3)
    assert [said(line) for line in lines(path)[:-1]][2:] == [
        {"key": ["a", "2"], "data": None},
        {"key": ["b"], "data": 3},
    ]


def test_a_record_is_in_the_file_as_soon_as_it_is_added(tmp_path):
    with Records(tmp_path / "r.jsonl", SETTINGS) as records:
        records.add(("a",), 1)
        assert said(lines(tmp_path / "r.jsonl")[1]) == {"key": ["a"], "data": 1}


def test_wherever_a_file_is_torn_whole_records_are_kept_and_the_rest_is_done_again(tmp_path):
    path = tmp_path / "r.jsonl"
    with Records(path, SETTINGS) as records:
        for number in range(3):
            records.add((str(number),), {"number": number})
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        with Records(path, SETTINGS) as records:
            kept = whole[:end].count(b"\n") - 1  # without the settings
            assert len(records) == max(0, kept)
            for number in range(3):
                if (str(number),) not in records:
                    records.add((str(number),), {"number": number})
        assert path.read_bytes() == whole


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize(("kills", "total"), [(4, 400), pytest.param(20, 2000, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_loses_no_record_and_writes_none_twice(tmp_path, kills, total):
    path = tmp_path / "r.jsonl"
    command = [sys.executable, "-c", WORKER, str(total), str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    chance = random.Random(5)
    told: list[int] = []  # what the workers said they had written
    for _ in range(kills):
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as worker:
            told.append(int(worker.stdout.readline()))
            time.sleep(chance.uniform(0, 0.03))
            worker.kill()
            told.extend(int(line) for line in worker.stdout.read().splitlines(keepends=True) if line.endswith("\n"))
        assert worker.returncode == -signal.SIGKILL
        there = {json.loads(line)["data"]["number"] for line in lines(path)[1:-1]}
        assert set(told) <= there
        assert len(there) < total
    last = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    told.extend(map(int, last.stdout.split()))
    assert len(set(told)) == len(told)
    assert [json.loads(line)["data"]["number"] for line in lines(path)[1:-1]] == list(range(total))
    with Records(path, {"run": 1}) as records:
        assert all(data["text"] == "x" * (data["number"] * 37 % 5000) for data in records.all().values())


def test_another_run_at_the_same_time_is_refused(tmp_path):
    pytest.importorskip("fcntl")
    with Records(tmp_path / "r.jsonl", SETTINGS) as records:
        with pytest.raises(AttnLensError, match="Another run"):
            Records(tmp_path / "r.jsonl", SETTINGS)
        records.add(("a",), 1)
    with Records(tmp_path / "r.jsonl", SETTINGS) as records:
        assert len(records) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (SETTINGS | {"model": "mine"}, 'model: "pocket/llava" there, "mine" now'),
        (SETTINGS | {"seeds": (0, 20)}, "seeds: [0, 10] there, [0, 20] now"),
        (SETTINGS | {"quick": True}, "quick: not set there, true now"),
        ({"model": "pocket/llava", "seeds": [0, 10]}, "version: 1 there, not set now"),
    ],
)
def test_other_settings_are_refused_by_name_and_leave_the_file(tmp_path, changed, words):
    path = tmp_path / "r.jsonl"
    with Records(path, SETTINGS) as records:
        records.add(("a",), 1)
    before = path.read_bytes()
    with pytest.raises(AttnLensError, match="another folder, or delete") as caught:
        Records(path, changed)
    assert words in str(caught.value)
    assert path.read_bytes() == before


def test_settings_in_another_order_and_with_tuples_are_the_same(tmp_path):
    Records(tmp_path / "r.jsonl", {"a": {"x": 1, "y": 2}, "b": (1, 2)}).close()
    Records(tmp_path / "r.jsonl", {"b": [1, 2], "a": {"y": 2, "x": 1}}).close()


@pytest.mark.parametrize(
    "damaged", [b"{broken", b"[1, 2]", b'{"key": [1], "data": 2}', b'{"key": ["a"]}', b"", b"\xff\xfe\x00"]
)
def test_a_damaged_line_is_named_and_the_file_is_left(tmp_path, damaged):
    path = tmp_path / "r.jsonl"
    with Records(path, SETTINGS) as records:
        for number in range(3):
            records.add((str(number),), number)
    content = lines(path)
    content[2] = damaged
    path.write_bytes(b"\n".join(content))
    before = path.read_bytes()
    with pytest.raises(AttnLensError, match="Line 3"):
        Records(path, SETTINGS)
    assert path.read_bytes() == before


def test_a_second_record_of_a_key_is_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    with Records(path, SETTINGS) as records:
        records.add(("a", "b"), 1)
        with pytest.raises(AttnLensError, match="already"):
            records.add(("a", "b"), 2)
        assert records.all() == {("a", "b"): 1}
    path.write_bytes(path.read_bytes() + b'{"key": ["a", "b"], "data": 2}\n')
    with pytest.raises(AttnLensError, match="Line 3 .* second record"):
        Records(path, SETTINGS)


def flips(whole, bits):
    """`whole` with one of its bytes changed: those bits of each byte, and each byte to a line end of either kind."""
    for place, byte in enumerate(whole):
        for other in {*(byte ^ 1 << bit for bit in bits), *b"\n\r"} - {byte}:
            yield whole[:place] + bytes([other]) + whole[place + 1 :]


@pytest.mark.parametrize("bits", [(5,), pytest.param(range(8), marks=pytest.mark.slow)], ids=["one", "all"])
def test_every_changed_byte_is_named_and_the_file_is_left(tmp_path, bits):
    path = tmp_path / "r.jsonl"
    with Records(path, SETTINGS) as records:
        records.add(("answer", "é/1"), {"right": True, "boxes": [[1, 2.5, 3, 4]], "holds": None, "text": ' "x": 1}'})
        records.add(("answer", "é/2"), {"right": False, "boxes": []})
    whole = path.read_bytes()
    found = list(flips(whole, bits))
    assert len(found) > (len(bits) + 1) * len(whole)
    for damaged in found:
        path.write_bytes(damaged)
        with pytest.raises(AttnLensError, match=r"r\.jsonl"):
            Records(path, SETTINGS).close()
        assert path.read_bytes() == damaged


def test_a_file_without_checksums_is_read_counted_and_gone_on_with(tmp_path):
    path = legacy(tmp_path / "r.jsonl", (("a",), 1), (("b",), {"x": [1.5, None]}))
    before = path.read_bytes()
    with Records(path, SETTINGS) as records:
        assert records.unchecked == 2
        records.add(("c",), 3)
        after = path.read_bytes()
    assert after.startswith(before)
    assert said(after[len(before) :]) == {"key": ["c"], "data": 3}
    with Records(path, SETTINGS) as records:
        assert records.all() == {("a",): 1, ("b",): {"x": [1.5, None]}, ("c",): 3}
        assert records.unchecked == 2
    for damaged in flips(after[len(before) :], (0,)):
        path.write_bytes(before + damaged)
        with pytest.raises(AttnLensError, match="Line [45] "):
            Records(path, SETTINGS).close()


def test_a_line_without_a_checksum_in_a_file_with_them_is_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    Records(path, SETTINGS).close()
    path.write_bytes(path.read_bytes() + b'{"key": ["a"], "data": 1}\n')
    with pytest.raises(AttnLensError, match="Line 2 .*checksum"):
        Records(path, SETTINGS)


def test_a_record_of_another_shape_is_named_with_its_line_and_what_is_wrong(tmp_path):
    path = tmp_path / "r.jsonl"
    with Records(path, SETTINGS) as records:
        records.add(("a",), 1)
        records.add(("b",), "two")

    def numbers_only(key, data):
        return None if isinstance(data, int) else f"{data!r} is no number"

    with pytest.raises(AttnLensError, match=r"Line 3 .*\('b',\).*'two' is no number.*Delete that line"):
        Records(path, SETTINGS, numbers_only)


@pytest.mark.parametrize("content", [b"a letter to a friend", b"two\nlines\n", b'{"no": "settings"}\n', b"[]\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(AttnLensError, match="no file of records"):
        Records(path, SETTINGS)
    assert path.read_bytes() == content


@pytest.mark.parametrize("key", ["a", ("a", 1), ["a"], None])
def test_a_key_that_is_no_tuple_of_strings_is_refused(tmp_path, key):
    with Records(tmp_path / "r.jsonl", SETTINGS) as records:
        with pytest.raises(AttnLensError, match="tuple of strings"):
            records.add(key, 1)
        assert len(records) == 0


@pytest.mark.parametrize("data", [np.float32(1), float("nan"), {"image": object()}])
def test_data_that_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path, data):
    with Records(tmp_path / "r.jsonl", SETTINGS) as records:
        with pytest.raises(AttnLensError, match=r"\('a',\).*JSON"):
            records.add(("a",), data)
        assert ("a",) not in records
    assert len(lines(tmp_path / "r.jsonl")) == 2


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AttnLensError, match="Choose a folder"):
        Records(tmp_path / "file" / "r.jsonl", SETTINGS)
    with pytest.raises(AttnLensError, match="Choose a folder"):
        Records(tmp_path, SETTINGS)


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "r.jsonl"
    # A process may not write files of more than 200 bytes: what a full disk looks like to it.
    code = (
        "import resource, signal, sys\n"
        "from attnlens.errors import AttnLensError\n"
        "from attnlens.evaluate._records import Records\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "records = Records(sys.argv[1], {})\n"
        "records.add(('a',), 1)\n"
        "try:\n    records.add(('b',), 'x' * 500)\n"
        "except AttnLensError as error:\n    print(error, ('b',) in records)\n"
        "records.add(('c',), 2)\n"
    )
    assert resource
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert "Make room" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("False")
    with Records(path, {}) as records:
        assert records.all() == {("a",): 1, ("c",): 2}
