"""Claims about changed defaults: only they change, whatever the file looks like, and no file is lost on the way."""

import os
from pathlib import Path

import pytest

from attnlens import adapters
from attnlens.adapters._library import schema_path
from attnlens.adapters._writing import write_defaults
from attnlens.errors import AttnLensError

HEAD = "# ours\nmodel_types: [mine]   # one\ngrid: {kind: square}\n"
BEST = {"layer": 2, "layers": 4}

FORMS = {
    "block": "defaults:\n  layer: 14   # old\n  layers: 32\n  window: 336   # kept\n",
    "block, other order": "defaults:\n  window: 336   # kept\n  layers: 32\n  layer: mean\n",
    "block, before another key": "defaults:\n    window: 336   # kept\n    layer: mean\nprompt:\n  template: chat\n",
    "block, commented and spaced": "defaults:\n\n  # a comment\n  layer: 14\n\n  window: 336   # kept\n\n",
    "flow": "defaults: {layer: 14, window: 336}   # old\nprompt: {template: chat}   # kept\n",
    "flow over lines": "defaults: {\n  layer: 14,\n  window: 336\n}\nprompt: {template: chat}   # kept\n",
    "flow below": "defaults:\n  {layer: 14, window: 336}\nprompt: {template: chat}   # kept\n",
    "no end of line": "defaults:\n  window: 336",
    "empty": "defaults: {}\n",
    "quoted": 'defaults:\n  "layer": "mean"\n  window: 336   # kept\n',
    "none": "",
    "windows line ends": "defaults:\r\n  layer: 14\r\n  window: 336   # kept\r\n",
}


def written(folder: Path, text: str, name: str = "theirs.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("form", FORMS)
def test_the_defaults_change_and_nothing_else_does(form, tmp_path):
    source = written(tmp_path, HEAD + FORMS[form])
    before = adapters.find(source)
    found = write_defaults(source, tmp_path / "mine.yaml", BEST, "measured on\n40 examples")
    after = adapters.find(tmp_path / "mine.yaml")
    assert after == found
    assert (after.defaults.layer, after.defaults.layers) == (2, 4)
    assert after.defaults.window == before.defaults.window == (336 if "336" in FORMS[form] else None)
    unchanged = {"defaults", "name"}
    assert after.model_dump(exclude=unchanged) == before.model_dump(exclude=unchanged)
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith(HEAD)
    assert ("# kept" in text) == ("# kept" in FORMS[form])
    assert "layer: 2    # measured on 40 examples\n" in text
    assert "old" not in text


@pytest.mark.parametrize("name", ["llava", "instructblip", "qwen2_5_vl"])
def test_every_line_of_a_bundled_adapter_but_those_of_the_defaults_stays(name, tmp_path):
    values = {"layer": 2, "layers": 4, "connector_layer": 1}
    write_defaults(name, tmp_path / "mine.yaml", values, "measured")
    first, *source = adapters.available()[name].read_text().splitlines()
    assert first == "# yaml-language-server: $schema=schema.json"  # true beside the schema only
    expected = [line for line in source if line.split(":")[0].strip() not in values]
    expected.append(f"# yaml-language-server: $schema={schema_path()}")
    added = ["  layer: 2    # measured", "  layers: 4", "  connector_layer: 1"]
    assert sorted((tmp_path / "mine.yaml").read_text().splitlines()) == sorted([*expected, *added])


def test_an_adapter_without_a_file_is_written_whole(tmp_path):
    spec = adapters.find("instructblip")
    write_defaults(spec, tmp_path / "mine.yaml", {"layer": "mean"}, "measured")
    after = adapters.find(tmp_path / "mine.yaml")
    expected = spec.defaults.model_copy(update={"layer": "mean"})
    assert after == spec.model_copy(update={"name": "mine", "defaults": expected})


def test_an_existing_file_is_only_overwritten_by_force_and_may_be_the_source(tmp_path):
    source = written(tmp_path, HEAD)
    with pytest.raises(AttnLensError, match="--force"):
        write_defaults(source, source, BEST, "measured")
    assert source.read_text() == HEAD
    write_defaults(source, source, BEST, "measured", force=True)
    assert adapters.find(source).defaults.layer == 2
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.yaml"]


def test_folders_are_made(tmp_path):
    write_defaults("llava", tmp_path / "a" / "b" / "mine.yaml", BEST, "measured")
    assert adapters.find(tmp_path / "a" / "b" / "mine.yaml").defaults.layers == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [("mine.json", "ends in .yaml"), ("folder.yaml", "it is a folder"), ("file/mine.yaml", "cannot be made")],
)
def test_a_place_that_cannot_be_written_is_refused(name, message, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(AttnLensError, match=message):
        write_defaults("llava", tmp_path / name, BEST, "measured", force=True)


def test_what_goes_wrong_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    source = written(tmp_path, HEAD)

    def full(self, text, **_):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(AttnLensError, match="No space left"):
        write_defaults(source, source, BEST, "measured", force=True)
    assert source.read_text() == HEAD
    assert os.listdir(tmp_path) == ["theirs.yaml"]


def test_a_file_that_is_no_plain_lines_is_refused_and_not_written_wrongly(tmp_path):
    source = written(tmp_path, "{model_types: [mine], grid: {kind: square}, defaults: {layer: 3}, image_token_id: 7}")
    with pytest.raises(AttnLensError, match="as plain lines"):
        write_defaults(source, tmp_path / "mine.yaml", BEST, "measured")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.yaml"]


def test_a_value_that_no_adapter_may_have_is_refused(tmp_path):
    with pytest.raises(AttnLensError, match="'layers': 0"):
        write_defaults("llava", tmp_path / "mine.yaml", {"layers": 0}, "measured")
    assert not (tmp_path / "mine.yaml").exists()
