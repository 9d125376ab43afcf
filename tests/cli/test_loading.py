"""How commands load a model: the options of from_pretrained, LoRA folders, and what is said of the default model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from attnlens.cli import app
from attnlens.cli._options import load_options
from attnlens.errors import AttnLensError
from tests import tiny

LOADING = [["ask"], ["look"], ["layers"], ["reproduce"], ["adapters", "check"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return tiny.save("llava", tmp_path_factory.mktemp("model"), layers=1)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: Any) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    tiny.images("square", 1)[0].save(path)
    return str(path)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", LOADING, ids=" ".join)
def test_every_command_that_loads_takes_the_options_of_loading(command: list[str]) -> None:
    shown = run(*command, "--help").output
    for option in ("--device-map", "--revision", "--load-option", "--allow-missing"):
        assert option in shown


def test_a_load_option_is_json_or_text() -> None:
    given = ["a=1", "b=true", "c=eager", 'd={"x": [1.5, null]}', "e=None", "f=x=y", "g="]
    expected = {"a": 1, "b": True, "c": "eager", "d": {"x": [1.5, None]}, "e": None, "f": "x=y", "g": ""}
    assert load_options(None, None, given, False) == expected
    assert load_options('{"": "cpu"}', "1", None, True) == {
        "device_map": {"": "cpu"},
        "revision": "1",
        "allow_missing_weights": True,
    }


@pytest.mark.parametrize("text", ["", "a", "=1", "a b=1", "dtype=float16", "revision=v1", "model=x", "processor=x"])
def test_a_load_option_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(AttnLensError, match="--load-option"):
        load_options(None, None, [text], False)


def test_load_options_reach_transformers(folder: Path, photo: str) -> None:
    said = run("ask", photo, "what?", "--model", str(folder), "--load-option", "nonsense=1")
    assert said.exit_code == 2
    assert "nonsense" in said.output
    good = ("--load-option", "attn_implementation=eager", "--device-map", '{"": "cpu"}', "--revision", "main")
    assert run("look", photo, "what?", "--model", str(folder), "--save", str(folder / "x.png"), *good).exit_code == 0


def test_missing_weights_are_refused_unless_the_command_says_so(folder: Path, photo: str) -> None:
    path = folder / "model.safetensors"
    whole = load_file(path)
    try:
        save_file({key: value for key, value in whole.items() if "q_proj" not in key}, path, {"format": "pt"})
        said = run("ask", photo, "what?", "--model", str(folder))
        assert (said.exit_code, "q_proj" in said.output) == (2, True)
        assert run("ask", photo, "what?", "--model", str(folder), "--allow-missing-weights").exit_code == 0
    finally:
        save_file(whole, path, {"format": "pt"})


def test_a_lora_folder_is_a_model_on_the_command_line(folder: Path, photo: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForImageTextToText

    lora = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(folder), lora).save_pretrained(tmp_path)
    told = run("ask", photo, "what?", "--model", str(tmp_path), "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["model"] == str(tmp_path)


def test_the_default_model_is_said_to_know_signs_alone_once_and_only_where_no_model_was_named(photo: str) -> None:
    told = run("ask", photo, "what is it?", "--recipe", "none", "--json")
    assert told.stderr.count("knows coloured signs") == 1
    assert "--model" in told.stderr
    json.loads(told.stdout)
    named = run("ask", photo, "what is it?", "--recipe", "none", "--json", "--model", "pocket/llava")
    assert "knows coloured signs" not in named.stderr
