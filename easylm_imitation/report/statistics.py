"""Intervals for what a report states: a score, a difference between two models, and the share of a gap that was closed.

Two models are compared item by item (paired), because the same questions are hard for both. Items are resampled within
each task, tasks count alike (a macro average), and the random stream is fixed, so the same results give the same page.
All arrays are float64 of shape [items].
"""
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.stats

RESAMPLES = 4000
_CHUNK = 2_000_000      # counts held at one time while resampling


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its two-sided interval (95% unless said otherwise) and the count of items behind it."""
    value: float
    low: float
    high: float
    items: int


@dataclasses.dataclass(frozen=True)
class GapClosed:
    """(imitation - base) / (teacher - base).

    `measured`: value, low and high are set. `no gap`: the teacher is not measurably better than the base on these
    items, so there is no share to tell. `missing`: base or teacher is missing.
    """
    status: Literal["measured", "no gap", "missing"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    items: int = 0


def wilson(successes: float, items: int, confidence: float = 0.95) -> Estimate:
    """The Wilson score interval of a share (Wilson 1927, no continuity correction). Raises ValueError for no items."""
    if items < 1 or not 0 <= successes <= items:
        raise ValueError(f"{successes} successes of {items} items")
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    share = successes / items
    spread = z * math.sqrt(share * (1 - share) / items + (z / (2 * items)) ** 2)
    low, high = ((share + z * z / (2 * items) + sign * spread) / (1 + z * z / items) for sign in (-1, 1))
    return Estimate(share, 0.0 if successes == 0 else low, 1.0 if successes == items else high, items)


class Paired:
    """Some models' scores on the same items, resampled together once; every statement about them uses the same draws.

    `models` holds for each model one array of scores [items] a task; item i of a task is the same question for all.
    Means over tasks are macro averages: each task counts alike.
    """

    def __init__(self, models: Sequence[Sequence[np.ndarray]], confidence: float = 0.95) -> None:
        self._models, self._confidence = models, confidence
        self.items = sum(map(len, models[0]))
        self._drawn = _resampled([np.stack(scores, axis=1) for scores in zip(*models, strict=True)])    # [R, M]

    def mean(self, model: int) -> Estimate:
        """Mean over tasks of one model; a single all-or-nothing task has its Wilson interval."""
        tasks = self._models[model]
        if len(tasks) == 1 and _all_or_nothing(tasks[0]):
            return wilson(float(tasks[0].sum()), len(tasks[0]), self._confidence)
        return Estimate(_macro(tasks), *_bounds(self._drawn[:, model], self._confidence), self.items)

    def difference(self, first: int, second: int) -> Estimate:
        """Mean of model `first` minus mean of model `second`."""
        value = _macro(self._models[first]) - _macro(self._models[second])
        return Estimate(value, *_bounds(self._drawn[:, first] - self._drawn[:, second], self._confidence), self.items)

    def gap_closed(self, base: int, imitation: int, teacher: int) -> GapClosed:
        """How much of the way from base to teacher the imitation went, with a percentile interval.

        A draw whose gap is not positive counts as plus or minus infinity by the sign of the gain, so a doubtful gap
        widens the interval; the gap being measurable, such draws are too few to be a bound themselves.
        """
        gains = self._drawn[:, imitation] - self._drawn[:, base]
        gaps = self._drawn[:, teacher] - self._drawn[:, base]
        gap = self.difference(teacher, base)
        if gap.value <= 0 or gap.low <= 0:
            return GapClosed("no gap", items=self.items)
        positive = gaps > 1e-12
        shares = np.where(positive, gains / np.where(positive, gaps, 1.0), np.copysign(np.inf, gains))
        gain = self.difference(imitation, base).value
        return GapClosed("measured", gain / gap.value, *_bounds(shares, self._confidence), self.items)


def sign_test(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p-value that neither of two models is better, from the items on which they differ (McNemar)."""
    wins, losses = int((first > second).sum()), int((first < second).sum())
    return 1.0 if wins + losses == 0 else float(scipy.stats.binomtest(wins, wins + losses).pvalue)


def _all_or_nothing(scores: np.ndarray) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _macro(tasks: Sequence[np.ndarray]) -> float:
    return float(np.mean([scores.mean() for scores in tasks]))


def _bounds(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentiles of draws, which are draws themselves: infinite ones beyond them do no harm."""
    tail = (1 - confidence) / 2
    return float(np.quantile(drawn, tail, method="lower")), float(np.quantile(drawn, 1 - tail, method="higher"))


def _resampled(tasks: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """[RESAMPLES, M] macro means of M models, from scores [items, M] a task, items drawn with replacement in each task.

    Items with equal rows are interchangeable, so counts of distinct rows are drawn from a multinomial: the same draw,
    and quick for 0/1 scores, which have at most 2**M distinct rows.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((RESAMPLES, tasks[0].shape[1]))
    for scores in tasks:
        rows, weights = _rows(scores)
        items, step = round(weights.sum()), max(1, _CHUNK // len(rows))
        for start in range(0, RESAMPLES, step):
            size = min(step, RESAMPLES - start)
            total[start:start + size] += rng.multinomial(items, weights / weights.sum(), size=size) @ rows / items
    return total / len(tasks)


def _rows(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of scores [items, M] and their weights.

    All-or-nothing scores get two imaginary items, spread evenly over the 2**M outcomes (Agresti and Min 2005 for two
    models): else models that agree on a handful of items would differ by "exactly nothing".
    """
    if _all_or_nothing(scores):
        outcomes = np.array(list(itertools.product((0.0, 1.0), repeat=scores.shape[1])))
        counts = np.array([(scores == outcome).all(axis=1).sum() for outcome in outcomes])
        return outcomes, counts + 2 / len(outcomes)
    rows, counts = np.unique(scores, axis=0, return_counts=True)
    return rows, counts.astype(float)
