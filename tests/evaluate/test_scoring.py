"""Claims about scores: which answers are right, and that intervals cover what they should."""

import numpy as np
import pytest

from attnlens.errors import AttnLensError
from attnlens.evaluate._scoring import Interval, bootstrap, difference, fresh, is_correct


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("5", "5"),
        (" Red\n", "red"),
        ("red.", "red"),
        ("Yes!", "yes"),
        ('"STOP"', "stop"),
        ("“stop.”", "stop"),
        ("The red  one", "red one"),
        ("photograph of astronaut", "a photograph of an astronaut"),
        ("A", "a"),
        ("A.", "A"),
        ("?", "?"),
        ("STRASSE", "straße"),
    ],
)
def test_these_are_the_same_answer(answer, label):
    assert is_correct(answer, ["other", label])
    assert is_correct(label, [answer])


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("", "5"),
        ("", "the"),
        ("", "?"),
        ("55", "5"),
        ("5", "55"),
        ("5 and 6", "5"),
        ("not red", "red"),
        ("B", "A"),
        ("the", "a"),
        ("-5", "5"),
        ("3.5", "35"),
        ("!", "?"),
    ],
)
def test_these_are_not(answer, label):
    assert not is_correct(answer, [label])
    assert not is_correct(label, [answer])


def test_an_empty_answer_and_an_answer_without_labels_are_wrong():
    assert not is_correct("", [""])
    assert not is_correct("5", [])


def test_the_interval_is_that_of_the_normal_approximation_for_many_values():
    values = np.random.default_rng(3).normal(2, 5, size=4000)
    found = bootstrap(values)
    half = 1.96 * values.std() / 4000**0.5
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=half * 0.1)
    assert found.high == pytest.approx(values.mean() + half, abs=half * 0.1)
    assert found.count == 4000


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    found = [bootstrap(rng.random(60) < 0.3, resamples=400, seed=trial) for trial in range(300)]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in found])
    assert 0.90 <= covered <= 0.99


def test_the_same_values_give_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(1).random(50)
    assert bootstrap(values) == bootstrap(list(values))
    assert bootstrap(values) != bootstrap(values, seed=1)


@pytest.mark.parametrize("values", [[0.1] * 7, [True, True], [0.3], [False]])
def test_equal_values_and_a_single_one_give_no_width(values):
    assert bootstrap(values) == Interval(float(values[0]), float(values[0]), float(values[0]), len(values))


@pytest.mark.parametrize(
    ("values", "said"),
    [([], "at least one"), ([[1, 2]], "one number"), ([1, float("nan"), 2], "first at 1"), ([float("inf")], "finite")],
)
def test_values_without_a_mean_are_refused(values, said):
    with pytest.raises(AttnLensError, match=said):
        bootstrap(values)


def test_a_paired_difference_is_surer_than_an_unpaired_one():
    rng = np.random.default_rng(2)
    hard = rng.random(400)
    before, after = (rng.random(400) * 0.05 + shift > hard for shift in (0.4, 0.5))
    found = difference(after, before)
    assert found.mean == pytest.approx(after.mean() - before.mean())
    assert found.low < found.mean < found.high
    width = found.high - found.low
    assert width == pytest.approx(2 * 1.96 * (after.astype(float) - before).std() / 20, rel=0.15)
    alone = bootstrap(after)
    assert width < 0.8 * (alone.high - alone.low) * 2**0.5


def test_a_difference_changes_its_sign_with_its_order_and_reads_in_points():
    assert difference([1, 1, 1], [0, 0, 0]) == Interval(1, 1, 1, 3)
    assert difference([0, 0, 0], [1, 1, 1]).points == Interval(-100, -100, -100, 3)


def test_a_difference_of_other_questions_is_refused():
    with pytest.raises(AttnLensError, match="3 and 2"):
        difference([1, 0, 1], [1, 0])


@pytest.mark.parametrize(("share", "count"), [(0.23, 1000), (0.8, 400), (0.99, 1000), (0.5, 100)])
def test_the_mean_of_further_questions_lies_in_the_fresh_interval_95_times_in_100(share, count):
    rng = np.random.default_rng(5)
    inside = mean_alone = 0
    for trial in range(400):
        values, further = rng.random(count) < share, (rng.random(300) < share).mean()
        found, of_mean = fresh(values, (0, 1), seed=trial), bootstrap(values, resamples=200, seed=trial)
        inside += found.low <= further <= found.high
        mean_alone += of_mean.low <= further <= of_mean.high
    assert inside / 400 > 0.92  # 0.95 less three standard errors
    assert mean_alone < inside


def test_a_paired_difference_of_further_questions_lies_in_its_fresh_interval():
    rng = np.random.default_rng(6)
    outcomes, shares = (-1, 0, 1), (0.03, 0.4, 0.57)
    inside = 0
    for trial in range(400):
        found = fresh(rng.choice(outcomes, 400, p=shares), outcomes, seed=trial)
        inside += found.low <= rng.choice(outcomes, 300, p=shares).mean() <= found.high
    assert inside / 400 > 0.92


def test_values_that_are_all_equal_have_a_fresh_interval_with_a_width():
    found = fresh([True] * 1000, (0, 1))
    assert (found.mean, found.high, found.count) == (1, 1, 1000)
    assert 0.98 < found.low < 1
    assert found == fresh([True] * 1000, (0, 1))


def test_a_value_that_is_none_of_the_outcomes_is_refused():
    with pytest.raises(AttnLensError, match="1 of 3 values are none of the outcomes"):
        fresh([0, 1, 0.5], (0, 1))
