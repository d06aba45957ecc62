"""Intervals for what a report states: a score, a difference between two models, the share of a gap that was closed, and
how far style ran ahead of substance.

Two models are compared item by item (paired), because the same questions are hard for both. One joint bootstrap stands
behind all statements about the same models: items are resampled within each task (a task asked in two forms keeps its
items together), and, where a model was trained several times, the noise of its training seeds is added. The seeds of
a run answer the *same* items, so seeds and items are crossed. The seeds' noise is drawn from Student's t, since a few
seeds tell their own spread badly, less what items already explain:

    draw = mean of resampled items + sum over seeds of z * (seed's mean - mean) / sqrt(S (S - 1)) * sqrt(f),
    f = max(0, (S - 1) / chi2 - residual / spread), and 0 where residual / spread is 1 or more

with z standard normal and chi2 of S - 1 degrees, one of each a draw for all tasks; residual / spread is the share of
the variance between seeds that items by themselves would cause. docs/report.md has the coverage of this and of what
else was tried. Random streams are fixed, so the same results give the same page.
"""
import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import numpy as np
import scipy.linalg
import scipy.stats

RESAMPLES = 4000
_CHUNK = 2_000_000      # counts held at one time while resampling
_FAR = 1e6              # stands for an infinite share: a draw without a gap


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its two-sided interval (95% unless said otherwise) and the count of items behind it."""
    value: float
    low: float
    high: float
    items: int
    p: float | None = None      # of a difference: two-sided, that there is none


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


@dataclasses.dataclass(frozen=True)
class Index:
    """The false-promise index: mean share of the gap closed in style, less that in substance, of the same draws."""
    index: Estimate
    style: Estimate
    substance: Estimate
    style_parts: int            # measures whose gap is measurable, so that they count
    substance_parts: int


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

    `models` holds for each model one array a task: scores [items]; [seeds, items] of a model trained several times; or
    a single number [] that was published without its items. Item i of a task is the same question for all. Tasks of
    equal `together` have the same items in the same order. Statements take `weights` [tasks], by default equal ones:
    a macro average.
    """

    def __init__(self, models: Sequence[Sequence[np.ndarray]], confidence: float = 0.95,
                 together: Sequence[Hashable] | None = None) -> None:
        self._models = [[np.asarray(scores, dtype=np.float64) for scores in tasks] for tasks in models]
        self._confidence = confidence
        self._sizes = [max(own[task].shape[-1] for own in self._models if own[task].ndim)
                       for task in range(len(self._models[0]))]
        self.items = sum(self._sizes)
        self._mean = np.array([[scores.mean() for scores in tasks] for tasks in self._models]).T      # [T, M]
        self._drawn = self._draw(list(range(len(self._sizes))) if together is None else list(together))    # [R, T, M]
        self._seeds = [_Seeds(tasks, number) for number, tasks in enumerate(self._models)]

    def mean(self, model: int, weights: np.ndarray | None = None) -> Estimate:
        """Weighted mean over tasks of one model; a single all-or-nothing task of one seed has its Wilson interval."""
        tasks = self._models[model]
        if len(tasks) == 1 and tasks[0].ndim == 1 and _all_or_nothing(tasks[0]):
            return wilson(float(tasks[0].sum()), len(tasks[0]), self._confidence)
        return dataclasses.replace(self._estimate(*self._linear({model: 1.0}, weights)), p=None)

    def difference(self, first: int, second: int, weights: np.ndarray | None = None) -> Estimate:
        """Mean of model `first` minus mean of model `second`."""
        return self._estimate(*self._linear({first: 1.0, second: -1.0}, weights))

    def contrast(self, signs: Mapping[int, float], weights: np.ndarray | None = None) -> Estimate:
        """Sum over models of `signs` (model -> coefficient) times their means."""
        return self._estimate(*self._linear(dict(signs), weights))

    def share(self, first: int, second: int, weights: np.ndarray | None = None) -> Estimate | None:
        """Mean of model `first` divided by that of `second`, None where the latter may be zero."""
        top, over = self._linear({first: 1.0}, weights), self._linear({second: 1.0}, weights)
        if self._estimate(*over).low <= 0:
            return None
        return self._estimate(top[0] / over[0], top[1] / np.maximum(over[1], 1e-12), None)

    def gap_closed(self, base: int, imitation: int, teacher: int, weights: np.ndarray | None = None) -> GapClosed:
        """How much of the way from base to teacher the imitation went, with a percentile interval.

        A draw whose gap is not positive counts as plus or minus infinity by the sign of the gain, so a doubtful gap
        widens the interval; the gap being measurable, such draws are too few to be a bound themselves.
        """
        drawn = self._shares(base, imitation, teacher, weights)
        if drawn is None:
            return GapClosed("no gap", items=self._items(weights))
        return GapClosed("measured", drawn[0], *_bounds(drawn[1], self._confidence), self._items(weights))

    def index(self, base: int, imitation: int, teacher: int, style: Sequence[np.ndarray],
              substance: Sequence[np.ndarray]) -> Index | None:
        """The false-promise index over parts of style and substance, each given by its weights [tasks].

        Parts without a measurable gap are left out; None when a side has none left.
        """
        sides, parts, slopes = [], [], {model: np.zeros(len(self._sizes)) for model in (base, imitation, teacher)}
        for sign, weights in ((1, style), (-1, substance)):
            kept = [(part, drawn) for part in weights if (drawn := self._shares(base, imitation, teacher, part))]
            if not kept:
                return None
            parts.append(len(kept))
            sides.append((float(np.mean([value for _, (value, _) in kept])),
                          np.mean([draws for _, (_, draws) in kept], axis=0)))
            for part, (value, _) in kept:       # the index's slope by each mean
                slope = sign * part / len(kept) / self._linear({teacher: 1.0, base: -1.0}, part)[0]
                for model, share in ((imitation, 1.0), (base, value - 1), (teacher, -value)):
                    slopes[model] = slopes[model] + share * slope
        ahead, draws = sides[0][0] - sides[1][0], sides[0][1] - sides[1][1]
        beyond = min(float((draws <= 0).mean()), float((draws >= 0).mean()))
        p = max(2 * beyond, _p(ahead, self._weighted(slopes)[2]))     # draws alone tell no small p
        index = self._estimate(ahead, draws, min(1.0, p))
        return Index(index, *(self._estimate(*side, None) for side in sides), *parts)

    def _shares(self, base: int, imitation: int, teacher: int,
                weights: np.ndarray | None) -> tuple[float, np.ndarray] | None:
        """The share of the gap closed and its draws [R]; None without a measurable gap."""
        gap, gaps, _ = over = self._linear({teacher: 1.0, base: -1.0}, weights)
        if gap <= 0 or self._estimate(*over).low <= 0:
            return None
        gain, gains, _ = self._linear({imitation: 1.0, base: -1.0}, weights)
        positive = gaps > 1e-12
        return gain / gap, np.where(positive, gains / np.where(positive, gaps, 1.0), np.copysign(_FAR, gains))

    def _linear(self, signs: dict[int, float], weights: np.ndarray | None) -> tuple[float, np.ndarray, float]:
        """A weighted sum over tasks and models: its value, draws [R], and the p-value that it is zero."""
        weights = np.full(len(self._sizes), 1 / len(self._sizes)) if weights is None else np.asarray(weights)
        value, drawn, spread = self._weighted({model: sign * weights for model, sign in signs.items()})
        return value, drawn, _p(value, spread)

    def _weighted(self, weights: dict[int, np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
        """A sum over models and tasks by weights (model -> [tasks]): its value, draws [R], and the standard deviation
        [R] that each was drawn with."""
        value = sum(float(own @ self._mean[:, model]) for model, own in weights.items())
        of_items = sum(self._drawn[:, :, model] @ own for model, own in weights.items())
        noise = [self._seeds[model].noise(own) for model, own in weights.items()]
        spread = np.sqrt(of_items.var() + sum(variance for _, variance in noise))
        return value, of_items + sum(drawn for drawn, _ in noise), spread

    def _estimate(self, value: float, drawn: np.ndarray, p: float | None) -> Estimate:
        return Estimate(value, *_bounds(drawn, self._confidence), self.items, p)

    def _items(self, weights: np.ndarray | None) -> int:
        return self.items if weights is None else sum(n for n, w in zip(self._sizes, weights) if w)

    def _draw(self, together: list[Hashable]) -> np.ndarray:
        """[R, T, M] means of each task and model over resampled items."""
        drawn = np.broadcast_to(self._mean, (RESAMPLES, *self._mean.shape)).copy()
        for number, key in enumerate(dict.fromkeys(together)):
            columns = [(task, model) for task, own in enumerate(together) if own == key
                       for model in range(len(self._models)) if self._models[model][task].ndim]
            scores = [self._models[model][task] for task, model in columns]
            means = np.stack([s if s.ndim == 1 else s.mean(axis=0) for s in scores], axis=1)
            made = _resampled(means, all(map(_all_or_nothing, scores)), number)
            for place, (task, model) in enumerate(columns):
                drawn[:, task, model] = made[:, place]
        return drawn


class _Seeds:
    """What the training seeds of one model add to the noise; nothing for a model that was trained once."""

    def __init__(self, tasks: Sequence[np.ndarray], number: int) -> None:
        counts = {scores.shape[0] if scores.ndim == 2 else 1 for scores in tasks}
        if len(counts) > 1:
            raise ValueError(f"model {number}: tasks with {sorted(counts)} training seeds; give all seeds of each task")
        self._count = counts.pop()
        if self._count > 1:
            self._means = np.array([scores.mean(axis=1) for scores in tasks])                   # [T, S]
            self._residual = np.array([_residual(scores) / scores.shape[1] for scores in tasks])    # [T]
            rng = np.random.default_rng([1, number])
            self._normal = rng.standard_normal((RESAMPLES, self._count))
            self._chi2 = rng.chisquare(self._count - 1, RESAMPLES)

    def noise(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws [R] of the noise in the weighted mean over tasks, and the variance [R] that each was drawn with."""
        if self._count == 1:
            return np.zeros(RESAMPLES), np.zeros(RESAMPLES)
        away = weights @ self._means
        away = away - away.mean()
        spread = float(away @ away) / (self._count - 1)
        if spread <= 1e-18:
            return np.zeros(RESAMPLES), np.zeros(RESAMPLES)
        of_items = float(weights**2 @ self._residual) / spread
        factor = (of_items < 1) * np.maximum(0.0, (self._count - 1) / self._chi2 - of_items)
        drawn = self._normal @ away / math.sqrt(self._count * (self._count - 1))
        return drawn * np.sqrt(factor), factor * spread / self._count


def _p(value: float, spread: np.ndarray) -> float:
    """Two-sided p-value that a number is zero, over the standard deviations [R] that it may have."""
    return float(np.mean(2 * scipy.stats.norm.sf(abs(value) / np.maximum(spread, 1e-300)))) if value else 1.0


def sign_test(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p-value that neither of two models is better, from the items on which they differ (McNemar)."""
    wins, losses = int((first > second).sum()), int((first < second).sum())
    return 1.0 if wins + losses == 0 else float(scipy.stats.binomtest(wins, wins + losses).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): under each of these, the chance of any false finding is at most its value.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _residual(scores: np.ndarray) -> float:
    """Variance of scores [S, items] that neither the item nor the seed explains."""
    rest = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    return float((rest**2).sum()) / max(1, (scores.shape[0] - 1) * (scores.shape[1] - 1))


def _all_or_nothing(scores: np.ndarray) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _bounds(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentiles of draws, which are draws themselves: far ones beyond them do no harm."""
    tail = (1 - confidence) / 2
    return float(np.quantile(drawn, tail, method="lower")), float(np.quantile(drawn, 1 - tail, method="higher"))


def _resampled(scores: np.ndarray, all_or_nothing: bool, seed: int = 0) -> np.ndarray:
    """[RESAMPLES, C] means of C columns of scores [items, C], items drawn with replacement.

    Items with equal rows are interchangeable, so counts of distinct rows are drawn from a multinomial: the same draw,
    and quick for 0/1 scores, of which few rows differ.
    """
    rng = np.random.default_rng([0, seed])
    rows, weights = np.unique(scores, axis=0, return_counts=True)
    if all_or_nothing:
        rows, weights = _with_imaginary(rows, weights)
    items, step, drawn = round(weights.sum()), max(1, _CHUNK // len(rows)), []
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn.append(rng.multinomial(items, weights / weights.sum(), size=size) @ rows / items)
    return np.concatenate(drawn)


def _with_imaginary(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All-or-nothing scores get two imaginary items, right for half of the models, each pair of models agreeing on
    half (Agresti and Min 2005 for two models; columns of a Hadamard matrix for more): else models that agree on a
    handful of items would differ by "exactly nothing".
    """
    order = 2 ** math.ceil(math.log2(rows.shape[1] + 1))
    outcomes = (scipy.linalg.hadamard(order)[:, 1:rows.shape[1] + 1] + 1) / 2
    return np.concatenate([rows, outcomes]), np.concatenate([weights, np.full(order, 2 / order)])
