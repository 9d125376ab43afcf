"""Claims about the commands: what they print and where, what they refuse, and how quick they are with help.

Most run with a stand-in for model and recipe; the ones at the end run tiny random models and the bundled one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import attnlens
from attnlens import Box, Grid, ImportanceMap
from attnlens.boxes import Region
from attnlens.cli import app
from attnlens.errors import AttnLensError
from attnlens.lens._cost import Cost
from attnlens.recipes import Result
from tests import tiny

ROOT = Path(__file__).parents[2]
SIZE = (400, 300)
DEMO_KEYS = {"question", "expected", "first_answer", "answer", "box", "true_box", "cost", "picture"}
COMMANDS = [
    *("", "demo", "ask", "look", "layers", "reproduce", "doctor"),
    *("adapters", "adapters list", "adapters show", "adapters schema", "adapters table", "adapters check"),
    *("adapters draft", "recipes", "recipes list", "data", "data make", "data show"),
]


def a_map(size=SIZE) -> ImportanceMap:
    values = np.zeros((3, 4), dtype=np.float32)
    values[1, 2] = 1
    return ImportanceMap(values, Grid.regular(3, 4, size))


class FakeReading:
    def trace(self, question):
        return type("Trace", (), {"layers": (0, 2)})()


class FakeLens:
    def read(self, image):
        return FakeReading()


class Calls:
    """What the commands asked for."""

    def __init__(self):
        self.load: dict = {}
        self.ask: dict = {}
        self.layers: list = []


@pytest.fixture
def calls(monkeypatch):
    calls = Calls()

    def load(name, **options):
        print("a library prints something on standard output")
        calls.load = {"name": name, **options}
        if name == "broken":
            raise AttnLensError("The model 'broken' could not be loaded.")
        return FakeLens()

    def ask(lens, images, question, recipe, **options):
        calls.ask = {"question": question, "recipe": recipe, **options}
        boxes = [] if recipe == "none" else [Box(200, 100, 300, 200.5)]
        importance = a_map(images[0].size) if recipe == "rel-att" else None
        cost = Cost(prefills=2, forwards=5, image_tokens=136, seconds=0.25)
        return Result(question, tuple(images), "8", "7", [Region(box, 1.0, True) for box in boxes], importance, cost)

    def relative_attention(reading, question, layer=None):
        calls.layers.append(layer)
        return a_map()

    monkeypatch.setattr("attnlens.lens.load", load)
    monkeypatch.setattr("attnlens.recipes.ask", ask)
    monkeypatch.setattr("attnlens.maps.relative_attention", relative_attention)
    monkeypatch.setattr("attnlens.maps.gradient_attention", lambda reading, question, layer=None: a_map())
    monkeypatch.setattr(
        "attnlens.maps.input_gradient",
        lambda reading, question: ImportanceMap(np.full((3, 4), np.nan), Grid.regular(3, 4, SIZE)),
    )
    return calls


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", SIZE, (90, 120, 90)).save(path)
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_ask_prints_question_answers_crop_and_cost(calls, photo):
    done = run("ask", photo, "What does the [red] sign say?")
    assert done.exit_code == 0, done.output
    for expected in ("What does the [red] sign say?", "7", "8", "(200, 100, 300, 200.5)", "image tokens 136", "0.25"):
        assert expected in done.stdout


def test_ask_hands_its_options_on(calls, photo):
    done = run(
        *("ask", photo, "Why?", "-m", "some/model", "--adapter", "mine.yaml", "--device", "cpu", "--dtype", "bfloat16"),
        *("--recipe", "grad-att", "--layer", "3", "--max-new-tokens", "5"),
    )
    assert done.exit_code == 0, done.output
    assert calls.load == {"name": "some/model", "adapter": "mine.yaml", "device": "cpu", "dtype": "bfloat16"}
    assert calls.ask == {"question": "Why?", "recipe": "grad-att", "layer": 3, "max_new_tokens": 5, "box": None}


def test_ask_uses_rel_att_with_the_adapter_s_layer_unless_told_otherwise(calls, photo):
    run("ask", photo, "Why?")
    assert calls.ask == {"question": "Why?", "recipe": "rel-att", "max_new_tokens": 20, "box": None}
    run("ask", photo, "Why?", "--layer", "mean")
    assert calls.ask["layer"] == "mean"


def test_a_box_means_the_recipe_human(calls, photo):
    run("ask", photo, "Why?", "--box", "10,20.5,30,40")
    assert calls.ask["recipe"] == "human"
    assert calls.ask["box"] == (10, 20.5, 30, 40)


def test_ask_json_is_one_object_and_nothing_else_on_stdout(calls, photo, tmp_path):
    done = run("ask", photo, "Why? \u2603", "--json", "--save", tmp_path / "deep" / "out.png")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "question": "Why? \u2603",
        "images": [photo],
        "first_answer": "7",
        "answer": "8",
        "boxes": [[200, 100, 300, 200.5]],
        "regions": [{"box": [200, 100, 300, 200.5], "image": 0, "score": 1.0}],
        "model": "pocket/llava",
        "recipe": "rel-att",
        "cost": {"prefills": 2, "forwards": 5, "backwards": 0, "image_tokens": 136, "external": 0, "seconds": 0.25},
        "picture": str(tmp_path / "deep" / "out.png"),
        "sure": False,
    }
    assert "a library prints something" in done.stderr
    assert Image.open(tmp_path / "deep" / "out.png").width > 1000


def test_without_a_crop_the_answer_is_said_once(calls, photo):
    done = run("ask", photo, "Why?", "--recipe", "none")
    assert "answer with the crop" not in done.stdout
    assert "none: a flat map" in done.stdout


def test_demo_json_has_the_agreed_keys_and_writes_the_picture(calls, tmp_path):
    target = tmp_path / "demo.png"
    done = run("demo", "--json", "--save", target, "--seed", 3)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert set(told) == DEMO_KEYS
    scene = attnlens.pocket.scenes.scene(seed=3, target_area=0.004)
    assert told["true_box"] == list(scene.box)
    assert told["expected"] == scene.answer
    assert Image.open(target).width > 1000


def test_demo_gives_the_true_box_to_the_recipe_human_alone(calls, tmp_path):
    run("demo", "--recipe", "human", "--save", tmp_path / "demo.png")
    assert calls.ask["box"] == attnlens.pocket.scenes.scene(seed=5, target_area=0.004).box
    run("demo", "--save", tmp_path / "demo.png")
    assert calls.ask["box"] is None


def test_demo_says_which_answer_is_right(calls, tmp_path):
    done = run("demo", "--save", tmp_path / "demo.png", "--seed", 7)
    assert "wrong" in done.stdout
    assert "demo.png" in done.stdout.replace("\n", "")


def test_look_writes_maps_and_layers_and_tells_their_peaks(calls, photo, tmp_path):
    target = tmp_path / "look.png"
    done = run("look", photo, "Why?", "--save", target)
    assert done.exit_code == 0, done.output
    assert "(200, 100, 300, 200)" in done.stdout
    assert "flat or not finite" in done.stdout
    assert calls.layers == [None, 0, 2]
    assert Image.open(target).height > 2 * 200


def test_look_json_has_values_and_peaks_with_null_for_what_is_not_finite(calls, photo, tmp_path):
    done = run("look", photo, "Why?", "--json", "--layer", 2, "--save", tmp_path / "look.png")
    told = json.loads(done.stdout)
    assert set(told) == {"question", "model", "maps", "layers", "picture"}
    assert set(told["maps"]) == {"rel-att", "grad-att", "pure-grad"}
    assert told["maps"]["rel-att"]["peak"] == [200, 100, 300, 200]
    assert np.array(told["maps"]["rel-att"]["values"]).shape == (3, 4)
    assert told["maps"]["pure-grad"] == {"peak": None, "values": [[None] * 4] * 3}
    assert told["layers"] == {"layer 0": [200, 100, 300, 200], "layer 2": [200, 100, 300, 200]}
    assert calls.layers[0] == 2


REFUSED = {
    "no such file": (["ask", "nowhere.png", "Why?"], "nowhere.png"),
    "an unknown model": (["ask", "PHOTO", "Why?", "--model", "broken"], "could not be loaded"),
    "a box of three": (["ask", "PHOTO", "Why?", "--box", "1,2,3"], "is not four numbers"),
    "a box of words": (["ask", "PHOTO", "Why?", "--box", "a,b,c,d"], "is not four numbers"),
    "no region": (["ask", "PHOTO", "Why?", "--count", "0"], "--count"),
    "no frame": (["ask", "PHOTO", "Why?", "--frames", "0"], "--frames"),
    "a gate above 1": (["ask", "PHOTO", "Why?", "--gate", "2"], "--gate"),
    "a gate that is no number": (["ask", "PHOTO", "Why?", "--gate", "nan"], "--gate"),
    "a target of no words": (["ask", "PHOTO", "Why?", "-r", "focus", "--target", " "], "--target 'red sign'"),
    "a target for a recipe without": (["ask", "PHOTO", "Why?", "--target", "dog"], "takes it: focus, zoomeye, hide."),
    "a count for a recipe without": (["ask", "PHOTO", "Why?", "-r", "zoomeye", "--count", "2"], "use for --count"),
    "a layer for a recipe without": (["ask", "PHOTO", "Why?", "-r", "focus", "--layer", "2"], "use for --layer"),
    "a recipe that is not there": (["ask", "PHOTO", "Why?", "-r", "rel-at"], "rel-att"),
    "another image that is not there": (["ask", "PHOTO", "Why?", "--also", "nowhere.png"], "nowhere.png"),
    "another image that is none": (["ask", "PHOTO", "Why?", "--also", __file__], "not an image"),
    "frames of no image": (["ask", __file__, "Why?", "--frames", "2"], "Decode a video with another library"),
    "a layer of words": (["look", "PHOTO", "Why?", "--layer", "deep"], "neither a layer's number nor 'mean'"),
    "a picture of no format": (["ask", "PHOTO", "Why?", "--save", "out.xyz"], "ends in .png"),
    "an unknown adapter to show": (["adapters", "show", "lava"], "Did you mean 'llava'"),
    "an unknown type to check": (["adapters", "check", "lava", "--tiny"], "'lava'"),
    "a model type that is no question answerer": (["adapters", "check", "bert", "--tiny"], "'bert'"),
    "nothing to check": (["adapters", "check"], "Name one MODEL to check, or give --tiny --all"),
    "a model and all models": (["adapters", "check", "llava", "--tiny", "--all"], "Name one MODEL to check"),
    "a folder that is not there to check": (["adapters", "check", "nowhere"], "could not be loaded"),
    "an adapter for another type": (["adapters", "check", "llava", "--tiny", "--adapter", "qwen_vl"], "not for the"),
    "findings that are not there": (["adapters", "table", "nowhere.json"], "cannot be read as JSON"),
    "a folder that is not there to draft from": (["adapters", "draft", "nowhere"], "could not be read"),
    "a draft to no YAML file": (["adapters", "draft", "llava", "--out", "PHOTO"], "ends in .yaml"),
}
WITHOUT_JSON = (["adapters", "show"], ["adapters", "table"], ["adapters", "draft"])


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_bad_input_is_one_message_on_stderr_and_exit_code_2(case, as_json, calls, photo):
    arguments, expected = REFUSED[case]
    if as_json and arguments[:2] not in WITHOUT_JSON:
        arguments = [*arguments, "--json"]
    done = run(*(photo if argument == "PHOTO" else argument for argument in arguments))
    assert done.exit_code == 2
    assert done.stdout == ""
    assert expected in done.stderr
    assert "Traceback" not in done.output


def test_bad_options_are_told_before_a_model_is_loaded(calls, photo):
    run("ask", photo, "Why?", "--save", "out.xyz")
    run("ask", photo, "Why?", "--box", "1")
    run("ask", "nowhere.png", "Why?")
    run("ask", photo, "Why?", "--also", "nowhere.png")
    run("ask", photo, "Why?", "--target", "dog")
    run("ask", photo, "Why?", "--recipe", "rel-at")
    assert calls.load == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = run(*command.split(), "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_the_version_is_told():
    done = run("--version")
    assert done.stdout.strip() == f"attnlens {attnlens.__version__}"


def test_names_are_printed_and_do_nothing_to_a_terminal(tmp_path, monkeypatch):
    name = "\x1b[31mred[b]"
    (tmp_path / f"{name}.yaml").write_text("model_types: [x]\ngrid: {kind: square}\n")
    monkeypatch.setenv("ATTNLENS_ADAPTERS", str(tmp_path))
    for done in (
        run("adapters", "list"),
        run("adapters", "show", name),
        run("adapters", "show", tmp_path / "no\x1b[2J.yaml"),
        run("ask", "no\x1b[2J.png", "?"),
        run("adapters", "check", name),
    ):
        assert "\x1b" not in done.stdout + done.stderr
        assert "\\x1b[" in done.stdout + done.stderr
        assert done.exit_code in (0, 2), done.exception


def test_adapters_list_names_every_adapter_and_a_broken_one_does_not_stop_it(tmp_path, monkeypatch):
    (tmp_path / "broken.yaml").write_text("model_types: [x]\n")
    monkeypatch.setenv("ATTNLENS_ADAPTERS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    done = run("adapters", "list")
    assert done.exit_code == 0, done.output
    for expected in ("llava", "instructblip", "qwen2_5_vl", "square", "not valid: attnlens adapters show broken"):
        assert expected in done.stdout


def test_adapters_show_prints_the_file_with_a_header_that_is_true_anywhere():
    first, rest = (ROOT / "adapters" / "llava.yaml").read_text().split("\n", 1)
    shown, same = run("adapters", "show", "llava").stdout.split("\n", 1)
    assert same == rest
    assert first.endswith("$schema=schema.json")
    assert Path(shown.partition("$schema=")[2]) == ROOT / "adapters" / "schema.json"


def test_adapters_show_prints_a_broken_file_and_says_what_is_wrong(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model_types: [x]\n")
    done = run("adapters", "show", path)
    assert done.exit_code == 2
    assert done.stdout == "model_types: [x]\n"
    assert "grid: missing" in done.stderr


def test_adapters_schema_prints_the_schema_that_editors_are_given():
    assert json.loads(run("adapters", "schema").stdout) == json.loads((ROOT / "adapters" / "schema.json").read_text())


def test_adapters_check_prints_each_check_and_its_json_is_what_the_table_is_made_of(tmp_path):
    done = run("adapters", "check", "llava", "--tiny")
    assert done.exit_code == 0, done.output
    for said in ("llava with the adapter llava", "rows", "places", "answer", "ok"):
        assert said in done.stdout
    assert "FAILS" not in done.stdout
    told = run("adapters", "check", "llava", "--tiny", "--json")
    assert told.exit_code == 0, told.output
    (report,) = json.loads(told.stdout)["reports"]
    assert report["passed"]
    (tmp_path / "checks.json").write_text(told.stdout)
    page = run("adapters", "table", tmp_path / "checks.json")
    assert page.exit_code == 0, page.output
    assert "1 of them answer questions, and 1 of these pass every check" in page.stdout
    assert "| `llava` | llava | square |" in page.stdout


def test_adapters_check_fails_with_exit_code_1_where_something_is_not_true(tmp_path):
    (tmp_path / "mine.yaml").write_text("model_types: [internvl]\ngrid: {kind: tiles, thumbnail: first, merge: 2}\n")
    for more in ((), ("--json",), ("--all",)):
        model = [] if "--all" in more else ["internvl"]
        done = run("adapters", "check", *model, "--tiny", "--adapter", tmp_path / "mine.yaml", *more)
        assert done.exit_code == 1, done.output
        assert "cell (0, 0)" in done.stdout
        assert "Traceback" not in done.output


def test_adapters_draft_writes_a_file_that_passes_and_leaves_one_that_is_there(tmp_path):
    path = tmp_path / "mine.yaml"
    done = run("adapters", "draft", "vipllava", "--hide", "vipllava", "--out", path)
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert run("adapters", "check", "vipllava", "--tiny", "--adapter", path).exit_code == 0
    text = path.read_text()
    again = run("adapters", "draft", "vipllava", "--out", path)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert path.read_text() == text


def test_recipes_list_says_what_each_does():
    lines = {line.split()[0]: line for line in run("recipes", "list").stdout.splitlines()}
    for name in ("none", "human", "rel-att", "focus", "zoomeye", "entropy", "hide", "laser", "loc-heads", "clip"):
        assert name in lines
    assert "yes" in lines["grad-att"].split()
    assert "2506.21710" in lines["focus"]
    told = json.loads(run("recipes", "list", "--json").stdout)["recipes"]
    assert told["entropy"]["gradient"] is True


def shell(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", "from attnlens.cli import app; app()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_help_loads_nothing_that_takes_long(tmp_path):
    code = (
        "import sys\nfrom attnlens.cli import app\napp(['--help'], standalone_mode=False)\n"
        "print('loaded', sorted({'torch', 'transformers', 'scipy', 'matplotlib', 'nnsight'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "loaded []" in done.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a tiny random model for each family."""
    return {family: tiny.save(family, tmp_path_factory.mktemp(family)) for family in tiny.FAMILIES}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_can_be_asked_and_looked_into(family, folders, tmp_path):
    photo = tmp_path / "photo.png"
    tiny.images("landscape", 1)[0].save(photo)
    asked = run("ask", photo, "what is written on the red sign?", "-m", folders[family], "--json", "-n", 3)
    assert asked.exit_code == 0, asked.output
    assert set(json.loads(asked.stdout)["cost"]) == {
        *("prefills", "forwards", "backwards", "image_tokens", "external", "seconds")
    }
    target = tmp_path / "look.png"
    looked = run("look", photo, "what is written on the red sign?", "-m", folders[family], "--json", "-o", target)
    assert looked.exit_code == 0, looked.output
    told = json.loads(looked.stdout)
    assert list(told["layers"]) == ["layer 0", "layer 1", "layer 2"]
    assert all(told["maps"][name]["peak"] for name in ("rel-att", "grad-att", "pure-grad"))
    assert target.stat().st_size > 10_000


REAL_REFUSALS = {
    "an unknown model": ["--model", "pocket/lava"],
    "an unknown recipe": ["--recipe", "rel-at"],
    "an unknown adapter": ["--adapter", "lava"],
    "an unknown layer": ["--layer", "99"],
    "a box outside": ["--box", "5000,5000,6000,6000"],
    "a recipe that wants a box": ["--recipe", "human"],
    "an unknown device": ["--device", "toaster"],
    "a device that is not there": ["--device", "cuda:77"],
    "an unknown dtype": ["--dtype", "float33"],
}


@pytest.mark.parametrize("case", REAL_REFUSALS, ids=str)
def test_what_the_model_or_the_recipe_refuses_is_a_message_and_no_traceback(case, photo, folders):
    done = run("ask", photo, "What is written on the red sign?", "-m", folders["llava"], *REAL_REFUSALS[case])
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stdout == ""
    assert len(done.stderr) > 20


def test_an_empty_question_is_refused(photo, folders):
    done = run("ask", photo, " ", "-m", folders["llava"])
    assert done.exit_code == 2, (done.output, done.exception)


def test_the_demo_shows_a_wrong_first_answer_and_a_right_one_with_the_crop(tmp_path):
    done = shell("demo", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["first_answer"] != told["expected"]
    assert told["answer"] == told["expected"]
    x1, y1, x2, y2 = told["box"]
    left, top, right, bottom = told["true_box"]
    assert x1 < right
    assert left < x2
    assert y1 < bottom
    assert top < y2
    assert told["cost"]["prefills"] == 2
    assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000


def test_asking_and_looking_work_with_the_bundled_model(tmp_path):
    scene = attnlens.pocket.scenes.scene(seed=5, target_area=0.004)
    scene.image.save(tmp_path / "scene.png")
    asked = run("ask", tmp_path / "scene.png", scene.question, "--json", "--max-new-tokens", 4)
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["answer"] == scene.answer
    looked = run("look", tmp_path / "scene.png", scene.question, "--json", "--save", tmp_path / "look.png")
    assert looked.exit_code == 0, looked.output
    told = json.loads(looked.stdout)
    assert all(map_["peak"] for map_ in told["maps"].values())
    assert len(told["layers"]) >= 2
