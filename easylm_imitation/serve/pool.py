"""The pool of texts to score: what is read next, and what of it is read once for many.

Each plan begins with the oldest request. If many waiting texts begin as its text does (the examples of a task), that
beginning is read into a prefix cache, in pieces of compiled sizes that are always full, and the texts' own parts follow
as trees in rows. Texts longer than a row are read by the same means. Without such a beginning, rows are filled with
whatever fits, longest first.

A prefix cache keeps several beginnings, the least used of which makes room. Probabilities asked within a beginning are
kept with it, so that a server whose clients want them echoed with each text computes them once.
"""
import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.forest import Questions, Segment, Tree, common_start, grow, pack
from easylm_imitation.serve.sampling import Sampled

_CALLS = 32     # device calls of one plan; then the oldest request is looked for again


@dataclasses.dataclass(eq=False)
class _Kept:
    """One row of the prefix cache."""
    slot: int
    tokens: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    said: dict[tuple[int, int], Sampled] = dataclasses.field(default_factory=dict)  # answers by (index, target)
    used: int = 0                                                                   # when, in calls


@dataclasses.dataclass(eq=False)
class _Plan:
    """Texts that share the first `root` tokens of one of them."""
    seed: Segment               # the text that it was made for
    root: int
    kept: _Kept                 # where the beginning is, or will be
    members: list[Segment]      # in lexicographic order
    shared: list[int]           # tokens that each has in common with the member before it
    trees: list[Tree] | None = None
    calls: int = 0


class Pool:
    """Segments that wait to be scored; `step` scores as many as fit one device call."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._shapes = engine.shapes
        self._row = max(length for _, length in self._shapes.score)
        self._piece = min(self._shapes.read)
        self._kept = [_Kept(slot) for slot in range(self._shapes.prefixes)]
        self._waiting: list[Segment] = []
        self._plan: _Plan | None = None
        self._tickets = self._calls = 0
        self.tokens = self.cells = 0            # read and computed so far: their ratio is the packing's worth

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, segments: Iterable[Segment]) -> None:
        """Takes segments that arrived together."""
        self._tickets += 1
        for segment in segments:
            segment.ticket = self._tickets
            self._waiting.append(segment)

    def remove(self, segments: Iterable[Segment]) -> None:
        """Gives up segments that nobody waits for any more."""
        self._drop(segments)
        self._plan = None

    def step(self) -> None:
        """One device call, or none where all that waits is known already."""
        if self._plan is None:
            self._recall_all()
            if not self._waiting:
                return
            self._plan = self._make_plan()
        plan = self._plan
        self._calls += 1
        plan.calls += 1
        if len(plan.kept.tokens) < plan.root:
            self._read(plan)
        else:
            self._score(plan)
        if not plan.members or plan.trees == [] or plan.calls >= _CALLS:
            self._plan = None

    # ------------------------------------------------------------------ planning

    def _make_plan(self) -> _Plan:
        keyed = sorted((s.tokens.astype(">u4").tobytes(), i) for i, s in enumerate(self._waiting))
        ordered = self._waiting = [self._waiting[i] for _, i in keyed]
        shared = [0, *(common_start(a.tokens, b.tokens) for a, b in itertools.pairwise(ordered))]
        at = min(range(len(ordered)), key=lambda i: (ordered[i].ticket, -len(ordered[i].tokens)))
        seed, with_seed = ordered[at], _common_with(at, shared, len(ordered[at].tokens))
        kept, there = self._nearest(seed)
        root = self._choose_root(seed, ordered, np.asarray(shared), with_seed, there)
        if root:
            kept = self._make_room(kept, seed, min(there, root), root)
            members = np.flatnonzero(with_seed >= root)
        else:
            families = _families(ordered, shared, 2 * self._piece, self._row)
            members = [i for i, s in enumerate(ordered) if len(s.tokens) <= self._row and
                       families[i] in (0, families[at])]
        return _Plan(seed, root, kept, [ordered[i] for i in members], _between(members, shared))

    def _recall_all(self) -> None:
        """Answers what was asked before about a beginning that is kept."""
        for kept in self._kept:
            for segment in self._waiting:
                _recall(segment, kept)
        self._drop([segment for segment in self._waiting if segment.complete])

    def _nearest(self, seed: Segment) -> tuple[_Kept, int]:
        """The kept beginning that has most in common with a text, and how much of it need not be read again."""
        overlaps = [min(common_start(kept.tokens, seed.tokens), seed.first) for kept in self._kept]
        best = max(range(len(overlaps)), key=overlaps.__getitem__)
        return self._kept[best], overlaps[best] // self._piece * self._piece

    def _choose_root(self, seed: Segment, ordered: list[Segment], shared: np.ndarray, with_seed: np.ndarray,
                     there: int) -> int:
        """How many tokens to read once: where that saves most cells, given that `there` of them are read already."""
        size, row, piece = len(seed.tokens), self._row, self._piece
        least = -(-max(0, size - row) // piece) * piece
        lengths = np.asarray([len(s.tokens) for s in ordered])
        best, root = (piece, 0) if not least else (-np.inf, least)
        for candidate in range(max(least, piece), size, piece):
            members = with_seed >= candidate
            behind = (lengths - np.maximum(shared, candidate))[members].sum()
            rows = behind / max(row - candidate, row // 4)      # that would repeat the beginning, were it not kept
            saving = candidate * rows - max(0, candidate - there)
            if saving > best:
                best, root = saving, candidate
        return root

    def _make_room(self, kept: _Kept, seed: Segment, there: int, root: int) -> _Kept:
        """The row of the prefix cache for a beginning of which `there` tokens stand in `kept`."""
        if there == root:
            return kept
        if 2 * there < len(kept.tokens):    # worth keeping as it is
            kept, there = min(self._kept, key=lambda k: k.used), 0
        kept.tokens = seed.tokens[:there]
        kept.said = {point: answer for point, answer in kept.said.items() if point[0] < there}
        return kept

    # ------------------------------------------------------------------ device calls

    def _read(self, plan: _Plan) -> None:
        """The next piece of a plan's beginning, and what is asked about its tokens."""
        kept, start = plan.kept, len(plan.kept.tokens)
        size = max(size for size in self._shapes.read if start + size <= plan.root)
        end = start + size
        questions = Questions(size)
        for segment in (plan.seed, *(s for s in plan.members if s is not plan.seed)):
            if start <= segment.first < end:
                questions.ask(segment, [(index - start, target) for index, target in segment.asked_before(end)])
        out = self._engine.read(kept.slot, plan.seed.tokens[start:end], start, questions.points())
        kept.tokens, kept.used = plan.seed.tokens[:end], self._calls
        kept.said |= {(start + cell, target): answer for (cell, target), answer in questions.answers(out)}
        self.tokens, self.cells = self.tokens + size, self.cells + size
        self._drop(segment for segment in questions.deliver(out) if segment.complete)
        open_ = [i for i, segment in enumerate(plan.members) if not segment.complete]
        plan.members, plan.shared = [plan.members[i] for i in open_], _between(open_, plan.shared)

    def _score(self, plan: _Plan) -> None:
        """As many trees as fit one call."""
        if plan.trees is None:
            plan.trees = self._grow(plan)
        if not plan.trees:
            return
        shape, before = self._choose_shape(plan), sum(map(len, plan.trees))
        rows, questions, plan.trees = pack(plan.trees, shape)
        out = self._engine.score(shape, rows, questions.points(), plan.kept.slot, plan.root)
        if plan.root:
            plan.kept.used = self._calls
        self.tokens += before - sum(map(len, plan.trees))
        self.cells += shape[0] * shape[1]
        self._drop(questions.deliver(out))

    def _grow(self, plan: _Plan) -> list[Tree]:
        ready = [i for i, s in enumerate(plan.members)
                 if s.first >= plan.root and 0 < len(s.tokens) - plan.root <= self._row]
        segments = [plan.members[i] for i in ready]
        return sorted(grow(segments, _between(ready, plan.shared), plan.root, self._row), key=lambda tree: -tree.extent)

    def _choose_shape(self, plan: _Plan) -> tuple[int, int]:
        """The shape with the most tokens for its cost; a call has a fixed cost of about 64 tokens."""
        longest, total = max(t.extent for t in plan.trees), sum(t.extent for t in plan.trees)

        def worth(shape: tuple[int, int]) -> float:
            area = shape[0] * shape[1]
            return min(total, 0.9 * area) / (area + 64)

        return max((s for s in self._shapes.score if s[1] >= longest), key=worth)

    def _drop(self, segments: Iterable[Segment]) -> None:
        gone = set(map(id, segments))
        if gone:
            self._waiting = [segment for segment in self._waiting if id(segment) not in gone]


def _common_with(at: int, shared: Sequence[int], size: int) -> np.ndarray:
    """What each of the ordered texts has in common with number `at`, which has `size` tokens."""
    left, right = shared[at:0:-1], shared[at + 1:]
    return np.concatenate([np.minimum.accumulate(left)[::-1] if left else [], [size],
                           np.minimum.accumulate(right) if right else []]).astype(int)


def _between(members: Sequence[int], shared: Sequence[int]) -> list[int]:
    """`shared` of some of the ordered texts alone: with the one of them before it."""
    return [0, *(min(shared[a + 1:b + 1]) for a, b in itertools.pairwise(members))] if len(members) else []


def _families(ordered: Sequence[Segment], shared: Sequence[int], least: int, row: int) -> list[int]:
    """A number for each text; 0 where it and those that begin with the same `least` tokens fit one row."""
    starts = [i for i, common in enumerate(shared) if common < least]
    labels: list[int] = []
    for start, end in itertools.pairwise([*starts, len(ordered)]):
        own = sum(len(ordered[i].tokens) - (shared[i] if i > start else 0) for i in range(start, end))
        labels += [start + 1 if own > row else 0] * (end - start)
    return labels


def _recall(segment: Segment, kept: _Kept) -> None:
    """Gives a text the answers that are known of a beginning that it shares."""
    if segment.complete or segment.points[segment.answered] not in kept.said:
        return
    common = common_start(segment.tokens, kept.tokens)
    known = []
    for point in segment.points[segment.answered:]:
        if point[0] >= common or point not in kept.said:
            break
        known.append(kept.said[point])
    if known:
        segment.take(Sampled(*(np.stack(parts) for parts in zip(*known))))
