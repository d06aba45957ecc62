"""What judges' verdicts add up to: win rates as published, their length-controlled form, the judge's own biases."""
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.optimize


@dataclasses.dataclass(frozen=True)
class HeadToHead:
    """AlpacaEval's columns, rates in percent."""
    win_rate: float             # mean preference for the model, ties half
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float    # each verdict as a win, a tie or a loss


@dataclasses.dataclass(frozen=True)
class Bias:
    """Figures about the judge, None where nothing was decided. 0.5 is no preference."""
    first_preferred: float | None       # of the decided verdicts, the share for the answer that was shown first
    orders_agree: float | None          # of pairs judged in both orders, the share with the same verdict
    longer_preferred: float | None      # of the decided pairs of different length, the share for the longer answer
    length_correlation: float | None    # of the preference with the difference of lengths in characters


def head_to_head(preferences: Sequence[float | None]) -> HeadToHead:
    """From preferences as alpaca_eval writes them: 1 for the baseline, 2 for the model, between them a probability,
    1.5 or 0 a draw; None and NaN (no verdict) are left out. Raises ValueError when nothing is left.

    >>> head_to_head([1, 2, 2, 0]).win_rate
    62.5
    """
    kept = np.array([1.5 if p == 0 else p for p in preferences if p is not None and not math.isnan(p)], dtype=float)
    if not len(kept):
        raise ValueError("no verdicts")
    shares = kept - 1
    error = shares.std(ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0
    wins, losses = int((kept > 1.5).sum()), int((kept < 1.5).sum())
    draws = len(kept) - wins - losses
    return HeadToHead(100 * float(shares.mean()), 100 * float(error), wins, losses, draws, len(kept),
                      100 * (wins + draws / 2) / len(kept))


def length_controlled(preferences: Sequence[float], lengths: Sequence[int], others: Sequence[int]) -> float:
    """The win rate in percent that the model would have with answers as long as the reference's.

    AlpacaEval's logistic model with the length term alone (its `length_controlled_minimal`): preference = s(a *
    tanh(difference of lengths / its deviation) + b), fitted by maximum likelihood without a penalty; the answer is
    s(b). Preferences are 0 to 1. The published figure also has each instruction's difficulty, from a file of theirs.
    """
    wanted = np.asarray(preferences, dtype=float)
    away = np.asarray(others, dtype=float) - np.asarray(lengths, dtype=float)
    spread = away.std(ddof=1) if len(away) > 1 else 0.0
    features = np.stack([np.tanh(away / spread) if spread else np.zeros_like(away), np.ones_like(away)], axis=1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = features @ weights
        chance = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
        value = float(np.mean(np.logaddexp(0, logits) - wanted * logits))
        return value + 1e-9 * float(weights @ weights), features.T @ (chance - wanted) / len(wanted) + 2e-9 * weights
    made = scipy.optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS")
    return 100 / (1 + math.exp(-float(np.clip(made.x[1], -50, 50))))


def bias(seconds: Sequence[float], pairs: Sequence[tuple[float, float]], preferences: Sequence[float],
         length_differences: Sequence[int]) -> Bias:
    """`seconds`: each verdict as preference for the answer shown second; `pairs`: the model's preference in both
    orders; `preferences` of the model and how much longer (characters) its answer is, item by item."""
    decided = [second for second in seconds if second != 0.5]
    longer = [(p > 0.5) == (d > 0) for p, d in zip(preferences, length_differences) if p != 0.5 and d]
    constant = len(set(preferences)) < 2 or len(set(length_differences)) < 2
    return Bias(_share([second < 0.5 for second in decided]),
                _share([_sign(a) == _sign(b) for a, b in pairs]), _share(longer),
                None if constant else float(np.corrcoef(preferences, length_differences)[0, 1]))


def _sign(preference: float) -> int:
    return int(preference > 0.5) - int(preference < 0.5)


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
