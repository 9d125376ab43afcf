"""Claims about targets: which phrases of a question, or of a model's reply, are to be looked for, and where."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnlens
from attnlens.errors import AttnLensError
from attnlens.recipes._targets import (
    IN_CONTEXT,
    LEAD,
    chosen_targets,
    is_everywhere,
    one_of,
    targets_by_model,
    targets_in,
    targets_in_reply,
)

QUESTION = "What is written on the red sign?"


@pytest.fixture(scope="module")
def lens():
    return attnlens.load("pocket/llava")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (QUESTION, ["red sign"]),
        ("What is written on the red sign in the image?", ["red sign"]),
        ("Is there an orange cup or a stop sign near the man's car?", ["orange cup", "stop sign", "man's car"]),
        ("Which is larger, the cyan sign or the green sign?", ["cyan sign", "green sign"]),
        ("Which is left, the cyan sign or the Cyan sign?", ["cyan sign"]),
        ("Is the same sign left of the other one?", []),
        ("What is the colour of the bus?", ["bus"]),
        ("What is the number of the bus?", ["bus"]),
        ("Which sign is larger, the red one or the blue one?", ["red sign", "blue sign"]),
        ("Which street lamp is on, the tall one or the one near the car?", ["tall street lamp", "car"]),
        ("Which one is further left, the red sign or the blue one?", ["red sign", "blue one"]),
        ("What colour is the round one?", ["round one"]),
    ],
)
def test_phrases_after_an_article_are_targets_each_once_and_in_order(question, expected):
    if expected:
        assert targets_in(question) == expected
    else:
        with pytest.raises(AttnLensError, match=r"names nothing.*targets=\['red sign'\]"):
            targets_in(question)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How many red signs are there?", ["all red signs"]),
        ("How many people are wearing a red hat?", ["all people", "red hat"]),
        ("how many of the children can be seen", ["all children"]),
        ("Count the cars on the street.", ["all cars", "street"]),
        ("What is the total number of different cups on the table?", ["all cups", "table"]),
        ("Say the number of dogs.", ["all dogs"]),
        ("Are all of the red signs round?", ["all red signs round"]),
        ("What colour are all the signs?", ["all signs"]),
        ("Is there a sign at all on the wall?", ["sign", "wall"]),
        ("Does the overall count matter to the dog?", ["overall count matter", "dog"]),
    ],
)
def test_what_is_counted_or_listed_is_to_be_found_everywhere(question, expected):
    assert targets_in(question) == expected
    assert [is_everywhere(one) for one in expected] == [one.split()[0] == "all" for one in expected]


@pytest.mark.parametrize("question", ["", "Where are we?", "How many are there?", "What is the other one?", "Why?"])
def test_a_question_that_names_nothing_says_how_to_name_it(question):
    with pytest.raises(AttnLensError, match=r"targets=\['red sign'\]"):
        targets_in(question)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("the red sign", ["red sign"]),
        ("the red sign.", ["red sign"]),
        ("Red Sign and the dog", ["Red Sign", "dog"]),
        ("the red sign, a dog, and an owl", ["red sign", "dog", "owl"]),
        ("the red sign; the dog AND the owl!", ["red sign", "dog", "owl"]),
        ('"the red sign" and `the dog`', ["red sign", "dog"]),
        ("the dog, the Dog and the dog", ["dog"]),
        ("the dog and all dogs", ["dog", "all dogs"]),
        ("all of the red signs and All the people", ["all red signs", "all people"]),
        ("all candles on the cake. There may be many.", ["all candles on the cake"]),
        ("the hand of the man", ["hand of the man"]),
        ("the sandy andiron", ["sandy andiron"]),
        ("the sign and his dog, it, them, and what he holds", ["sign"]),
        ("the dog, the, one and both", ["dog"]),
        ("** the dog\n\nQuestion: Where is the cat?\nObjects to look at: the cat", ["dog"]),
        ("the dog that barks, the cat", ["cat"]),
    ],
)
def test_a_reply_lists_its_targets_behind_the_lead(listed, expected):
    for before in ("", "Sure, here it is.\n", "**"):
        assert targets_in_reply(f"{before}{LEAD} {listed}") == expected
    assert targets_in_reply(f"{LEAD.upper()}{listed}") == expected


NOUNS = st.lists(st.sampled_from(["red sign", "dog", "owl", "stop sign", "cup"]), min_size=1, max_size=4)


@given(NOUNS, st.sampled_from([", ", " and ", ", and ", "; "]), st.lists(st.booleans(), min_size=4, max_size=4))
def test_however_a_list_is_joined_its_targets_are_the_same(nouns, link, every):
    listed = [f"all {noun}s" if all_ else f"the {noun}" for noun, all_ in zip(nouns, every, strict=False)]
    expected = []
    for noun, all_ in zip(nouns, every, strict=False):
        target = f"all {noun}s" if all_ else noun
        if target not in expected:
            expected.append(target)
    assert targets_in_reply(f"{LEAD} {link.join(listed)}.") == expected


@pytest.mark.parametrize(
    "reply", ["", "the red sign", "3", LEAD, f"{LEAD} nothing.", f"{LEAD} it and the one", f"{LEAD}\nthe dog"]
)
def test_a_reply_without_targets_is_shown_with_what_to_do(reply):
    with pytest.raises(AttnLensError, match=rf"{re.escape(repr(reply))}.*targets=\['red sign'\]"):
        targets_in_reply(reply)


def test_the_examples_in_the_prompt_are_replies_that_can_be_read():
    replies = [line for line in IN_CONTEXT.splitlines() if line.startswith(LEAD)]
    found = [targets_in_reply(reply) for reply in replies]
    assert len(found) == 5
    assert found[1] == ["bicycle", "mailbox"]
    assert sum(is_everywhere(one) for one in found[2]) == 1


def test_the_model_is_asked_once_with_the_examples_and_the_question(lens, monkeypatch):
    asked = []
    monkeypatch.setattr(
        type(lens), "generate_text", lambda *given: asked.append(given) or f"{LEAD} all dogs and the owl"
    )
    assert targets_by_model(lens, "How many {dogs} sit by the owl?") == ["all dogs", "owl"]
    ((whom, text),) = asked
    assert whom is lens
    assert text.endswith("Question: How many {dogs} sit by the owl?\n")
    assert text.count("Question: ") == 6


def test_a_model_too_small_for_examples_is_an_error_with_its_reply(lens):
    before = lens.meter.now()
    with pytest.raises(AttnLensError, match="and replied '.*targets="):
        targets_by_model(lens, QUESTION)
    spent = lens.meter.now() - before
    assert (spent.forwards, spent.prefills) == (1, 0)


def test_targets_are_given_named_by_the_model_or_the_questions_own(lens, monkeypatch):
    monkeypatch.setattr(type(lens), "generate_text", lambda *_: f"{LEAD} the owl")
    assert chosen_targets(lens, QUESTION) == ["red sign"]
    assert chosen_targets(lens, QUESTION, "model") == ["owl"]
    assert chosen_targets(lens, QUESTION, ("all dogs", " the cat ")) == ["all dogs", "the cat"]
    assert chosen_targets(lens, QUESTION, ["Red sign", "thing", "red sign ", "RED SIGN"]) == ["Red sign", "thing"]


@pytest.mark.parametrize("given_", ["red sign", [], [""], ["dog", " "], [3], 7], ids=repr)
def test_targets_that_are_no_phrases_are_refused(lens, given_):
    with pytest.raises(AttnLensError, match=f"targets is {re.escape(repr(given_))}; expected a list of phrases"):
        chosen_targets(lens, QUESTION, given_)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("all red signs", "red sign"),
        ("all people", "person"),
        ("all firemen", "fireman"),
        ("all cherries", "cherry"),
        ("all boxes", "box"),
        ("all benches", "bench"),
        ("all glasses", "glass"),
        ("all buses", "bus"),
        ("all houses", "house"),
        ("all shoes", "shoe"),
        ("all sheep", "sheep"),
        ("all bus", "bus"),
        ("all pieces of glass", "piece of glass"),
        ("all candles on the cakes", "candle on the cakes"),
        ("red signs", "red signs"),
        ("allsorts", "allsorts"),
    ],
)
def test_of_targets_everywhere_a_single_one_is_asked_about(target, expected):
    assert one_of(target) == expected
