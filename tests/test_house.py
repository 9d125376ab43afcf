"""Claims about the pages that lead through the code: the road of an image, the drawing, the glossary, the outside."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

import attnlens
from attnlens import _renamed
from attnlens.pocket import scenes

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attnlens"
HOUSE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def test_the_way_of_an_image_is_the_one_that_an_ask_takes():
    """Each file of the page is entered by a call, in the order of the page."""
    section = HOUSE.partition("## The way of an image through the code")[2].partition("\n## ")[0]
    road = re.findall(r"^\d+\. `([\w/]+\.py)`", section, flags=re.MULTILINE)
    assert 5 <= len(road) <= 10
    lens, scene = attnlens.load("pocket/llava"), scenes.scene(seed=5, target_area=0.004)
    entered: list[str] = []

    def enter(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            entered.append(path.relative_to(PACKAGE).as_posix())

    sys.setprofile(enter)
    try:
        attnlens.ask(lens, scene.image, scene.question, recipe="rel-att")
    finally:
        sys.setprofile(None)
    left = iter(entered)
    assert [file for file in road if file not in left] == []


def files(folder: Path) -> set[str]:
    """The modules of a folder, and its rooms, which end in a slash."""
    rooms = {f"{path.name}/" for path in folder.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    return rooms | {path.name for path in folder.glob("*.py")}


def test_the_house_drawing_names_what_is_there_and_all_of_it():
    drawn = set(re.findall(r"(?<![\w/.])_?\w+(?:/|\.py)(?=[ ·\n])", HOUSE.partition("## The house")[2]))
    top = files(PACKAGE)
    lens = files(PACKAGE / "lens")
    hidden = {"__init__.py", "_renamed.py"}
    assert (top | lens) - hidden - drawn == set()
    assert {one for one in drawn if not one.startswith("families")} <= top | lens | {"tracer.py"}


def words_in_code(text: str) -> set[str]:
    return set(re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", text))


def test_what_the_glossary_names_in_code_is_there():
    doors = [
        "",
        "boxes.",
        "maps.",
        "recipes.",
        "lens.",
        "analysis.",
        "answers.",
        "evaluate.",
        "montage.",
        "lens.Reading.",
        "lens.Lens.",
    ]
    missing = set()
    for word in words_in_code(GLOSSARY):
        tries = [f"attnlens.{door}{word.removeprefix('attnlens.')}" for door in doors]
        if "." in word or word[0].isupper():
            missing |= {word} if not any(map(exists, tries)) else set()
    of_objects = {"lens.read", "reading.trace", "reading.sinks", "reading.image_trace", "cost.external"}
    assert missing <= of_objects


def exists(path: str) -> bool:
    parts = path.split(".")
    for stop in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:stop]))
        except ImportError:
            continue
        for name in parts[stop:]:
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True
    return False


def test_the_glossary_has_the_words_that_the_public_classes_are():
    """A class that a reader meets in the reference is a word of the glossary."""
    terms = {
        term.strip().lower()
        for line in re.findall(r"^(\S.*)\n: ", GLOSSARY, flags=re.MULTILINE)
        for term in line.split(",")
    }
    for name in (
        "Lens",
        "Reading",
        "Trace",
        "Region",
        "Localization",
        "Recipe",
        "Grid",
        "Layout",
        "View",
        "Stream",
        "Montage",
    ):
        assert name.lower() in terms, name
    assert "importance map" in terms


def test_no_page_says_an_old_word():
    old = {name.rpartition(".")[2] for name in ("attnlens.attribution", "attnlens.canvas")}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(rf"attnlens\.(?:{'|'.join(old)})\b", text), page.name
        assert not [name for name in _renamed.MODULES if re.search(rf"{re.escape(name)}\.\w+\(", text)], page.name


def test_the_files_that_face_the_outside_are_sound():
    for path in (ROOT / ".github").rglob("*.yml"):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path.name
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == attnlens.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{attnlens.__version__}] - {citation['date-released']}" in changelog
    for page in ("AGENTS.md", "llms.txt", "SECURITY.md", "RELEASE.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = re.findall(r"(?<![\w/])((?:docs|tests|attnlens)/[\w/.-]+\.(?:md|py))", text)
        assert [one for one in named if not (ROOT / one).exists()] == [], page
