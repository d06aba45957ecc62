"""What is taken of the sources, and in which order: sizes, caps, weights and a budget, all drawn by one seed.

Budgets nest: with the same sources and seed, the dataset of a smaller budget is the beginning of a larger one's.
"""
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from easylm_imitation.data.clean import Key
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
    texts: tuple[Key, ...] = () # what rules that need all conversations compare
    record: int = 0             # number in its file, from 0
    copy: int = 0               # 0 for a conversation's first row, then 1, 2, ...

    @property
    def tokens(self) -> int:
        """Length."""
        return len(self.example.tokens)


def mixed(rows: Iterable[Row], config: BuildConfig) -> Iterable[Row]:
    """The rows of the dataset, in its order. Without a seed, all of them as they come; with one they are held in memory
    (8 bytes a token), of a sampled source about twice the sample at most. Raises UserError when the sources hold less
    than the budget."""
    if config.seed is None:
        return rows
    held = [_Held(source, (config.seed, i)) for i, source in enumerate(config.sources)]
    for row in rows:
        held[row.source].add(row)
    taken = [source.taken() for source in held]
    generator = np.random.default_rng(config.seed)
    groups = taken if config.order == "sources" else [[row for group in taken for row in group]]
    ordered = [group[i] for group in groups for i in generator.permutation(len(group))]
    return ordered if config.budget is None else _within(ordered, config)


class _Held:
    """The rows of one source, each with a random number: those of the smallest are drawn first."""

    def __init__(self, source: SourceConfig, seed: Sequence[int]):
        self._source, self._generator = source, np.random.default_rng(seed)
        self._rows: list[tuple[float, int, Row]] = []
        self._count = 0

    def add(self, row: Row) -> None:
        """Takes a row, and lets go of those that cannot be in the sample any more."""
        self._rows.append((self._generator.random() if self._source.drawn else 0.0, self._count, row))
        self._count += 1
        if self._source.sample is not None and len(self._rows) > 2 * self._source.sample + 1000:
            self._draw()

    def _draw(self) -> None:
        self._rows.sort(key=lambda drawn: drawn[:2])
        self._rows = self._rows[:self._source.sample]

    def taken(self) -> list[Row]:
        """In the order in which they came: sampled, capped, then repeated."""
        if self._source.drawn:
            self._draw()
        if self._source.cap is not None and self._rows:
            sums = np.cumsum([row.tokens for _, _, row in self._rows])
            del self._rows[int(np.searchsorted(sums, self._source.cap, "right")):]
            if not self._rows:
                raise UserError(f"source '{self._source.path}': the first conversation drawn has {sums[0]} tokens, so "
                                f"its cap of {self._source.cap} leaves nothing; raise the cap, or leave the source out")
        whole, part = divmod(self._source.weight, 1)
        more = round(part * len(self._rows))
        times = [(number, row, int(whole) + (i < more)) for i, (_, number, row) in enumerate(self._rows)]
        times.sort(key=lambda entry: entry[0])
        return [_copy(row, copy) for _, row, count in times for copy in range(count)]


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
