"""Do raters agree, and what did most of them say? Numbers over items that several people rated.

Ratings of an item are a list of categories, in any order; raters need not be the same from item to item. Intervals
(95%) resample items, all ratings of an item together, because ratings of one item are not independent.

    krippendorff([[0, 0, 1], [2, 2]], "nominal")    fleiss([[0, 0, 1], [2, 2, 2]])    majority([1.0, 1.0, 0.0]) -> 1.0
"""
import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from easylm_imitation.evaluate.style_profile import Measure

Ratings = Sequence[Sequence[int]]       # item -> categories, from 0
Level = Literal["nominal", "ordinal", "interval"]
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far raters agree; None where fewer than two rated any item, or all gave one and the same answer.

    `answers` are the categories as asked (three or five), `verdicts` better, tie and worse.
    """
    items: int                          # that two or more people rated
    alpha_verdicts: Measure | None      # Krippendorff's alpha, nominal
    alpha_answers: Measure | None       # the same, ordinal, over the answers as asked
    fleiss_verdicts: float | None       # Fleiss' kappa, over items with the most frequent number of raters
    pairs_equal: float | None           # share of pairs of raters of one item with the same verdict
    pairs_relaxed: float | None         # the same, a tie against a decision counted half (Tülu)


def agreement(answers: Ratings, categories: int) -> Agreement:
    """From answers 0 .. categories - 1, of which the middle one is a tie."""
    answers = [given for given in answers if len(given) > 1]
    verdicts = [[verdict_of(answer, categories) for answer in given] for given in answers]
    if not answers:
        return Agreement(0, None, None, None, None, None)
    return Agreement(len(answers), _with_interval(verdicts, 3, "nominal"),
                     _with_interval(answers, categories, "ordinal"),
                     fleiss(_same_count(verdicts)), _pairs(verdicts, 0.0), _pairs(verdicts, 0.5))


def verdict_of(answer: int, categories: int) -> int:
    """0 for answers below the middle one, 1 for the middle, 2 above.

    >>> [verdict_of(answer, 5) for answer in range(5)]
    [0, 0, 1, 2, 2]
    """
    middle = categories // 2
    return 1 + (answer > middle) - (answer < middle)


def krippendorff(ratings: Ratings, level: Level, categories: int | None = None) -> float | None:
    """Krippendorff's alpha: 1 - observed / expected disagreement of pairs within items. None where nothing varies.

    Items with one rating say nothing and are left out. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).
    """
    categories = categories or 1 + max((max(given) for given in ratings if given), default=0)
    return _alpha(_coincidences(ratings, categories).sum(0), level)


def fleiss(ratings: Ratings) -> float | None:
    """Fleiss' kappa of items that equally many people rated. Raises ValueError where the numbers differ; None where
    nothing varies or one person rated."""
    sizes = {len(given) for given in ratings}
    if len(sizes) > 1:
        raise ValueError(f"Fleiss' kappa needs equally many ratings of each item, not {sorted(sizes)}")
    raters = sizes.pop() if sizes else 0
    if raters < 2:
        return None
    counts = np.array([np.bincount(given, minlength=max(map(max, ratings)) + 1) for given in ratings])
    observed = ((counts * (counts - 1)).sum(1) / (raters * (raters - 1))).mean()
    expected = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return None if expected == 1 else float((observed - expected) / (1 - expected))


def majority(votes: Sequence[float]) -> float:
    """What more than half of the votes say; a tie (0.5) where no verdict has so many.

    >>> majority([1.0, 1.0, 0.0]), majority([1.0, 0.0]), majority([1.0, 1.0, 0.5, 0.0])
    (1.0, 0.5, 0.5)
    """
    value, count = collections.Counter(votes).most_common(1)[0]
    return value if 2 * count > len(votes) else 0.5


def clustered_mean(clusters: Sequence[Sequence[float]]) -> Measure:
    """The mean over all values, with an interval that resamples whole clusters."""
    sums, sizes = (np.array([f(own) for own in clusters], float) for f in (sum, len))
    drawn = _weights(len(clusters))
    low, high = np.percentile(drawn @ sums / (drawn @ sizes), (2.5, 97.5))
    return Measure(float(sums.sum() / sizes.sum()), float(low), float(high), len(clusters))


def _same_count(ratings: Ratings) -> Ratings:
    """The items with the most frequent number of ratings, the larger of two such numbers."""
    sizes = collections.Counter(map(len, ratings))
    wanted = max(sizes, key=lambda size: (sizes[size], size))
    return [given for given in ratings if len(given) == wanted]


def _pairs(verdicts: Ratings, tie_counts: float) -> float:
    found = [1.0 if a == b else tie_counts if 1 in (a, b) else 0.0
             for given in verdicts for place, a in enumerate(given) for b in given[place + 1:]]
    return sum(found) / len(found)


def _with_interval(ratings: Ratings, categories: int, level: Level) -> Measure | None:
    items = _coincidences(ratings, categories)
    value = _alpha(items.sum(0), level)
    if value is None:
        return None
    drawn = [_alpha(total, level) for total in np.tensordot(_weights(len(items)), items, 1)]
    low, high = np.percentile([1.0 if one is None else one for one in drawn], (2.5, 97.5))
    return Measure(value, float(low), float(high), len(items))


def _coincidences(ratings: Ratings, categories: int) -> np.ndarray:
    """[items, categories, categories]: pairs of ratings within each item, weighed by 1 / (its ratings - 1)."""
    made = []
    for given in ratings:
        if len(given) > 1:
            counts = np.bincount(given, minlength=categories).astype(float)
            made.append((np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1))
    return np.array(made).reshape(-1, categories, categories)


def _alpha(coincidences: np.ndarray, level: Level) -> float | None:
    margins = coincidences.sum(0)
    total = margins.sum()
    apart = _METRICS[level](margins)
    expected = (np.outer(margins, margins) * apart).sum()
    if total < 2 or expected == 0:
        return None
    return float(1 - (total - 1) * (coincidences * apart).sum() / expected)


def _nominal(margins: np.ndarray) -> np.ndarray:
    return 1.0 - np.eye(len(margins))


def _ordinal(margins: np.ndarray) -> np.ndarray:
    """Squared number of ratings that lie between two categories, half of their own counted."""
    middles = np.cumsum(margins) - margins / 2
    return (middles[:, None] - middles[None, :]) ** 2


def _interval(margins: np.ndarray) -> np.ndarray:
    places = np.arange(len(margins))
    return (places[:, None] - places[None, :]).astype(float) ** 2


_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nominal": _nominal, "ordinal": _ordinal, "interval": _interval}


@functools.lru_cache(4)
def _weights(count: int) -> np.ndarray:
    """[resamples, count]: how often each item is drawn; the same in every run."""
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    return drawn.astype(float)
