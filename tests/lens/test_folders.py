"""A model's folder may come from anybody: it is loaded, or refused in one sentence, in bounded time and memory.

What a folder's code would do is never done: weights that are a pickle are not run, whatever their name.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlens
from attnlens.errors import AttnLensError
from tests import tiny

SECONDS = 60  # of work: loading such a folder takes one
MEGABYTES = 700  # beyond what the process has held so far


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> Path:
    return tiny.save("llava", tmp_path_factory.mktemp("whole"), layers=1)


def tried(folder: Path) -> AttnLensError | None:
    """What is said about a folder; None where it is loaded and looked into. All else fails the test."""
    began, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        attnlens.load(folder).read(tiny.images("square", 1)[0]).trace("what is it?")
        said = None
    except AttnLensError as error:
        said = error
    assert time.process_time() - began < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024 < MEGABYTES
    return said


def processor_of(folder: Path, **changes: Any) -> None:
    config_of(folder, "processor_config.json", **changes)


def config_of(folder: Path, file: str = "config.json", **changes: Any) -> None:
    path = folder / file
    config = json.loads(path.read_text())
    for dotted, value in changes.items():
        *parents, name = dotted.split("__")
        part = config
        for one in parents:
            part = part[one]
        part[name] = value
    path.write_text(json.dumps(config))


class Code:
    """Pickled: a program that leaves a file behind where it is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Code(folder / "mark")))


def pickled_as_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Code(folder / "mark")))


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(50 << 30)


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "a million layers": lambda folder: config_of(folder, text_config__num_hidden_layers=1_000_000),
    "fifty million words": lambda folder: config_of(folder, text_config__vocab_size=50_000_000),
    "no heads": lambda folder: config_of(folder, text_config__num_attention_heads=0),
    "layers as text": lambda folder: config_of(folder, text_config__num_hidden_layers="three"),
    "an image token that is a list": lambda folder: config_of(folder, image_token_index=[1]),
    "no patches": lambda folder: config_of(folder, vision_config__patch_size=0),
    "a part that is none": lambda folder: config_of(folder, text_config=None),
    "images of a terapixel": lambda folder: processor_of(folder, image_processor__size={"shortest_edge": 1_000_000}),
    "crops of a terapixel": lambda folder: processor_of(
        folder, image_processor__crop_size={"height": 1_000_000, "width": 1_000_000}
    ),
    "a billion tokens": lambda folder: processor_of(folder, num_additional_image_tokens=1_000_000_000),
    "brackets in brackets": lambda folder: (folder / "config.json").write_text("[" * 200_000 + "]" * 200_000),
    "a processor in brackets": lambda folder: (folder / "processor_config.json").write_text("[" * 200_000),
    "a tokenizer in brackets": lambda folder: (folder / "tokenizer.json").write_text("[" * 200_000),
    "a config that is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "a processor that is a list": lambda folder: (folder / "processor_config.json").write_text("[]"),
    "fifty gigabytes of config": lambda folder: sparse(folder / "config.json"),
    "fifty gigabytes of template": lambda folder: sparse(folder / "chat_template.jinja"),
    "weights that are a program": pickled,
    "weights that are a program under another name": pickled_as_safetensors,
    "half of the weights": lambda folder: cut(folder / "model.safetensors", 0.5),
    "weights in a circle": lambda folder: endless(folder / "model.safetensors"),
    "a config in a circle": lambda folder: endless(folder / "config.json"),
    "a config that is a pipe": lambda folder: piped(folder / "config.json"),
    "a template that does not end": lambda folder: (folder / "chat_template.jinja").write_text(
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
    ),
    "a program for a config": lambda folder: config_of(
        folder, auto_map={"AutoConfig": "code.Config"}, model_type="new"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_sentence(whole: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    HOSTILE[name](folder)
    said = tried(folder)
    assert said is not None
    assert "\n" not in str(said)
    assert not (folder / "mark").exists()


def test_a_folder_that_holds_itself_is_loaded(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / "again").symlink_to(folder)
    assert tried(folder) is None


VALUES = st.one_of(
    st.sampled_from([0, -1, 1, 2, 10**6, 10**9, 2**63, 1e308, "", "x", None, [], {}, [[]], True, False]),
    st.integers(-(2**70), 2**70),
    st.text(max_size=8),
    st.floats(),
)
JSON_FILES = ("config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (mapping, key) in a document."""
    if not isinstance(value, dict):
        return []
    return [(value, key) for key in sorted(value)] + [found for one in value.values() for found in places(one)]


def mutate(folder: Path, data: st.DataObject) -> str:
    kind = data.draw(st.sampled_from(["value", "value", "value", "cut", "bytes", "gone", "template", "text"]))
    files = sorted(path.name for path in folder.iterdir())
    name = data.draw(st.sampled_from([one for one in JSON_FILES if one in files] if kind == "value" else files))
    path = folder / name
    if kind == "value":
        document = json.loads(path.read_text())
        part, key = data.draw(st.sampled_from(places(document)))
        part[key] = data.draw(VALUES)
        path.write_text(json.dumps(document))
    elif kind == "cut":
        cut(path, data.draw(st.floats(0, 1)))
    elif kind == "bytes":
        held = bytearray(path.read_bytes())
        for _ in range(8):
            if held:
                held[data.draw(st.integers(0, min(len(held), 4000) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(held)
    elif kind == "gone":
        path.unlink()
    elif kind == "template":
        (folder / "chat_template.jinja").write_text(data.draw(st.text(alphabet="{}%() abforin'*9|", max_size=40)))
    else:
        path.write_text(data.draw(st.sampled_from(["", "[]", "{}", "null", "7", '"x"', "[" * 100_000, "\0" * 100])))
    return f"{kind} {name}"


def fuzzed(whole: Path, folder: Path, data: st.DataObject) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    mutate(folder, data)
    tried(folder)


@settings(max_examples=6, derandomize=True)
@given(data=st.data())
def test_a_damaged_folder_is_loaded_or_refused(whole: Path, tmp_path_factory: Any, data: st.DataObject) -> None:
    fuzzed(whole, tmp_path_factory.mktemp("few") / "model", data)


@pytest.mark.slow
@settings(max_examples=150)
@given(data=st.data())
def test_any_of_150_damaged_folders_is_loaded_or_refused(
    whole: Path, tmp_path_factory: Any, data: st.DataObject
) -> None:
    fuzzed(whole, tmp_path_factory.getbasetemp() / "fuzzed", data)
