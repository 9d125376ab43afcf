"""Claims about where words stand in a prompt: just what spells them, whatever a tokenizer does to case and spaces."""

from __future__ import annotations

import pytest

import attnlens
from attnlens.errors import AttnLensError
from attnlens.lens._inputs.token_positions import find_text
from tests import tiny

LOWER = ["pocket/llava", "pocket/qwen2_5_vl"]  # whose tokenizers lower the case and set every mark and digit apart


@pytest.fixture(scope="module")
def readings():
    image = tiny.images("square", 1)[0]
    own = attnlens.load(**dict(zip(("model", "processor"), tiny.build("llava"), strict=True)))  # which keeps all
    return {"tiny": own.read(image), **{name: attnlens.load(name).read(image) for name in LOWER}}


def found(reading, question, target):
    """The text of the tokens found, and how many like the last of them stand before it."""
    prompt = reading._prompt(question)
    at = find_text(prompt, reading.tokenizer, target)
    assert at == tuple(range(at[0], at[-1] + 1))
    ids = prompt.ids[0].tolist()
    return reading.tokenizer.decode([ids[one] for one in at]), ids[: at[-1]].count(ids[at[-1]])


@pytest.mark.parametrize("name", LOWER)
@pytest.mark.parametrize(
    ("question", "target", "spelled"),
    [
        ("What is written on the Pink sign?", "Pink sign", "pink sign"),
        ("What is written on the pink sign?", "PINK  Sign", "pink sign"),
        ("Is the red-sign in the image?", "red-sign", "red - sign"),
        ("Is the red - sign in the image?", "red-sign", "red - sign"),
        ("Is sign 15 in the image?", "sign 15", "sign 1 5"),
        ("Is the Red sign, or the red sign, larger?", "Red sign", "red sign"),
    ],
)
def test_words_are_found_whatever_case_and_spaces_the_tokenizer_leaves(readings, name, question, target, spelled):
    text, before = found(readings[name], question, target)
    assert text == spelled
    assert before == 0  # the first place


def test_the_same_case_comes_before_an_earlier_place_of_another(readings):
    question = "is the red sign left of the Red sign?"
    assert found(readings["tiny"], question, "Red")[0].strip() == "Red"
    assert found(readings["tiny"], question, "RED")[0].strip() == "red"


def test_a_space_between_words_is_not_left_out(readings):
    assert found(readings["tiny"], "which sign is ignored?", "SIGN")[0].strip() == "sign"
    with pytest.raises(AttnLensError, match="does not hold the target 'the sig nis'"):
        found(readings["tiny"], "what does the sign is say?", "the sig nis")


@pytest.mark.parametrize("name", LOWER)
@pytest.mark.parametrize("target", ["Walrus sign", "Walrus", "sign Walrus"])
def test_a_word_that_the_tokenizer_has_no_token_for_is_named(readings, name, target):
    with pytest.raises(AttnLensError, match="no token for 'Walrus' of the target"):
        found(readings[name], f"Where is the hippopotamus, and where the {target}?", target)
