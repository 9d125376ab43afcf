"""Claims about the documentation: its code runs, its links lead somewhere, its tables are complete."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from attnlens.adapters.explain import models_in
from attnlens.adapters.library import find
from attnlens.adapters.schema import AdapterSpec, GridSpec
from attnlens.evaluate.markdown import markdown
from attnlens.recipes import names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted paths of all keys that a YAML file may have, grids aside."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        inner = [one for one in models_in(field.annotation) if one.__name__.endswith(("Spec", "Defaults"))]
        if name not in ("grid", "name"):
            found |= keys(inner[0], f"{prefix}{name}.") if inner else {prefix + name}
    return found


def test_the_readme_s_python_runs_and_saves_the_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md", "python")
    assert len(code.strip().splitlines()) <= 8
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "out.png").stat().st_size > 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_pictures_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_is_python(page):
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


def test_the_adapter_page_lists_every_key_and_every_kind_of_grid():
    text = (ROOT / "docs" / "wrap-a-model.md").read_text(encoding="utf-8")
    table = set(re.findall(r"^\| `([\w.]+)` \|", text, flags=re.MULTILINE)) - {"kind"}
    kinds = {kind.model_fields["kind"].annotation.__args__[0] for kind in models_in(GridSpec)}
    assert table == keys(AdapterSpec) | {"grid"} | kinds


def test_the_adapter_page_starts_from_the_real_file():
    (yaml,) = [block for block in blocks(ROOT / "docs" / "wrap-a-model.md", "yaml") if "model_types" in block]
    assert yaml in (ROOT / "adapters" / "llava.yaml").read_text()
    assert find("llava").name == "llava"


def test_the_recipes_page_names_every_recipe():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert not [name for name in names() if f"`{name}`" not in text]


def test_the_report_in_the_docs_is_what_its_numbers_say():
    folder = ROOT / "docs" / "reproduce"
    numbers = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    files = sorted((folder / "pictures").glob("*.png"))
    pictures = {file.stem.replace("--", "/").replace("example-", "example "): f"pictures/{file.name}" for file in files}
    assert (folder / "report.md").read_text(encoding="utf-8") == markdown(numbers, pictures)
    assert all(claim["holds"] for claim in numbers["claims"])
