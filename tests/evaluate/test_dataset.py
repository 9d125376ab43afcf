"""Claims about data sets: what is written is read back, bad entries are named, the benchmark is fixed and its splits
share nothing."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnlens.errors import AttnLensError
from attnlens.evaluate import Example, _dataset
from attnlens.geometry import Box
from attnlens.pocket import scenes

ROOT = Path(__file__).parents[2]


def entry(**changes):
    """A valid entry of a file, with those fields changed; `...` leaves one out."""
    fields = {"id": "a", "question": "What?", "labels": ["5"], "image_path": "a.png", "bbox": [1, 2, 30, 40]}
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def file_of(folder, *entries):
    path = folder / "data.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def an_image(path, size=(100, 50)):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return image


def test_an_entry_in_the_published_form_is_read(tmp_path):
    an_image(tmp_path / "images" / "a.png")
    (example,) = _dataset.read(file_of(tmp_path, entry(image_path="images/a.png", group="small", task="read")))
    path = str(tmp_path / "images" / "a.png")
    assert example == Example("a", "What?", ("5",), path, Box(1, 2, 30, 40), "small", "read")
    assert example.open().size == example.size() == (100, 50)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"labels": "red"}, "labels", ("red",)),
        ({"labels": [5, "five"]}, "labels", ("5", "five")),
        ({"id": 17}, "id", "17"),
        ({"bbox": [[1, 2, 3.5, 4]]}, "box", Box(1, 2, 3.5, 4)),
        ({"bbox": ..., "box": [1, 2, 3, 4]}, "box", Box(1, 2, 3, 4)),
        ({"bbox": ...}, "box", None),
        ({"bbox": None}, "box", None),
        ({"question": "Größe?", "ocr": ["x"]}, "question", "Größe?"),
    ],
)
def test_variants_of_an_entry_are_read(tmp_path, changes, field, value):
    (example,) = _dataset.read(file_of(tmp_path, entry(**changes)))
    assert getattr(example, field) == value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": ...}, ["question", "missing", "'image_path'"]),
        ({"question": ["x"]}, ["question", "['x']", "string"]),
        ({"question": "  "}, ["question", "'  '", "at least 1"]),
        ({"labels": []}, ["labels", "[]", "at least 1"]),
        ({"labels": [["5"]]}, ["labels.0", "['5']", "string"]),
        ({"labels": [""]}, ["labels.0", "at least 1"]),
        ({"id": None}, ["id", "None", "string"]),
        ({"bbox": [1, 2, 3]}, ["bbox", "[1, 2, 3]", "at least 4"]),
        ({"bbox": [1, 2, 3, 4, 5]}, ["bbox", "at most 4"]),
        ({"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}, ["bbox.1", "[5, 6, 7, 8]", "number"]),
        ({"bbox": [1, 2, "3", 4]}, ["bbox.2", "'3'", "number"]),
        ({"bbox": [1, 2, float("nan"), 4]}, ["bbox.2", "nan", "finite"]),
        ({"bbox": [30, 2, 10, 4]}, ["bbox", "x1 < x2", "width"]),
        ({"image_path": "scene:test/small"}, ["image_path", "scene:SPLIT/BIN/TASK/SEED"]),
    ],
)
def test_a_bad_field_is_named_with_file_entry_and_what_was_seen(tmp_path, changes, said):
    path = file_of(tmp_path, entry(id="good"), entry(**changes))
    with pytest.raises(AttnLensError) as caught:
        _dataset.read(path)
    for words in [str(path), "entry 1", *said]:
        assert words in str(caught.value)
    assert "entry 0" not in str(caught.value)


def test_every_bad_entry_is_in_the_one_message_up_to_a_number(tmp_path):
    path = file_of(tmp_path, entry(), entry(id="b", labels=[]), 7, entry(id="c", bbox=[1]), entry())
    with pytest.raises(AttnLensError) as caught:
        _dataset.read(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for line, words in zip(lines[1:], ["entry 1 (id 'b')", "entry 2:", "entry 3 (id 'c')", "entry 4"], strict=True):
        assert words in line
    assert "the same as of entry 0" in lines[4]
    with pytest.raises(AttnLensError, match="and 15 more"):
        _dataset.read(file_of(tmp_path, *[entry(id=str(number), labels=[]) for number in range(25)]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{]", "not JSON"),
        ('{"id": 1}', "one dict"),
        ("[]", "empty list"),
        ('{"id": 1}\n{"id": 2}', "line 2"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, said):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(AttnLensError, match="expected|Expected") as caught:
        _dataset.read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(AttnLensError, match="No such file"):
        _dataset.read(tmp_path / "none.json")
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(AttnLensError, match="not JSON"):
        _dataset.read(tmp_path / "picture.json")


def test_a_missing_image_is_told_when_it_is_opened(tmp_path):
    (example,) = _dataset.read(file_of(tmp_path, entry()))
    with pytest.raises(AttnLensError, match="'a'") as caught:
        example.open()
    assert str(tmp_path / "a.png") in str(caught.value)
    assert "folder of the JSON file" in str(caught.value)


def test_a_box_outside_the_image_is_told_with_both_sizes(tmp_path):
    an_image(tmp_path / "a.png", (100, 50))
    (example,) = _dataset.read(file_of(tmp_path, entry(bbox=[120, 10, 140, 20])))
    with pytest.raises(AttnLensError, match="100 x 50") as caught:
        example.open()
    assert "120" in str(caught.value)
    assert "'a'" in str(caught.value)


def test_written_examples_are_read_back_the_same_and_can_move_with_their_images(tmp_path):
    picture = an_image(tmp_path / "one" / "images" / "a.png")
    elsewhere = tmp_path / "elsewhere.png"
    an_image(elsewhere)
    examples = [
        Example("a", 'Says "ö"?', ("5", "five"), str(tmp_path / "one" / "images" / "a.png"), Box(1, 2, 3.5, 40)),
        Example("b", "What?", ("x",), str(elsewhere), None, "small", "read"),
        *_dataset.pocket_examples("test", ["small"], ["exists"], 4),
    ]
    _dataset.write(tmp_path / "one" / "data.json", examples)
    assert _dataset.read(tmp_path / "one" / "data.json") == examples
    (tmp_path / "one").rename(tmp_path / "two")
    moved = _dataset.read(tmp_path / "two" / "data.json")
    assert moved[0].open().tobytes() == picture.tobytes()
    assert moved[1:] == examples[1:]


def test_the_file_has_the_published_fields_and_no_empty_ones(tmp_path):
    example = _dataset.pocket_examples("test", ["small"], ["read"], 1)[0]
    _dataset.write(tmp_path / "data.json", [example, replace(example, id="x", box=None, group=None, task=None)])
    first, second = json.loads((tmp_path / "data.json").read_text())
    scene = scenes.scene_in_bin(0, "small", split="test", task="read")
    assert first == {
        "id": "test/small/read/0",
        "question": scene.question,
        "labels": list(scene.labels),
        "image_path": "scene:test/small/read/0",
        "bbox": list(scene.box),
        "group": "small",
        "task": "read",
    }
    assert set(second) == {"id", "question", "labels", "image_path"}


def test_exported_images_have_the_pixels_of_the_scenes(tmp_path):
    examples = [
        *_dataset.pocket_examples("test", ["small", "large"], ["read", "exists"], 2),
        replace(_dataset.pocket_examples("test", ["small"], ["read"], 1)[0], id="test-small-read-0"),
    ]
    written = _dataset.export(tmp_path / "out" / "data.json", examples)
    found = _dataset.read(tmp_path / "out" / "data.json")
    assert found == written
    assert [replace(one, image_path="") for one in found] == [replace(one, image_path="") for one in examples]
    assert len({one.image_path for one in found}) == len(examples)
    for one, example in zip(found, examples, strict=True):
        assert Path(one.image_path).parent == tmp_path / "out" / "images"
        assert np.array_equal(np.asarray(Image.open(one.image_path)), np.asarray(example.open()))


@pytest.mark.skipif(os.name == "nt", reason="a folder cannot be made read-only")
def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    example = _dataset.pocket_examples("test", ["small"], ["read"], 1)[0]
    (tmp_path / "file").write_text("")
    for refused in (_dataset.write, _dataset.export):
        with pytest.raises(AttnLensError, match="cannot be made"):
            refused(tmp_path / "file" / "data.json", [example])
        with pytest.raises(AttnLensError, match="is a folder"):
            refused(tmp_path, [example])


def test_pocket_examples_are_the_scenes_of_their_ids():
    examples = _dataset.pocket_examples("validation", ["small", "high"], ["read", "left"], 2)
    assert [example.id for example in examples] == [
        f"validation/{name}/{task}/{seed}" for name in ("small", "high") for task in ("read", "left") for seed in (0, 1)
    ]
    for example in examples:
        _, name, task, seed = example.id.split("/")
        scene = scenes.scene_in_bin(int(seed), name, split="validation", task=task)
        assert (example.question, example.labels, example.box) == (scene.question, scene.labels, scene.box)
        assert (example.group, example.task) == (name, task)
        assert example.size() == scene.size
    first = examples[0]
    assert first.open().tobytes() == scenes.scene_in_bin(0, "small", split="validation", task="read").image.tobytes()


def test_no_image_is_painted_before_an_example_is_opened(monkeypatch):
    def painted(*_):
        raise RuntimeError("painted")

    monkeypatch.setattr(scenes._scenery, "render", painted)
    example = _dataset.pocket_examples("test", ["high"], ["read"], 1)[0]
    assert example.size()[0] > 256
    with pytest.raises(RuntimeError, match="painted"):
        example.open()


def test_an_example_that_is_not_of_its_scene_is_refused():
    example = _dataset.pocket_examples("test", ["small"], ["read"], 1)[0]
    for changed in (
        replace(example, question="Why?"),
        replace(example, box=Box(0, 0, 5, 5)),
        replace(example, box=None),
    ):
        with pytest.raises(AttnLensError, match="data make"):
            changed.open()
    assert replace(example, labels=("other",)).open().size == example.size()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("exam", ["small"], ["read"], 1), "split must be"),
        (("test", ["tiny"], ["read"], 1), "bin must be"),
        (("test", ["small"], ["count"], 1), "task must be"),
        (("test", ["small"], ["read"], 0), "at least 1"),
    ],
)
def test_a_benchmark_that_there_is_not_is_refused(arguments, said):
    with pytest.raises(AttnLensError, match=said):
        _dataset.pocket_examples(*arguments)


def test_examples_without_a_box_are_left_out_and_a_set_of_them_is_refused():
    plain, boxed = Example("a", "?", ("x",), "a.png"), Example("b", "?", ("x",), "a.png", Box(0, 0, 1, 1))
    assert _dataset.with_boxes([plain, boxed], "the attention ratio") == [boxed]
    with pytest.raises(AttnLensError, match="the attention ratio needs boxes") as caught:
        _dataset.with_boxes([plain, plain], "the attention ratio")
    assert '"bbox": [x1, y1, x2, y2]' in str(caught.value)


def test_splits_share_no_random_stream_and_training_validation_and_the_rest_no_background():
    made = {
        split: [
            scenes.scene_in_bin(seed, name, split=split, task=task)
            for seed in range(25)
            for name in scenes.BINS
            for task in scenes.TASKS
        ]
        for split in scenes.SPLITS
    }
    streams = {split: {scene.stream for scene in found} for split, found in made.items()}
    textures, regions = {}, {}
    for split, found in made.items():
        kinds = [scene.background for scene in found]
        textures[split] = {(one.kind, *one.variant) for one in kinds if one.kind in scenes._scenery.TEXTURES}
        regions[split] = {
            kind: [one.variant for one in kinds if one.kind == kind] for kind in scenes._scenery.PHOTOGRAPHS
        }
    for one, other in itertools.combinations(scenes.SPLITS, 2):
        assert len(streams[one]) == 25 * len(scenes.BINS) * len(scenes.TASKS)
        assert not streams[one] & streams[other]
    for one, other in itertools.combinations(scenes.SPLITS, 2):
        if one not in ("train", "validation"):
            continue
        assert len(textures[one]) > 20
        assert not textures[one] & textures[other]
        for kind in scenes._scenery.PHOTOGRAPHS:
            assert max(x2 for _, _, x2, _ in regions[one][kind]) <= min(x1 for x1, _, _, _ in regions[other][kind])
    # The same place in the benchmark, in all splits: not one layout, not one picture twice.
    for same in zip(*made.values(), strict=True):
        assert len({(scene.size, scene.signs, scene.background) for scene in same}) == len(scenes.SPLITS)
    painted = [found[seed] for found in made.values() for seed in (0, 30)]
    assert len({scene.image.tobytes() for scene in painted}) == len(painted)


def digest() -> str:
    """Of pixels, questions, labels and boxes of a few examples of each split."""
    total = hashlib.sha256()
    for split in scenes.SPLITS:
        for name in ("small", "large"):
            for example in _dataset.pocket_examples(split, [name], scenes.TASKS, 1):
                image = example.open()
                total.update(repr((example, image.size)).encode())
                total.update(image.tobytes())
    return total.hexdigest()


def test_the_benchmark_is_the_same_in_two_processes():
    code = "from tests.evaluate.test_dataset import digest; print(digest())"
    # A salt of its own for hash(): nothing may hang on the order of a set.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == digest(), done.stderr


@pytest.mark.parametrize("module", ["dataset", "scoring", "records"])
def test_data_and_numbers_need_no_torch(module):
    code = f"import sys, attnlens.evaluate._{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
