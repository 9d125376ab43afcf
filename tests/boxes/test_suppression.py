"""Claims about boxes that show the same thing: which of them is kept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlens._checks import is_number
from attnlens.boxes import Region
from attnlens.boxes._suppression import best_first
from attnlens.geometry import Box

FOUND = st.builds(
    Region,
    st.sampled_from([Box(0, 0, 1, 1), Box(0, 0, 2, 1), Box(0, 0, 1, 3)]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 1),
)


@given(st.lists(FOUND, max_size=8))
def test_each_box_of_an_image_comes_once_at_its_best_and_the_best_first(found):
    expected = []
    for confident in (True, False):
        for score in (1.0, 0.5, 0.0):
            for one in found:
                taken = any((one.box, one.image) == (other.box, other.image) for other in expected)
                if (one.confident, one.score) == (confident, score) and not taken:
                    expected.append(one)
    assert best_first(found) == expected


@pytest.mark.parametrize("value", [True, None, "1", math.nan, math.inf, 1j, [1]], ids=repr)
def test_what_cannot_be_reckoned_with_is_no_number(value):
    assert not is_number(value)
    assert is_number(1)
    assert is_number(-0.5)
