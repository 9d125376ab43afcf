"""Claims about where adapters are found, and about files that are not adapters."""

import importlib.metadata
import math
import os
import types
from pathlib import Path

import pytest

from attnlens.adapters import AdapterSpec, _library, _safeyaml, available, find, for_model_type
from attnlens.adapters._strict import FromConfig
from attnlens.errors import AttnLensError

PLAIN = "model_types: [my_model]\ngrid: {kind: square}\n"


@pytest.fixture(autouse=True)
def _only_the_bundled_library(monkeypatch, tmp_path):
    monkeypatch.delenv("ATTNLENS_ADAPTERS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())


def write(folder: Path, name: str, text: str = PLAIN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def message_of(action) -> str:
    with pytest.raises(AttnLensError) as raised:
        action()
    return str(raised.value)


def layered(types_: str, layer: int) -> str:
    return f"model_types: [{types_}]\ngrid: {{kind: square}}\ndefaults: {{layer: {layer}}}\n"


def test_bundled_names_are_found_with_their_model_types():
    for name in ("llava", "instructblip", "qwen2_5_vl"):
        assert find(name).name == name
        assert for_model_type(name) == find(name)


def test_every_bundled_adapter_is_valid():
    assert all(find(name).model_types for name in available())


def test_a_spec_is_returned_as_it_is():
    spec = AdapterSpec.from_mapping({"model_types": ["x"], "grid": {"kind": "square"}})
    assert find(spec) is spec


def test_a_path_is_read_as_text_and_as_path_and_with_a_tilde(tmp_path, monkeypatch):
    path = write(tmp_path, "mine.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(str(path)) == find(path) == find("~/mine.yaml")
    assert find(path).name == "mine"


def test_a_bare_yaml_name_is_a_path_in_the_working_folder(tmp_path, monkeypatch):
    write(tmp_path, "mine.yaml")
    monkeypatch.chdir(tmp_path)
    assert find("mine.yaml").model_types == ("my_model",)


def test_the_environment_comes_before_the_user_s_folder_which_comes_before_the_library(tmp_path, monkeypatch):
    write(tmp_path / "config" / "attnlens" / "adapters", "llava.yaml", layered("llava", 1))
    assert find("llava").defaults.layer == 1
    write(tmp_path / "first", "llava.yaml", layered("llava", 2))
    write(tmp_path / "second", "llava.yaml", layered("llava", 3))
    write(tmp_path / "second", "other.yml", layered("other", 4))
    monkeypatch.setenv("ATTNLENS_ADAPTERS", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'second'}{os.pathsep}")
    assert find("llava").defaults.layer == 2
    assert for_model_type("llava").defaults.layer == 2
    assert find("other").defaults.layer == 4
    assert available()["llava"] == tmp_path / "first" / "llava.yaml"


def test_without_xdg_config_home_the_user_s_folder_is_below_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".config" / "attnlens" / "adapters", "mine.yaml")
    assert find("mine").model_types == ("my_model",)
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative/is/ignored")
    assert "mine" in available()


def entry_points(monkeypatch, value):
    point = importlib.metadata.EntryPoint("plugin", "their_package:adapters", "attnlens.adapters")
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: value)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: (point,))


@pytest.mark.parametrize("form", ["package", "module", "str", "path", "file", "function", "function of several"])
def test_an_entry_point_may_name_a_package_a_path_or_a_function(form, tmp_path, monkeypatch):
    path = write(tmp_path / "plugin", "theirs.yaml")
    package = types.ModuleType("their_package")
    package.__path__ = [str(path.parent)]
    module = types.ModuleType("their_module")
    module.__file__ = str(path.parent / "their_module.py")
    value = {
        "package": package,
        "module": module,
        "str": str(path.parent),
        "path": path.parent,
        "file": path,
        "function": lambda: str(path.parent),
        "function of several": lambda: [path.parent],
    }[form]
    entry_points(monkeypatch, value)
    assert find("theirs").model_types == ("my_model",)


def test_entry_points_come_before_the_library_and_after_the_user_s_folder(tmp_path, monkeypatch):
    entry_points(monkeypatch, write(tmp_path / "plugin", "llava.yaml", layered("llava", 5)).parent)
    assert find("llava").defaults.layer == 5
    write(tmp_path / "config" / "attnlens" / "adapters", "llava.yaml", layered("llava", 1))
    assert find("llava").defaults.layer == 1


def test_a_broken_entry_point_is_named(monkeypatch):
    def explodes():
        raise RuntimeError("boom")

    entry_points(monkeypatch, explodes)
    text = message_of(lambda: find("llava"))
    assert "plugin" in text
    assert "RuntimeError: boom" in text


def test_an_entry_point_that_gives_no_path_is_named(monkeypatch):
    entry_points(monkeypatch, lambda: 3)
    assert "it gave" in message_of(lambda: find("llava"))


def test_an_unknown_name_lists_the_names_and_offers_the_nearest():
    text = message_of(lambda: find("lava"))
    assert "Did you mean 'llava'?" in text
    for name in ("instructblip", "llava", "qwen2_5_vl"):
        assert name in text


def test_a_model_type_given_as_a_name_leads_to_its_adapter(tmp_path, monkeypatch):
    write(tmp_path / "config" / "attnlens" / "adapters", "family.yaml", layered("some_type", 1))
    assert "the adapter 'family' handles" in message_of(lambda: find("some_type"))


def test_an_unhandled_model_type_lists_the_handled_ones():
    text = message_of(lambda: for_model_type("llava_nexxt"))
    assert "'llava_nexxt'" in text
    assert "llava" in text
    assert "attnlens adapters show" in text


def test_an_unfinished_draft_does_not_stand_in_the_way_of_other_adapters(tmp_path):
    write(tmp_path / "config" / "attnlens" / "adapters", "draft.yaml", "model_types: [draft_type]\n")
    assert for_model_type("llava").name == "llava"
    assert "grid: missing" in message_of(lambda: for_model_type("draft_type"))


def test_a_folder_in_the_environment_that_is_not_there_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNLENS_ADAPTERS", str(tmp_path / "nowhere"))
    text = message_of(lambda: find("llava"))
    assert "ATTNLENS_ADAPTERS" in text
    assert "nowhere" in text


def test_two_files_of_one_name_in_one_folder_are_reported(tmp_path, monkeypatch):
    write(tmp_path, "twin.yaml")
    write(tmp_path, "twin.yml")
    monkeypatch.setenv("ATTNLENS_ADAPTERS", str(tmp_path))
    assert "both the adapter 'twin'" in message_of(available)


def test_hidden_files_folders_and_other_files_are_left_alone(tmp_path, monkeypatch):
    write(tmp_path, ".hidden.yaml", "][")
    write(tmp_path, "notes.txt", "][")
    write(tmp_path / "deeper", "inside.yaml")
    monkeypatch.setenv("ATTNLENS_ADAPTERS", str(tmp_path))
    assert set(available()) == {"llava", "instructblip", "qwen2_5_vl"} | set(bundled_names())


def bundled_names() -> list[str]:
    return [path.stem for path in (Path(_library.__file__).parents[2] / "adapters").glob("*.yaml")]


BAD_FILES = {
    "empty": ("", "a mapping"),
    "a list": ("- model_types\n", "not list"),
    "not YAML": ("model_types: [a\ngrid: }", "not valid YAML"),
    "a tab": ("grid:\n\tkind: square", "line 2"),
    "a Python tag": ("model_types: !!python/object/apply:os.system ['true']\n", "tags"),
    "a standard tag": ("model_types: !!set {a}\n", "tags"),
    "a local tag": ("model_types: !mine [a]\n", "tags"),
    "an anchor": ("model_types: &a [x]\n", "anchors"),
    "an alias": ("model_types: &a [x]\ngrid: *a\n", "anchors"),
    "a billion laughs": (
        "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcde", "bcdef", strict=True)),
        "anchors",
    ),
    "two documents": (PLAIN + "---\n" + PLAIN, "second document"),
    "a key twice": (PLAIN + "grid: {kind: latents}\n", "'grid' stands twice"),
    "deep nesting": ("a: " + "[" * 30_000, "nested more than"),
    "too large": ("#" * 70_000, "larger than 64 kB"),
    "a bad date": ("model_types: 2001-99-99\n", "not valid YAML"),
    "a huge integer": (f"model_types: {'9' * 5000}\n", "not valid YAML"),
    "a control character": ("model_types: [\x07]\n", "not valid YAML"),
    "its own name": (PLAIN + "name: other\n", "file's stem"),
    "an integer in base sixty": ("model_types: 1" + ":59" * 4000 + "\n", "expected a list"),
    "a float in base sixty": (
        "model_types: [x]\ngrid: {kind: square}\ndefaults: {layers: 1" + ":59" * 4000 + ".5}",
        "int",
    ),
    "a private name": (PLAIN + "image_token_id: {config: __class__.__init__}\n", "text that matches"),
    "a private part": (PLAIN + "image_token_id: {config: text_config._internal}\n", "text that matches"),
    "a list as a key": ("? [a, b]\n: c\n", "not valid YAML"),
}


@pytest.mark.parametrize("case", BAD_FILES, ids=str)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(case, tmp_path):
    text, expected = BAD_FILES[case]
    path = write(tmp_path, "bad.yaml", text)
    message = message_of(lambda: find(path))
    assert str(path) in message
    assert expected in message


def test_text_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"model_types: [caf\xe9]\n")
    assert "not UTF-8" in message_of(lambda: find(path))


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert find(path).model_types == ("my_model",)


def test_a_missing_file_a_folder_a_pipe_and_a_symlink_loop_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    os.symlink(tmp_path / "loop.yaml", tmp_path / "loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "There is no file" in message_of(lambda: find(tmp_path / "none.yaml"))
    assert "not a regular file" in message_of(lambda: find(tmp_path / "pipe.yaml"))
    assert "cannot be read" in message_of(lambda: find(tmp_path / "loop.yaml"))
    assert "folder.yaml" in message_of(lambda: find(tmp_path / "folder.yaml"))


def test_a_file_that_cannot_be_read_does_not_stand_in_the_way_of_other_adapters(tmp_path, monkeypatch, caplog):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"model_types: [caf\xe9]\n")
    (tmp_path / "folder.yaml").mkdir()
    write(
        tmp_path,
        "sixty.yaml",
        "model_types: [other]\ngrid: {kind: square}\ndefaults: {window: 1" + ":59" * 4000 + ".5}\n",
    )
    write(tmp_path, "broken.yaml", "model_types: [other\n")
    monkeypatch.setenv("ATTNLENS_ADAPTERS", str(tmp_path))
    assert for_model_type("llava").name == "llava"
    assert all(name in caplog.text for name in ("pipe.yaml", "latin.yaml", "folder.yaml"))
    assert "No adapter handles" in message_of(lambda: for_model_type("unheard_of"))
    assert "broken.yaml, line 2" in message_of(lambda: for_model_type("other"))  # it may be about just that model


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"), ("190:20:30.15", "190:20:30.15"), ("010", "010"), ("0x1F", "0x1F"), ("1_000", "1_000"),
        ("17", 17), ("-3", -3), ("+4", 4), ("0", 0), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("-.inf", -math.inf),
        ("true", True), ("~", None), ("1.2.3", "1.2.3"), ("", None),
    ],
)  # fmt: skip
def test_numbers_are_those_of_json_and_yaml_1_2(tmp_path, text, value):
    path = write(tmp_path, "one.yaml", f"key: {text}\n")
    found = _safeyaml.load(path)["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("path", ["to_dict", "model_type.upper", "nothing", "text_config.nothing", "text_config"])
def test_a_path_that_leads_to_no_setting_of_the_config_is_refused(path):
    config = types.SimpleNamespace(model_type="x", to_dict=dict, text_config=types.SimpleNamespace(size=7))
    assert FromConfig(config="text_config.size").resolve(config) == 7
    assert "in the adapter's YAML" in message_of(lambda: FromConfig(config=path).resolve(config))
