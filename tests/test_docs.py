"""Claims about the documentation: its code runs, its links lead somewhere, its tables are complete."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_args

import pytest
import transformers
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from attnlens.adapters import _safeyaml, available
from attnlens.adapters._explain import models_in
from attnlens.adapters._library import find
from attnlens.adapters._schema import AdapterSpec, GridSpec, Strategy, json_schema
from attnlens.conformance import CHECKS
from attnlens.conformance._types import image_text_types, question_answerers
from attnlens.evaluate._markdown import markdown
from attnlens.recipes import names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRAP = ROOT / "docs" / "wrap-a-model.md"
NEEDS_DOWNLOADS = ("PekingU/", "openai/")
KINDS = {
    kind.model_fields["kind"].annotation.__args__[0]: {
        name: field for name, field in kind.model_fields.items() if name != "kind"
    }
    for kind in models_in(GridSpec)
    if "kind" in kind.model_fields
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def rows(first: str) -> list[list[str]]:
    """The cells of that table of the page about adapters whose header starts with the column `first`."""
    text = WRAP.read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def keys(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted paths of all keys that a YAML file may have, grids aside."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = [one for one in models_in(field.annotation) if one.__name__.endswith(("Spec", "Defaults"))]
        if name not in ("grid", "name"):
            found |= keys(inner[0], f"{prefix}{name}.") if inner else {prefix + name: field}
    return found


def default(field: FieldInfo) -> object:
    """What a YAML file would have to say to say nothing new."""
    value = "needed" if field.is_required() else field.default
    return value.model_dump() if isinstance(value, BaseModel) else None if value == () else value


def said(text: str) -> object:
    return {"none": None}.get(text, yaml.safe_load(text))


def test_the_readme_s_python_runs_and_saves_the_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md", "python")
    assert len(code.strip().splitlines()) <= 8
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "out.png").stat().st_size > 10_000


CHECKED = json.loads((ROOT / "docs" / "models" / "checks.json").read_text(encoding="utf-8"))
MINOR = ".".join(CHECKED["versions"]["transformers"].split(".")[:2])


def test_the_readme_counts_the_model_types_as_the_checks_found_them():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    asked, passed = len(CHECKED["reports"]), sum(report["passed"] for report in CHECKED["reports"])
    everything = CHECKED["image_text_types"]
    assert f"transformers {MINOR} has {everything} image-text-to-text model types; {asked} of them answer" in text
    assert f"each of the {asked}, in YAML alone" in text
    assert f"{passed} of the {asked} pass every check" in text


def test_the_index_counts_the_model_types_as_the_checks_found_them():
    assert f"{len(CHECKED['reports'])} model types" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_the_changelog_counts_the_model_types_as_the_checks_found_them():
    text = " ".join((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split())
    assert f"the {len(CHECKED['reports'])} question-answering model types among transformers {MINOR}'s" in text


@pytest.mark.skipif(transformers.__version__ != CHECKED["versions"]["transformers"], reason="made with another version")
def test_the_checks_are_of_every_model_type_that_their_transformers_has():
    assert {report["model_type"] for report in CHECKED["reports"]} == set(question_answerers())
    assert CHECKED["image_text_types"] == len(image_text_types())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_pictures_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_is_python(page):
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The folder and the output of the page about adapters: all of its commands, run by bash, one after the other."""
    folder, commands = tmp_path_factory.mktemp("walk"), tmp_path_factory.mktemp("bin")
    registered = any(point.value == "attnlens.conformance.plugin" for point in entry_points(group="pytest11"))
    plugin = "" if registered else " -p attnlens.conformance.plugin"  # a checkout may be run without being installed
    for name, module in (("attnlens", "attnlens.cli"), ("pytest", f"pytest{plugin}")):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "XDG", "ATTNLENS"))}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(blocks(WRAP, "bash"))],
        cwd=folder,
        env=kept
        | {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(folder), "COLUMNS": "120"}
        | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def plain(text: str) -> str:
    """Without what differs from machine to machine: numbers, the place of the schema, and so where a line ends."""
    text = re.sub(r"\n#   ", " ", re.sub(r"\$schema=\S+", "$schema=...", text))
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.e+-]*", "0", text))


def test_the_adapter_page_shows_what_draft_writes(walk):
    (shown,) = [block for block in blocks(WRAP, "yaml") if "Drafted by" in block]
    assert plain((walk[0] / "my_model.yaml.drafted").read_text(encoding="utf-8")) == plain(shown)


def test_the_adapter_that_the_page_ends_with_says_what_the_library_s_own_says(walk):
    made, own = find(walk[0] / "my_model.yaml"), find("paligemma")
    assert (made.grid, made.prompt, made.language_model) == (own.grid, own.prompt, own.language_model)


def test_the_adapter_page_shows_what_check_prints_and_every_check_passes(walk):
    (table,) = blocks(WRAP, "text")
    assert plain(table) in plain(walk[1])
    assert "FAILS" not in walk[1]
    assert f"{len(CHECKS)} passed" in walk[1]


def test_the_adapter_page_s_schema_and_folder_are_those_that_are_used(walk):
    assert json.loads((walk[0] / "adapter.schema.json").read_text(encoding="utf-8")) == json_schema()
    assert (walk[0] / ".config" / "attnlens" / "adapters" / "my_model.yaml").read_text(encoding="utf-8") in walk[1]


def test_the_adapter_page_lists_every_key_and_what_it_is_by_default():
    table = {name.strip("`"): by_default for name, _, by_default, _ in rows("key")}
    fields = keys(AdapterSpec) | {"grid": AdapterSpec.model_fields["grid"]}
    assert set(table) == set(fields)
    stated = {
        name: text.strip("`") for name, text in table.items() if text.startswith("`") or text in ("none", "needed")
    }
    assert {name: said(text) for name, text in stated.items()} == {name: default(fields[name]) for name in stated}
    assert len(stated) > 0.7 * len(fields)


def test_the_adapter_page_lists_every_kind_of_grid_with_all_its_keys_and_what_they_are_by_default():
    general = {name: cells[1].strip("`") for first, *cells in rows("grid key") for name in re.findall(r"\w+", first)}
    listed = {}
    for kind, _, _, own in rows("`kind`"):
        parts = [part.partition(": ") for part in re.findall(r"`([^`]+)`", own)]
        listed[kind.strip("`")] = {name: said(text or general[name]) for name, _, text in parts}
    assert listed == {kind: {name: default(field) for name, field in fields.items()} for kind, fields in KINDS.items()}
    assert set(general) == {name for fields in KINDS.values() for name in fields}


def test_the_adapter_page_explains_every_check_and_every_strategy():
    assert [row[0].strip("`") for row in rows("check")] == [*CHECKS, "build"]
    assert {row[0].strip("`") for row in rows("`strategy`")} == set(get_args(Strategy))


def test_the_adapter_page_starts_by_hand_from_the_real_file():
    (text,) = [block for block in blocks(WRAP, "yaml") if "[llava]" in block]
    assert text in (ROOT / "adapters" / "llava.yaml").read_text(encoding="utf-8")
    assert find("llava").name == "llava"


def test_the_bundled_schema_is_current_and_every_bundled_adapter_names_it():
    schema = ROOT / "adapters" / "schema.json"
    assert schema.read_text(encoding="utf-8") == json.dumps(json_schema(), indent=2) + "\n"
    for path in (ROOT / "adapters").glob("*.yaml"):
        header = path.read_text(encoding="utf-8").splitlines()[0]
        assert header == f"# yaml-language-server: $schema={schema.name}", path.name
    assert "schema" not in available()


def test_every_bundled_adapter_is_valid_under_the_schema():
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json_schema())
    for path in (ROOT / "adapters").glob("*.yaml"):
        assert not [f"{path.name}: {error.message}" for error in validator.iter_errors(_safeyaml.load(path))]
    assert not validator.is_valid({"model_types": ["llava"], "grid": {"kind": "square", "blocks": True}})


def test_the_recipes_page_names_every_recipe():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert not [name for name in names() if f"`{name}`" not in text]


def test_the_recipes_page_s_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(ROOT / "docs" / "recipes.md", "python"):
        if not any(name in code for name in NEEDS_DOWNLOADS):
            exec(compile(code, "recipes.md", "exec"), names)  # one goes on from the other, as on the page
    assert (tmp_path / "out.png").exists()


def test_the_report_in_the_docs_is_what_its_numbers_say():
    folder = ROOT / "docs" / "reproduce"
    numbers = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    files = sorted((folder / "pictures").glob("*.png"))
    pictures = {file.stem.replace("--", "/").replace("example-", "example "): f"pictures/{file.name}" for file in files}
    assert (folder / "report.md").read_text(encoding="utf-8") == markdown(numbers, pictures)
    # Nothing that was measured fails to hold; FOCUS's values have no place in InstructBLIP, so that it cannot look.
    assert not [one for one in numbers["claims"] if one["holds"] is False]
    held = [one["model"] for one in numbers["claims"] if one["holds"]]
    assert {model: held.count(model) for model in numbers["models"]} == {
        "pocket/instructblip": 6,
        "pocket/llava": 8,
        "pocket/qwen2_5_vl": 8,
    }
    assert {facts["split"] for facts in numbers["models"].values()} == {"report"}
