"""Claims about what an adapter may say, and about the sentences that a wrong one gets."""

import types

import pytest

from attnlens.adapters import AdapterSpec, find
from attnlens.adapters._strict import FromConfig, resolve
from attnlens.errors import AttnLensError

BASE = "model_types: [my_model]\n"
SQUARE = BASE + "grid: {kind: square}\n"
KINDS = ["square", "thw", "sizes", "rows", "unpadded", "shapes", "positions", "latents", "cross", "tiles", "anyres"]
KINDS += ["slices", "local_global", "crops"]


def refusal(tmp_path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(AttnLensError) as raised:
        find(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


WRONG = {
    "a misspelt key": (SQUARE + "promt: {template: chat}", "promt: unknown key. Did you mean 'prompt'?"),
    "a misspelt key inside": (
        BASE + "grid: {kind: thw, merge: 2, merg: 2}",
        "grid.merg: unknown key. Did you mean 'merge'?",
    ),
    "a key of another kind of grid": (BASE + "grid: {kind: square, queries: 32}", "grid.queries: unknown key."),
    "latents that lead nowhere": (BASE + "grid: {kind: latents}", "name the connector's attention"),
    "two ways of merging": (BASE + "grid: {kind: square, tokens: 256, merge: 2}", "leave merge out"),
    "an unknown kind": (BASE + "grid: {kind: squre}", f"expected kind: {', '.join(map(repr, KINDS))}."),
    "no kind": (BASE + "grid: {merge: 2}", "expected a mapping with the key 'kind'"),
    "a number for a mapping": (BASE + "grid: 3", "grid: found 3, expected a mapping"),
    "no grid": (BASE, "grid: missing"),
    "no model types": ("grid: {kind: square}", "model_types: missing"),
    "empty model types": ("model_types: []\ngrid: {kind: square}", "model_types"),
    "text for a list": ("model_types: llava\ngrid: {kind: square}", "model_types: found 'llava', expected a list"),
    "text for a number": (
        BASE + "grid: {kind: thw, merge: two}",
        "grid.merge: found 'two', expected an integer or {config: dotted.path}.",
    ),
    "an expression": (BASE + "grid: {kind: thw, merge: {config: 'a.b * 2'}}", "grid.merge.config: found 'a.b * 2'"),
    "a dunder call": (BASE + "grid: {kind: thw, merge: {config: 'a.b()'}}", "grid.merge.config: found 'a.b()'"),
    "a misspelt config": (BASE + "grid: {kind: thw, merge: {confg: a}}", "Did you mean 'config'?"),
    "a template without a question": (SQUARE + "prompt: {template: hello}", "needs {question}"),
    "an unknown layer": (SQUARE + "defaults: {layer: middle}", "found 'middle', expected an integer or 'mean'"),
    "a negative window": (SQUARE + "defaults: {window: -3}", "defaults.window: found -3, expected a number greater"),
    "an unknown level": (SQUARE + "language_model: {level: midle}", "expected 'outer' or 'inner'"),
    "a number in a list of texts": (SQUARE + "prompt: {per_image: [1]}", "prompt.per_image.0: found 1, expected text"),
    "a key that is a number": (SQUARE + "1: 3", "1: found 1, expected a key that is text"),
    "null for a mapping": (SQUARE + "prompt: null", "prompt: found None, expected a mapping"),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_key_or_value_is_named_with_its_place_and_what_was_expected(case, tmp_path):
    text, expected = WRONG[case]
    assert expected in refusal(tmp_path, text)


def test_several_problems_are_told_together(tmp_path):
    message = refusal(tmp_path, BASE + "grid: {kind: squre}\npromt: 1\ndefaults: {window: 0}")
    assert all(key in message for key in ("grid:", "promt:", "defaults.window:"))


def test_an_unknown_key_lists_the_allowed_ones_without_the_name_that_the_library_fills_in(tmp_path):
    message = refusal(tmp_path, SQUARE + "xyz: 1")
    assert "Allowed: " in message
    assert "model_types" in message
    assert " name" not in message


def test_a_dotted_path_is_resolved_in_the_config():
    config = types.SimpleNamespace(vision_config=types.SimpleNamespace(patch_size=14))
    assert resolve(FromConfig(config="vision_config.patch_size"), config) == 14
    assert resolve(3, config) == 3


def test_a_dotted_path_that_is_not_there_is_named():
    with pytest.raises(AttnLensError, match="vision_config.patch_siz"):
        resolve(FromConfig(config="vision_config.patch_siz"), types.SimpleNamespace(vision_config=object()))


def test_a_spec_cannot_be_changed():
    spec = AdapterSpec.from_mapping({"model_types": ["x"], "grid": {"kind": "square"}})
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"
