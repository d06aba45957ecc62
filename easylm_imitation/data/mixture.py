"""What is taken of the sources, and in which order: sizes, caps, weights and a budget, all drawn by one seed.

Budgets nest: with the same sources and seed, the dataset of a smaller budget is the beginning of a larger one's.
"""
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from easylm_imitation.data.config import BuildConfig, SourceConfig, tokens_of
from easylm_imitation.data.shards import Example
from easylm_imitation.schema import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """A conversation on its way into the shards, and where it is from."""
    example: Example
    source: int                 # number among the config's sources
    dataset: str
    teacher: str
    file: str
    line: int
    texts: tuple[bytes, ...] = ()   # what each "near" rule compares
    copy: int = 0               # 0 for a conversation's first row, then 1, 2, ...

    @property
    def tokens(self) -> int:
        """Length."""
        return len(self.example.tokens)


def mixed(rows: Iterable[Row], config: BuildConfig) -> Iterable[Row]:
    """The rows of the dataset, in its order. Without a seed, all of them as they come; with one they are held in memory
    (8 bytes a token). Raises UserError when the sources hold less than the budget."""
    if config.seed is None:
        return rows
    by_source: list[list[Row]] = [[] for _ in config.sources]
    for row in rows:
        by_source[row.source].append(row)
    taken = [_taken(held, source, (config.seed, i)) for i, (held, source) in enumerate(zip(by_source, config.sources))]
    generator = np.random.default_rng(config.seed)
    groups = taken if config.order == "sources" else [[row for group in taken for row in group]]
    ordered = [group[i] for group in groups for i in generator.permutation(len(group))]
    return ordered if config.budget is None else _within(ordered, config)


def _taken(rows: list[Row], source: SourceConfig, seed: Sequence[int]) -> list[Row]:
    """A source's rows, in the order in which they came: sampled, capped, then repeated."""
    if not source.drawn:
        return rows
    drawn = np.random.default_rng(seed).permutation(len(rows))[:source.sample]
    if source.cap is not None:
        drawn = drawn[np.cumsum([rows[i].tokens for i in drawn]) <= source.cap]
    whole, part = divmod(source.weight, 1)
    times = np.full(len(drawn), int(whole))
    times[:round(part * len(drawn))] += 1
    return [_copy(rows[i], copy) for i, count in sorted(zip(drawn.tolist(), times.tolist())) for copy in range(count)]


def _copy(row: Row, number: int) -> Row:
    if number == 0:
        return row
    return dataclasses.replace(row, example=row.example._replace(id=f"{row.example.id}#{number}"), copy=number)


def _within(rows: list[Row], config: BuildConfig) -> list[Row]:
    """The longest beginning of at most the budget's tokens."""
    budget, sums = tokens_of(config.budget or 0), np.cumsum([row.tokens for row in rows])
    if len(rows) and sums[-1] < budget:
        raise UserError(f"budget {config.budget}: the sources hold {sums[-1]} tokens; take a smaller budget, or none")
    return rows[:int(np.searchsorted(sums, budget, "right"))]
