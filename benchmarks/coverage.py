"""How often 95% intervals of a difference hold the truth when an imitation was trained with several seeds: ours, and
what else was tried. All methods see the same simulated studies.

    python benchmarks/coverage.py --repetitions 2000 --items 200 --seeds 5
"""
import argparse

import numpy as np
import scipy.stats

from easylm_imitation.report import statistics
from easylm_imitation.report.statistics import Paired

DRAWS = 500
TRUTH = 0.1


def study(rng: np.random.Generator, items: int, seeds: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """A base [items] that is right on half, imitations [seeds, items] right on 0.6 of them in the mean; they repeat
    the base on 0.6 of the items; `spread` is the standard deviation between seeds."""
    base = rng.random(items) < 0.5
    chance = (0.3 + spread * np.sqrt(12) * (rng.random(seeds) - 0.5)) / 0.4
    own = rng.random((seeds, items)) < chance[:, None]
    return base.astype(float), np.where(rng.random((seeds, items)) < 0.6, base, own).astype(float)


def methods(base: np.ndarray, imitation: np.ndarray, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """The interval of each method for the mean of imitation - base."""
    gain = imitation - base                                         # [S, n]
    seeds, items = gain.shape
    of_item, value = gain.mean(axis=0), gain.mean()
    counts = rng.multinomial(items, np.full(items, 1 / items), size=DRAWS) / items      # [R, n]
    only = counts @ of_item
    made = {"items alone, percentile": percentiles(only), "items alone, BCa": bca(of_item, only)}
    if seeds == 1:
        return made | {"ours": ours(base, imitation)}
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds       # [R, S]
    made["items and seeds resampled, percentile"] = percentiles(np.einsum("rs,sn,rn->r", drawn, gain, counts))
    within = np.stack([rng.multinomial(items, np.full(items, 1 / items), size=DRAWS) @ g / items for g in gain], axis=1)
    made["seeds, then other items within each, percentile"] = percentiles((drawn * within).sum(axis=1))
    spread, rest = gain.mean(axis=1).var(ddof=1), statistics._residual(gain) / items
    of_items, of_seeds = of_item.var(ddof=1) / items, spread / seeds
    both = of_items + max(0.0, spread - rest) / seeds
    made["variances added, normal"] = around(value, both, scipy.stats.norm.ppf(0.975))
    degrees = (of_items + of_seeds) ** 2 / (of_seeds**2 / (seeds - 1) + of_items**2 / (items - 1))
    made["variances added, Student's t (Satterthwaite)"] = around(value, both, scipy.stats.t.ppf(0.975, degrees))
    made["the same without subtracting the residual"] = around(value, of_items + of_seeds,
                                                               scipy.stats.t.ppf(0.975, degrees))
    return made | {"ours": ours(base, imitation)}


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95%."""
    return tuple(np.quantile(drawn, [0.025, 0.975]))


def around(value: float, variance: float, factor: float) -> tuple[float, float]:
    """value -+ factor standard errors."""
    return value - factor * np.sqrt(variance), value + factor * np.sqrt(variance)


def bca(scores: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """Efron's bias-corrected and accelerated interval of a mean (1987)."""
    below = np.clip((drawn < scores.mean()).mean() + (drawn == scores.mean()).mean() / 2, 1e-6, 1 - 1e-6)
    bias, away = scipy.stats.norm.ppf(below), scores.mean() - scores
    faster = (away**3).sum() / (6 * max((away**2).sum(), 1e-12) ** 1.5)
    z = bias + scipy.stats.norm.ppf([0.025, 0.975])
    return tuple(np.quantile(drawn, scipy.stats.norm.cdf(bias + z / (1 - faster * z))))


def ours(base: np.ndarray, imitation: np.ndarray) -> tuple[float, float]:
    """What report prints."""
    made = Paired([[imitation if len(imitation) > 1 else imitation[0]], [base]]).difference(0, 1)
    return made.low, made.high


def main() -> None:
    """Prints a table: method against spread between seeds."""
    parser = argparse.ArgumentParser()
    for flag, value in (("repetitions", 2000), ("items", 200), ("seeds", 5)):
        parser.add_argument(f"--{flag}", type=int, default=value)
    args = parser.parse_args()
    statistics.RESAMPLES = 1000
    spreads = (0.0, 0.02, 0.05) if args.seeds > 1 else (0.0,)
    held: dict[str, list[float]] = {}
    for spread in spreads:
        rng, counts = np.random.default_rng(0), {}
        for _ in range(args.repetitions):
            for name, (low, high) in methods(*study(rng, args.items, args.seeds, spread), rng).items():
                counts[name] = counts.get(name, 0) + (low <= TRUTH <= high)
        for name, count in counts.items():
            held.setdefault(name, []).append(count / args.repetitions)
    print(f"{args.repetitions} studies, {args.items} items, {args.seeds} seeds\n")
    print("| method | " + " | ".join(f"spread {100 * s:g} points" for s in spreads) + " |")
    print("|---" * (len(spreads) + 1) + "|")
    for name, shares in held.items():
        print(f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
