"""Intervals against published values, brute force and simulation."""
import itertools

import numpy as np
import pytest

from easylm_imitation.report import statistics
from easylm_imitation.report.statistics import GapClosed, Paired, sign_test, wilson


@pytest.mark.parametrize(("successes", "items", "low", "high"), [
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_wilson_gives_the_published_intervals(successes, items, low, high):
    made = wilson(successes, items)
    assert (round(made.low, 4), round(made.high, 4)) == (low, high)
    assert made.value == successes / items
    assert made.items == items


@pytest.mark.parametrize("items", [1, 7, 300])
def test_wilson_at_the_edges_stays_inside_and_mirrors(items):
    nothing, everything = wilson(0, items), wilson(items, items)
    assert nothing.low == 0.0
    assert everything.high == 1.0
    assert nothing.high == pytest.approx(1 - everything.low)
    assert 0 < nothing.high < 1


def test_wilson_refuses_no_items():
    with pytest.raises(ValueError, match="0 items"):
        wilson(0, 0)


def test_mean_of_shares_uses_wilson_and_of_grades_the_bootstrap():
    assert Paired([[np.array([1.0, 0.0, 1.0])]]).mean(0) == wilson(2, 3)
    grades = Paired([[np.array([0.25, 0.5, 0.75] * 20)]]).mean(0)
    spread = 1.96 * np.std([0.25, 0.5, 0.75]) / np.sqrt(60)
    assert grades.value == 0.5
    assert (grades.low, grades.high) == pytest.approx((0.5 - spread, 0.5 + spread), abs=0.01)


def test_resampling_by_counts_is_resampling_of_items():
    """The multinomial shortcut against every possible resample of four graded items (4**4), enumerated."""
    scores = np.array([[0.2, 0.5], [0.2, 0.5], [0.7, 0.1], [0.9, 1.3]])
    drawn = statistics._resampled(scores, all_or_nothing=False)
    exact = np.array([scores[list(pick)].mean(axis=0) for pick in itertools.product(range(4), repeat=4)])
    assert drawn.mean(axis=0) == pytest.approx(exact.mean(axis=0), abs=0.01)
    assert np.cov(drawn.T) == pytest.approx(np.cov(exact.T, bias=True), abs=0.003)
    assert set(drawn[:, 0].round(6)) <= set(exact[:, 0].round(6))


def test_a_contrast_is_the_sum_of_differences():
    rng = np.random.default_rng(0)
    paired = Paired([[(rng.random(200) < share).astype(float)] for share in (0.3, 0.5, 0.9)])
    both = paired.contrast({0: -1.0, 1: 0.5, 2: 0.5})
    assert both.value == pytest.approx((paired.difference(1, 0).value + paired.difference(2, 0).value) / 2)
    assert both.low < both.value < both.high
    one, plain = paired.contrast({1: 1.0, 0: -1.0}), paired.difference(1, 0)
    assert (one.value, one.low, one.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_tasks_count_alike_however_many_items_they_have():
    small, large = np.array([1.0, 0.0]), np.zeros(200)
    paired = Paired([[small, large], [large[:2], large]])
    assert paired.mean(0).value == 0.25
    assert paired.difference(0, 1).value == 0.25
    assert paired.items == 202


def test_models_that_agree_on_few_items_are_not_exactly_equal():
    few, many = np.ones(5), np.ones(500)
    assert Paired([[few], [few]]).difference(0, 1).high > 0.05
    assert Paired([[many], [many]]).difference(0, 1).high < 0.02


def test_gap_closed_follows_its_definition_and_its_pairs():
    base, teacher = np.array([0.0] * 50 + [1.0] * 50), np.ones(100)
    half = np.array([0.0] * 25 + [1.0] * 75)
    made = Paired([[base], [half], [teacher]]).gap_closed(0, 1, 2)
    assert made.status == "measured"
    assert made.value == 0.5
    assert 0.3 < made.low < 0.5 < made.high < 0.7
    shuffled = Paired([[base], [half[::-1]], [teacher]]).gap_closed(0, 1, 2)     # the same means, other pairs
    assert shuffled.high - shuffled.low > 1.2 * (made.high - made.low)
    worse = Paired([[base], [np.zeros(100)], [teacher]]).gap_closed(0, 1, 2)
    assert worse.value == -1.0
    assert worse.high < 0


@pytest.mark.parametrize("teacher", [np.array([0.0, 1.0] * 20), np.array([0.0, 1.0] * 19 + [1.0, 1.0]),
                                     np.array([0.0, 0.0] * 20)])
def test_no_gap_where_the_teacher_is_not_measurably_better(teacher):
    base, imitation = np.array([0.0, 1.0] * 20), np.ones(40)
    assert Paired([[base], [imitation], [teacher]]).gap_closed(0, 1, 2) == GapClosed("no gap", items=40)


def test_draws_without_a_gap_count_as_extreme():
    """Of the draws of a barely measurable gap a few have none; they stand above all others, as the gain is positive."""
    base, teacher = np.zeros(200), np.zeros(200)
    teacher[:10], base[10:12] = 1.0, 1.0
    imitation = np.ones(200)
    paired = Paired([[base], [imitation], [teacher]])
    made = paired.gap_closed(0, 1, 2)
    drawn = paired._drawn[:, 0, :]
    gaps = drawn[:, 2] - drawn[:, 0]
    assert made.status == "measured"
    assert 10 < (gaps <= 1e-12).sum() < 100
    shares = sorted((drawn[i, 1] - drawn[i, 0]) / gaps[i] if gaps[i] > 1e-12 else np.inf
                    for i in range(len(gaps)))
    assert made.high == pytest.approx(shares[int(np.ceil(0.975 * (len(shares) - 1)))])
    assert made.low == pytest.approx(shares[int(0.025 * (len(shares) - 1))])


def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch):
    """200 simulated studies: base 0.5, imitation 0.6, teacher 0.95, correlated through the base's items."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    rng = np.random.default_rng(1)
    held = {"gap": 0, "change": 0, "mean": 0}
    for _ in range(200):
        base = (rng.random(120) < 0.5).astype(float)
        imitation = np.where(rng.random(120) < 0.8, base, rng.random(120) < 1.0)
        teacher = (rng.random(120) < 0.95).astype(float)
        paired = Paired([[base], [imitation.astype(float)], [teacher]])
        gap, change, mean = paired.gap_closed(0, 1, 2), paired.difference(1, 0), paired.mean(0)
        held["gap"] += gap.low <= 0.1 / 0.45 <= gap.high
        held["change"] += change.low <= 0.1 <= change.high
        held["mean"] += mean.low <= 0.5 <= mean.high
    assert all(182 <= count <= 199 for count in held.values()), held


def test_sign_test_is_the_exact_binomial():
    first, second = np.array([1.0] * 6 + [0.0] + [1.0] * 10), np.array([0.0] * 6 + [1.0] + [1.0] * 10)
    assert sign_test(first, second) == pytest.approx(2 * (1 + 7) / 2**7)
    assert sign_test(first, first) == 1.0


def test_the_same_results_give_the_same_numbers():
    scores = [[np.random.default_rng(2).random(40)] for _ in range(2)]
    assert Paired(scores).difference(0, 1) == Paired(scores).difference(0, 1)
