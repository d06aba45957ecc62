"""Log-likelihoods of given texts: the path that evaluation spends its time on.

A question is a `Segment`: tokens to read, and points in them where the probability of a token is asked. Segments of
any number of requests wait in a `Pool`; each turn packs a row (or several) of one compiled shape with them, longest
first, kept apart by segment ids, and projects only the points on the vocabulary. Several one-token continuations of one
context are one segment with several points at its end:

    ("The sky is", [" blue", " red"])  ->  tokens [The, sky, is], points [(2, blue), (2, red)]
"""
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from easylm_imitation.schema import UserError
from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.programs import Points, Rows
from easylm_imitation.serve.sampling import Sampled

Pair = tuple[Sequence[int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Score:
    """What one continuation got. `greedy`: each of its tokens was the likeliest in its place."""
    logprob: float
    greedy: bool
    token_logprobs: tuple[float, ...]


@dataclasses.dataclass(eq=False)
class Segment:
    """One text to read. `points[i]` = (index of a token, the id whose probability after it is asked; 0 if none is)."""
    tokens: np.ndarray                      # int32 [n]
    points: list[tuple[int, int]]           # at most n of them
    done: Callable[[Sampled], None]         # gets the answers, [len(points)] entries
    ticket: int = 0                         # order of arrival


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


class Pool:
    """Segments that wait to be scored; `step` scores as many as fit one device call."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._waiting: list[Segment] = []       # longest first
        self._tickets = 0
        self.tokens = self.cells = 0            # read and computed so far: their ratio is the packing's worth

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, segments: Iterable[Segment]) -> None:
        """Takes segments that arrived together."""
        self._tickets += 1
        for segment in segments:
            segment.ticket = self._tickets
            self._waiting.append(segment)
        self._waiting.sort(key=lambda s: (-len(s.tokens), s.ticket))

    def remove(self, segments: Iterable[Segment]) -> None:
        """Gives up segments that nobody waits for any more."""
        gone = set(map(id, segments))
        self._waiting = [segment for segment in self._waiting if id(segment) not in gone]

    def step(self) -> None:
        """One device call. The longest segment of the oldest arrival is always in it, so nothing waits for ever."""
        shape = self._choose()
        placed, self._waiting = _place(self._waiting, shape)
        rows, points = _arrays(placed, shape)
        self.tokens += sum(len(segment.tokens) for row in placed for segment in row)
        self.cells += shape[0] * shape[1]
        out = self._engine.score(rows, points)
        start = 0
        for segment in (segment for row in placed for segment in row):
            stop = start + len(segment.points)
            segment.done(Sampled(*(part[start:stop] for part in out)))
            start = stop

    def _choose(self) -> tuple[int, int]:
        """The shape with the most tokens for its cost; a call has a fixed cost of about 64 tokens."""
        longest, total = len(self._waiting[0].tokens), sum(len(segment.tokens) for segment in self._waiting)

        def worth(shape: tuple[int, int]) -> float:
            area = shape[0] * shape[1]
            return min(total, 0.9 * area) / (area + 64)

        return max((shape for shape in self._engine.shapes.score if shape[1] >= longest), key=worth)


def pair_segments(pairs: Sequence[Pair], context: int, vocab_size: int, found: list[Score | None]) -> list[Segment]:
    """Segments for pairs; scoring them fills `found[i]` for pair i. Pairs that read the same tokens share a segment.

    Raises UserError as `Scorer.score` does.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (before, after) in enumerate(pairs):
        check_ids([*before, *after], vocab_size, f"pair {i}")
        if not len(before) or not len(after):
            empty = "context is empty; begin it with the model's first token" if len(after) else "continuation is empty"
            raise UserError(f"pair {i}: the {empty}")
        if len(before) + len(after) - 1 > context:
            raise UserError(f"pair {i}: {len(before)} context and {len(after)} continuation tokens are more than this "
                            f"server's context of {context} can score; shorten the context")
        groups.setdefault((*before, *after[:-1]), []).append(i)
    segments = []
    for tokens, members in groups.items():
        while members:
            segments.append(_segment(tokens, members, pairs, found))
    return segments


def check_ids(ids: Sequence[int], vocab_size: int, where: str) -> None:
    """Raises UserError for the first id that the model has no embedding for."""
    for i, token in enumerate(ids):
        if not 0 <= token < vocab_size:
            raise UserError(f"{where}: token id {token} (number {i}) is outside the vocabulary of {vocab_size}")


def _segment(tokens: tuple[int, ...], members: list[int], pairs: Sequence[Pair], found: list[Score | None]) -> Segment:
    """Takes from `members` as many pairs as one segment can answer: no more points than tokens, so arrays suffice."""
    points: list[tuple[int, int]] = []
    spans: list[tuple[int, int, int]] = []
    while members and len(points) + len(pairs[members[-1]][1]) <= len(tokens):
        i = members.pop()
        after = pairs[i][1]
        first = len(tokens) - len(after)
        spans.append((i, len(points), len(points) + len(after)))
        points += [(first + j, token) for j, token in enumerate(after)]

    def done(out: Sampled) -> None:
        for i, start, stop in spans:
            found[i] = _score(pairs[i][1], Sampled(*(part[start:stop] for part in out)))

    return Segment(np.asarray(tokens, np.int32), points, done)


def _score(targets: Sequence[int], out: Sampled) -> Score:
    values = tuple(float(value) for value in out.logprobs)
    likeliest = (out.top_ids[:, 0] == np.asarray(targets)) | (out.logprobs >= out.top_logprobs[:, 0])   # a tie counts
    return Score(sum(values), bool(likeliest.all()), values)


def _place(waiting: list[Segment], shape: tuple[int, int]) -> tuple[list[list[Segment]], list[Segment]]:
    """First-fit of segments (longest first, the oldest before all) into rows; returns rows and what is left over."""
    free = [shape[1]] * shape[0]
    rows: list[list[Segment]] = [[] for _ in free]
    left = []
    oldest = min(waiting, key=lambda segment: segment.ticket)
    shortest = len(waiting[-1].tokens)
    for segment in (oldest, *(s for s in waiting if s is not oldest)):
        size = len(segment.tokens)
        row = next((r for r, room in enumerate(free) if room >= size), None) if max(free) >= shortest else None
        if row is None:
            left.append(segment)
        else:
            rows[row].append(segment)
            free[row] -= size
    return rows, left


def _arrays(placed: list[list[Segment]], shape: tuple[int, int]) -> tuple[Rows, Points]:
    rows = Rows(*(np.zeros(shape, np.int32) for _ in range(3)))
    indices, targets = np.zeros((2, shape[0] * shape[1]), np.int32)
    count = 0
    for r, row in enumerate(placed):
        start = 0
        for number, segment in enumerate(row, 1):
            size = len(segment.tokens)
            span = slice(start, start + size)
            rows.tokens[r, span], rows.positions[r, span] = segment.tokens, np.arange(size)
            rows.segment_ids[r, span] = number
            for index, target in segment.points:
                indices[count], targets[count] = r * shape[1] + start + index, target
                count += 1
            start += size
    return rows, Points(indices, targets, np.int32(count))
