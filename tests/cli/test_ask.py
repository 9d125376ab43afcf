"""Claims about what `attnlens ask` looks for and in which image: real runs of the bundled model on painted scenes."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import attnlens
from attnlens.cli import _ask, app
from attnlens.pocket import scenes

SCENE = scenes.scene_in_bin(4, "small", split="validation", task="read")
"""What is written on the red sign, which the model reads with the crop and not without."""
QUESTION = SCENE.question
PAINT = (1, 2, 253)
"""A colour that no scene, map or frame of a picture has."""


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(*arguments):
    done = run("ask", *arguments, "--json", "-n", 4)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def holds(box, inner):
    return box[0] <= inner[0] and box[1] <= inner[1] and inner[2] <= box[2] and inner[3] <= box[3]


def painted(path):
    """How many pixels of a picture have the colour of the plain image."""
    return int((np.asarray(Image.open(path).convert("RGB")) == PAINT).all(axis=-1).sum())


@pytest.fixture(scope="module")
def lens():
    return attnlens.load("pocket/llava")


@pytest.fixture(scope="module")
def plain():
    return Image.new("RGB", (400, 300), PAINT)


@pytest.fixture(scope="module")
def files(tmp_path_factory, plain):
    """A plain image, a scene with a red sign, and a film of the two in which the scene comes third."""
    folder = tmp_path_factory.mktemp("images")
    plain.save(folder / "plain.png")
    SCENE.image.save(folder / "scene.png")
    film = [plain.resize(SCENE.image.size), plain.resize(SCENE.image.size, box=(0, 0, 9, 9)), SCENE.image]
    film[1].putpixel((0, 0), (0, 0, 0))  # Pillow joins frames that are alike
    film[0].save(folder / "film.png", save_all=True, append_images=film[1:])
    return folder


def test_of_several_images_the_region_lies_in_the_one_with_the_sign_and_the_picture_shows_that(files, tmp_path):
    plain, scene = files / "plain.png", files / "scene.png"
    found = told(plain, QUESTION, "--also", scene, "--save", tmp_path / "both.png")
    assert found["images"] == [str(plain), str(scene)]
    ((region),) = found["regions"]
    assert region["image"] == 1
    assert holds(region["box"], SCENE.box)
    assert region["box"] == found["boxes"][0]
    assert (found["first_answer"] == SCENE.answer, found["answer"] == SCENE.answer) == (False, True)
    assert painted(tmp_path / "both.png") == 0
    told(plain, QUESTION, "--recipe", "none", "--save", tmp_path / "plain.png")
    assert painted(tmp_path / "plain.png") > 1000


def test_images_are_asked_about_in_the_order_given(files):
    plain, scene = files / "plain.png", files / "scene.png"
    found = told(scene, QUESTION, "--also", plain, "--also", plain)
    assert found["images"] == [str(scene), str(plain), str(plain)]
    assert [region["image"] for region in found["regions"]] == [0]


def test_the_name_of_a_crop_s_image_is_printed_where_there_are_several_and_which_of_those_alike(files):
    plain, scene = files / "plain.png", files / "scene.png"
    box = f"({', '.join(map(str, told(scene, QUESTION)['boxes'][0]))})"
    words = {
        (plain, "--also", scene): f"{box} in {scene} cost",
        (scene,): f"{box} cost",
        (plain, "--also", scene, "--also", scene): f"{box} in {scene}, ",
    }
    for (image, *also), expected in words.items():
        done = run("ask", image, QUESTION, *also, "-n", 4)
        assert "".join(expected.split()) in "".join(done.stdout.split()), done.output
    assert "of 2" in " ".join(done.stdout.split())


def test_frames_are_read_as_images_each_under_the_film_s_name(files, lens):
    film = files / "film.png"
    found = told(film, QUESTION, "--frames", 3)
    assert found["images"] == [str(film)] * 3
    assert [region["image"] for region in found["regions"]] == [2]
    assert told(film, QUESTION, "--frames", 1, "--also", files / "scene.png")["images"] == [
        str(film),
        str(files / "scene.png"),
    ]
    assert len(told(film, QUESTION)["images"]) == 1


def test_count_is_how_many_regions_and_fewer_are_one_line_of_warning(files, lens):
    scene = files / "scene.png"
    found = told(scene, QUESTION, "--count", 3)
    expected = attnlens.ask(lens, scene, QUESTION, max_new_tokens=4, count=3)
    assert found["boxes"] == [list(box) for box in expected.boxes]
    assert np.allclose([region["score"] for region in found["regions"]], [one.score for one in expected.regions])
    assert len(found["regions"]) == 3
    done = run("ask", scene, QUESTION, "--recipe", "loc-heads", "--count", 5, "--json")
    assert done.exit_code == 0, done.output
    stood_out = len(json.loads(done.stdout)["regions"])
    assert f"\n5 regions were asked for, and {stood_out} stood out.\n" in f"\n{done.stderr}"


def test_a_model_as_sure_as_the_gate_makes_no_crop(files, lens):
    scene = files / "scene.png"
    first = lens.read(scene).answer(QUESTION, 4)
    sure = float(np.exp(first.log_prob / len(first.tokens)))
    through, stopped = (told(scene, QUESTION, "--gate", gate) for gate in (sure - 0.01, sure + 0.01))
    assert (through["regions"], through["answer"]) == ([], first.text)
    assert (through["sure"], stopped["sure"]) == (True, False)
    assert stopped["boxes"] == told(scene, QUESTION)["boxes"] != []
    done = run("ask", scene, QUESTION, "--gate", 0)
    assert "none: a sure first answer" in " ".join(done.stdout.split())
    assert "answer with the crop" not in done.stdout


def test_a_recipe_without_a_name_is_not_the_usual_one(files):
    refused = run("ask", files / "scene.png", QUESTION, "--recipe", "")
    assert refused.exit_code == 2
    assert "There is no recipe ''" in refused.stderr


TARGETS = {"focus": ["red sign", "cyan sign"], "hide": ["red sign", "cyan sign"], "zoomeye": ["red sign"]}


@pytest.mark.parametrize("recipe", TARGETS)
def test_targets_are_what_is_looked_for(recipe, files, lens):
    scene, question = files / "scene.png", "What does it say?"
    options = [part for target in TARGETS[recipe] for part in ("--target", target)]
    found = told(scene, question, "--recipe", recipe, *options)
    expected = attnlens.ask(lens, scene, question, recipe, max_new_tokens=4, targets=TARGETS[recipe])
    assert found["boxes"] == [list(box) for box in expected.boxes] != []
    refused = run("ask", scene, question, "--recipe", recipe)
    assert refused.exit_code == 2
    assert "names nothing to look for" in refused.stderr


def test_a_target_is_found_where_it_is(files):
    found = told(files / "scene.png", "What does it say?", "--recipe", "focus", "--target", "red sign")
    assert holds(found["boxes"][0], SCENE.box)


def test_a_box_is_in_the_first_image(files):
    found = told(files / "scene.png", QUESTION, "--also", files / "plain.png", "--box", "380,20,410,50")
    assert found["regions"] == [{"box": [380, 20, 410, 50], "image": 0, "score": 0.0}]
    refused = run("ask", files / "plain.png", QUESTION, "--also", files / "scene.png", "--box", "420,310,440,330")
    assert refused.exit_code == 2


def test_the_examples_of_the_help_use_options_that_there_are():
    examples = re.findall(r"\[bold\](attnlens ask .*)\[/\]", _ask.ask.__doc__)
    options = {part for line in examples for part in shlex.split(line) if part.startswith("--")}
    assert {"--also", "--count", "--frames", "--gate", "--target"} <= options
    assert not [option for option in options if option not in run("ask", "--help").stdout]
