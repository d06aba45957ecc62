"""Log-likelihoods of given continuations: the path that evaluation spends its time on.

A pair becomes a `Segment` (forest.py); segments of any number of requests wait in a `Pool` (pool.py), which reads what
they have in common once, and asks for a token's probability only where somebody wants it.
"""
import dataclasses
from collections.abc import Sequence

import numpy as np

from easylm_imitation.schema import UserError
from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.forest import Segment
from easylm_imitation.serve.pool import Pool
from easylm_imitation.serve.sampling import Sampled

Pair = tuple[Sequence[int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Score:
    """What one continuation got. `greedy`: each of its tokens was the likeliest in its place."""
    logprob: float
    greedy: bool
    token_logprobs: tuple[float, ...]


class Scorer:
    """Scores (context ids, continuation ids) pairs on an engine, in the calling thread.

    >>> Scorer(engine).score([([5, 6, 7], [8]), ([5, 6, 7], [9, 4])])
    [Score(logprob=-4.1, greedy=False, token_logprobs=(-4.1,)), Score(...)]
    """

    def __init__(self, engine: Engine):
        self._engine = engine

    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """One Score a pair, in order. Raises UserError for an empty side, a foreign id or a pair that is too long."""
        found: list[Score | None] = [None] * len(pairs)
        pool = Pool(self._engine)
        pool.add(pair_segments(pairs, self._engine.shapes.context, self._engine.config.vocab_size, found))
        while pool:
            pool.step()
        return found


def pair_segments(pairs: Sequence[Pair], context: int, vocab_size: int, found: list[Score | None]) -> list[Segment]:
    """Segments for pairs; scoring them fills `found[i]` for pair i. Raises UserError as `Scorer.score` does."""
    for i, (before, after) in enumerate(pairs):
        check_ids([*before, *after], vocab_size, f"pair {i}")
        if not len(before) or not len(after):
            empty = "context is empty; begin it with the model's first token" if len(after) else "continuation is empty"
            raise UserError(f"pair {i}: the {empty}")
        check_size(i, before, after, context)
    return [_segment(*pair, found, i) for i, pair in enumerate(pairs)]


def check_size(number: int, before: Sequence[int], after: Sequence[int], context: int) -> None:
    """Raises UserError for a pair that is too long."""
    if len(before) + len(after) - 1 > context:
        raise UserError(f"pair {number}: {len(before)} context and {len(after)} continuation tokens are more than this "
                        f"server's context of {context} can score; shorten the context")


def check_ids(ids: Sequence[int], vocab_size: int, where: str) -> None:
    """Raises UserError for the first id outside a vocabulary."""
    for i, token in enumerate(ids):
        if not 0 <= token < vocab_size:
            raise UserError(f"{where}: token id {token} (number {i}) is outside the vocabulary of {vocab_size}")


def _segment(before: Sequence[int], after: Sequence[int], found: list[Score | None], place: int) -> Segment:
    def done(out: Sampled) -> None:
        found[place] = _score(after, out)

    tokens = np.asarray([*before, *after[:-1]], np.int32)
    return Segment(tokens, list(enumerate(after, len(before) - 1)), done)


def _score(targets: Sequence[int], out: Sampled) -> Score:
    values = tuple(float(value) for value in out.logprobs)
    # A tie counts. Padding of the vocabulary may have more than the likeliest token, but is never chosen.
    likeliest = (out.top_ids[:, 0] == np.asarray(targets)) | (out.logprobs == out.top_logprobs[:, 0])
    return Score(sum(values), bool(likeliest.all()), values)
