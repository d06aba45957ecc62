"""Intervals over items and training seeds hold the truth as often as they say; shortcuts that do not are kept out."""
import numpy as np
import pytest

from easylm_imitation.report import statistics
from easylm_imitation.report.statistics import Paired, holm

BASE, IMITATION, TEACHER = 0.5, 0.6, 0.95       # true shares of right answers


def study(rng, items, seeds, spread, copied=0.6):
    """Scores of a base [items], an imitation [seeds, items] and a teacher [items] on freshly drawn items, by seeds
    freshly drawn too. An imitation repeats its base on `copied` of the items and else is right with a chance that its
    seed decides: uniform, of standard deviation `spread` in the mean. The truth is IMITATION - BASE exactly."""
    base = rng.random(items) < BASE
    away = spread * np.sqrt(12) * (rng.random(seeds) - 0.5)
    chance = (IMITATION - copied * BASE + away) / (1 - copied)
    own = rng.random((seeds, items)) < chance[:, None]
    imitation = np.where(rng.random((seeds, items)) < copied, base, own)
    return base.astype(float), imitation.astype(float), (rng.random(items) < TEACHER).astype(float)


def held(repetitions, items, seeds, spread, rng):
    """How often (shares) the intervals of the change, the gap closed and the index held the truth, and how often the
    index was not called other than zero, which it is, at 5% and at 0.1%."""
    counts = np.zeros(5)
    for _ in range(repetitions):
        base, imitation, teacher = study(rng, items, seeds, spread)
        base2, style, teacher2 = study(rng, items, seeds, spread)
        paired = Paired([[imitation, style], [base, base2], [teacher, teacher2]])
        one, two = np.eye(2)
        change, closed = paired.difference(0, 1, one), paired.gap_closed(1, 0, 2, one)
        index = paired.index(1, 0, 2, [two], [one]).index
        truth = IMITATION - BASE
        counts += [change.low <= truth <= change.high, closed.low <= truth / (TEACHER - BASE) <= closed.high,
                   index.low <= 0 <= index.high, index.p >= 0.05, index.p >= 0.001]
    return counts / repetitions


def test_five_seeds_are_covered(monkeypatch):
    """A short look; 300 repetitions have a standard error of 1.3 points."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    shares = held(300, 200, 5, 0.03, np.random.default_rng(0))
    assert all(0.92 <= share <= 0.985 for share in shares[:4]), shares
    assert shares[4] >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("items", "spread"), [(200, 0.0), (200, 0.02), (200, 0.05), (1000, 0.02)])
def test_coverage_of_five_seeds(items, spread, monkeypatch):
    """2,000 studies each: seeds that do not matter, that matter a little, and that matter most."""
    monkeypatch.setattr(statistics, "RESAMPLES", 2000)
    shares = held(2000, items, 5, spread, np.random.default_rng(1))
    # Never too narrow; too careful by a point or two where seeds hardly matter, the index (two sides at once) most.
    assert all(0.93 <= share <= 0.98 for share in shares[:2]), shares
    assert all(0.93 <= share <= 0.99 for share in shares[2:4]), shares
    assert shares[4] >= 0.997


@pytest.mark.slow
def test_coverage_of_items_alone(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 2000)
    shares = held(2000, 200, 1, 0.0, np.random.default_rng(2))
    assert all(0.93 <= share <= 0.97 for share in shares[:4]), shares
    assert shares[4] >= 0.997


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not():
    rng = np.random.default_rng(3)
    base = (rng.random(400) < 0.5).astype(float)
    alike = np.stack([base] * 5)
    alike[:, :40] = 1.0
    apart = alike.copy()
    for seed in range(5):
        apart[seed, 100:100 + 30 * seed] = 1.0
    narrow, wide = (Paired([[scores], [base]]).difference(0, 1) for scores in (alike, apart))
    assert narrow == Paired([[alike[:1].repeat(5, axis=0)], [base]]).difference(0, 1)
    assert narrow.high - narrow.low < 0.08 < 0.15 < wide.high - wide.low
    assert narrow.p < 1e-3 < wide.p


def test_two_seeds_know_less_than_five():
    """The same spread between seeds, told by fewer of them."""
    rng = np.random.default_rng(4)
    base, widths = np.zeros(500), {}
    for seeds in (2, 5):
        shares = 0.5 + 0.05 * np.linspace(-1, 1, seeds) / np.linspace(-1, 1, seeds).std(ddof=1)
        scores = (rng.permutation(np.arange(500) / 500)[None, :] < shares[:, None]).astype(float)
        made = Paired([[scores], [base]]).difference(0, 1)
        widths[seeds] = made.high - made.low
    assert widths[2] > 3 * widths[5]


def test_the_same_items_asked_twice_are_drawn_together():
    """A task in two forms with equal scores: the difference between the forms is nothing, in every draw."""
    rng = np.random.default_rng(5)
    scores = rng.random(60)
    weights = np.array([1.0, -1.0])
    together = Paired([[scores, scores]], together=["a", "a"])._linear({0: 1.0}, weights)[1]
    apart = Paired([[scores, scores]])._linear({0: 1.0}, weights)[1]
    assert np.abs(together).max() < 1e-12
    assert apart.std() > 0.01


def test_style_and_substance_of_the_same_seeds_move_together():
    """Seeds that are good at both: the index of such an imitation is surer than that of one which trades them."""
    rng = np.random.default_rng(6)
    base, teacher = np.zeros(300), np.ones(300)
    order = rng.permutation(np.arange(300) / 300)
    levels = np.array([0.3, 0.4, 0.5, 0.6, 0.7])
    both = (order[None, :] < levels[:, None]).astype(float)
    same, traded = (Paired([[both, other], [base, base], [teacher, teacher]]).index(
        1, 0, 2, [np.array([1.0, 0.0])], [np.array([0.0, 1.0])]).index for other in (both, both[::-1]))
    assert same.high - same.low < 0.5 * (traded.high - traded.low)
    assert same.value == pytest.approx(traded.value) == pytest.approx(0.0)


def test_an_index_needs_a_measurable_gap_on_both_sides():
    none, some = np.zeros(100), np.ones(100)
    one, two = np.eye(2)
    paired = Paired([[some, some], [none, none], [some, none]])
    assert paired.index(1, 0, 2, [one], [two]) is None
    made = Paired([[some, none], [none, none], [some, some]]).index(1, 0, 2, [one], [two])
    assert made.index.value == 1.0
    assert made.index.low > 0.9
    assert made.index.p < 0.01


def test_a_clear_index_is_told_among_many_comparisons():
    """Its p-value is no share of the resamples, which could not be small enough for Holm's adjustment of hundreds."""
    rng = np.random.default_rng(7)
    base, teacher = np.zeros((2, 100)), np.ones((2, 100))
    style, substance = rng.random((5, 100)) < 0.9, rng.random((5, 100)) < 0.1
    made = Paired([[style.astype(float), substance.astype(float)], base, teacher]).index(1, 0, 2, *np.eye(2)[:, None])
    assert made.index.value == pytest.approx(0.8, abs=0.1)
    assert holm([made.index.p, *[0.5] * 400])[0] < 0.05


def test_a_published_teacher_has_a_number_and_no_noise():
    base, imitation = np.array([0.0, 1.0] * 100), np.array([0.0, 1.0, 1.0, 1.0] * 50)
    made = Paired([[imitation], [base], [np.array(0.9)]])
    assert made.mean(2).low == made.mean(2).high == pytest.approx(0.9)
    assert made.gap_closed(1, 0, 2).value == pytest.approx(0.25 / 0.4)


def test_tasks_of_different_counts_of_seeds_are_refused():
    with pytest.raises(ValueError, match="training seeds"):
        Paired([[np.ones((2, 5)), np.ones((3, 5))]])


def test_holm_is_holms():
    """The example of Holm 1979, section 3, as of any textbook: steps times remaining hypotheses, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
