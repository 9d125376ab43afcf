"""Claims about the words of 0.1.0: a script written for it runs, and every old word says the new one."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import attnlens
from attnlens import _renamed, adapters, recipes
from attnlens.pocket import scenes

ROOT = Path(__file__).parents[1]

README = """\
import attnlens

lens = attnlens.load("pocket/llava")                    # or a folder, or a Hugging Face id
scene = attnlens.pocket.scenes.scene(seed=5, target_area=0.004)

result = attnlens.ask(lens, scene.image, scene.question, recipe="rel-att")
print(result.first_answer, "->", result.answer, result.boxes)
result.save("out.png")                                  # the picture above
"""
SCRIPT = """\
import attnlens
from attnlens.attribution import attention_ratios, rank
from attnlens.boxes.search import Found, search
from attnlens.maps.attention import relative_attention
from attnlens.recipes.look import Look

lens = attnlens.load("pocket/llava")
scene = attnlens.pocket.scenes.sized(1, "small")
reading = lens.read(scene.image)
importance = relative_attention(reading, scene.question, lens.structure.layers[-1])
found = search(importance, window=lens.spec.defaults.window or 336)
assert isinstance(found[0], Found) and reading.lens is lens
assert lens.layer(2) == 2 and lens.connector_layer.__name__
pasted = attnlens.canvas.compacted(scene.image, [found[0].box])
assert attnlens.canvas.outlined(pasted, []).size == pasted.size
found[0].box.holds(found[0].box)

def look(reading, question, **options):
    return Look(found=found, importance=importance)

result = attnlens.ask(lens, scene.image, scene.question, recipe=attnlens.Recipe(look=look))
assert result.found == found and result.sure is False
assert attnlens.recipes.named("rel-att").seen(reading, scene.question).found
preset = attnlens.boxes.tree.Preset(100, bias=0.2, start=0.9, floor=0.1, falls=(0.1,), least=0.5)
assert (preset.start, preset.floor, preset.falls, preset.least) == (0.9, 0.1, (0.1,), 0.5)
focus = attnlens.boxes.focus.Preset((0, 2), keep=0.7, apart=50)
assert (focus.keep, focus.apart) == (0.7, 50)
assert attnlens.boxes.tree.gathered([], (10, 10), 5) == []
assert attnlens.answers.append_canvas(reading, [], scene.question).text
examples = attnlens.evaluate.pocket("validation", ["small"], ["read"], 1)
assert attnlens.evaluate.right("Red.", ["red"]) and attention_ratios(reading, scene.question, scene.box).shape[0] == 1
assert rank(lens, examples).holds.shape[0] == 1
assert attnlens.croppers.ranked and attnlens.croppers.Regions and attnlens.recipes.focus.look
print("done")
"""
WORDS = [  # what each warning of the script above has to say
    "attnlens.analysis", "attnlens.montage", "boxes.Region", "recipes.Localization", "scenes.scene_in_bin",
    "Lens.adapter", "Lens.layer_index", "Lens.connector_layer_index", "montage.compact", "montage.outline",
    "Box.covers", "locate=", "regions=", "Result.regions", "Result.skipped_crop", "recipes.find", "Recipe.localize",
    "Localization.regions", "threshold=", "min_threshold=", "decay=", "min_confidence=", "merge_distance=",
    "tree.merge_near", "answers.append_montage", "evaluate.pocket_examples", "evaluate.is_correct", "Ranking.covered",
    "croppers.rank_regions", "croppers.Proposer", "focus.locate", "attnlens.recipes.focus",
]  # fmt: skip


def run(script: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_readme_of_0_1_0_still_runs_without_a_warning(tmp_path):
    done = run(README, tmp_path, "-W", "error::DeprecationWarning:__main__")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").exists()


def test_a_script_for_0_1_0_runs_and_is_told_every_new_word(tmp_path):
    done = run(SCRIPT, tmp_path, "-W", "always::DeprecationWarning")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    told = re.findall(r"DeprecationWarning: (.*) is now (.*); the old word goes with attnlens 0.3.0", done.stderr)
    assert [word for word in WORDS if not any(word in new for _, new in told)] == []


def test_a_warning_points_at_the_line_that_says_the_old_word(tmp_path):
    done = run(SCRIPT, tmp_path, "-W", "always::DeprecationWarning")
    places = re.findall(r"^(\S+):\d+: DeprecationWarning", done.stderr, flags=re.MULTILINE)
    assert places
    assert set(places) == {"<string>"}


def test_nothing_in_the_package_says_an_old_word():
    found = pkgutil.walk_packages(attnlens.__path__, "attnlens.")
    ours = "import warnings; warnings.filterwarnings('error', '.*the old word goes with attnlens'); "
    done = run(ours + "; ".join(f"import {one.name}" for one in found if not one.name.endswith("__main__")), ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(_renamed.MODULES))
def test_a_module_of_0_1_0_hands_out_what_its_room_has(name):
    room = importlib.import_module(_renamed.MODULES[name])
    own = [word for word, value in vars(room).items() if getattr(value, "__module__", "") == room.__name__]
    word = next(word for word in getattr(room, "__all__", own) if not word.startswith("_"))
    with pytest.warns(DeprecationWarning, match=re.escape(_renamed.MODULES[name])):
        assert getattr(importlib.import_module(name), word) is getattr(room, word)
    with pytest.raises(AttributeError):
        getattr(importlib.import_module(name), "nothing_of_that_name")  # noqa: B009 - it is a name, whatever it is


def test_files_may_say_old_words(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("map: {name: relative-attention}\nanswer: append-canvas\n")
    with pytest.warns(FutureWarning, match="append-canvas is now append-montage"):
        assert recipes.find(recipe).answer is attnlens.answers.append_montage
    facts = {"model_types": ["x"], "grid": {"kind": "square", "patch": 14}}
    with pytest.warns(FutureWarning, match="prompt.marked is now prompt.image_mask"):
        assert adapters.AdapterSpec.from_mapping(facts | {"prompt": {"marked": "mask"}}).prompt.image_mask == "mask"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapters.AdapterSpec.from_mapping(facts | {"prompt": {"image_mask": "mask"}})


def test_an_argument_by_both_words_is_refused():
    preset = functools.partial(attnlens.boxes.tree.Preset, 100, bias=0.2, start=0.9, threshold=0.5)
    with pytest.warns(DeprecationWarning, match="threshold="), pytest.raises(TypeError, match="start"):
        preset()


def test_what_is_kept_is_typed_as_absent():
    """A type checker does not know the old words: each stands under `if not TYPE_CHECKING`."""
    assert scenes.__all__ == ["Scene", "scene", "scene_in_bin"]
