"""Texts laid out as trees: what several of them begin with is read once (models/tree.py says how a row of trees sees).

A `Segment` is one text and the points in it where the probability of a token is asked. A `Tree` holds segments that
share cells; equal questions in it are asked once. `pack` puts trees into the rows of one device call:

    "the sky is" + " blue"                 cells   the sky is     points  (is, blue) (is, red) (is, dark) (dark, red)
    "the sky is" + " red"          ->              └── dark
    "the sky is" + " dark red"
"""
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from easylm_imitation.serve.programs import Points, Rows
from easylm_imitation.serve.sampling import Sampled


@dataclasses.dataclass(eq=False)
class Segment:
    """One text to read. `points[i]` = (index of a token, the id whose probability after it is asked; 0 if none is)."""
    tokens: np.ndarray                      # int32 [n]
    points: list[tuple[int, int]]           # by ascending index
    done: Callable[[Sampled], None]         # gets the answers, [len(points)] entries, when all are there
    ticket: int = 0                         # order of arrival
    answers: list[Sampled] = dataclasses.field(default_factory=list)
    answered: int = 0                       # points that have one

    @property
    def complete(self) -> bool:
        """Whether everything is answered."""
        return self.answered == len(self.points)

    @property
    def first(self) -> int:
        """Index of the first token at which something is still asked; the number of tokens when nothing is."""
        return len(self.tokens) if self.complete else self.points[self.answered][0]

    def asked_before(self, index: int) -> list[tuple[int, int]]:
        """The unanswered points in front of a token."""
        points = self.points[self.answered:]
        return points[:next((i for i, point in enumerate(points) if point[0] >= index), len(points))]

    def take(self, answers: Sampled) -> None:
        """Takes the answers to the next points."""
        self.answers.append(answers)
        self.answered += len(answers.ids)
        if self.complete:
            self.done(Sampled(*(np.concatenate(parts) for parts in zip(*self.answers))))


class Questions:
    """Points of one device call, at most `room` different ones."""

    def __init__(self, room: int):
        self._places: dict[tuple[int, int], int] = {}
        self._askers: list[tuple[Segment, list[int]]] = []
        self._room = room

    def __len__(self) -> int:
        return len(self._places)

    def ask(self, segment: Segment, points: Sequence[tuple[int, int]]) -> bool:
        """Adds the next points of a segment as (cell, target); False, and nothing is added, when there is no room."""
        fresh = {point for point in points if point not in self._places}
        if len(self._places) + len(fresh) > self._room:
            return False
        places = [self._places.setdefault(point, len(self._places)) for point in points]
        self._askers.append((segment, places))
        return True

    def join(self, other: "Questions", offset: int) -> None:
        """Adds all of another's questions, whose cells stand `offset` further on; there is room."""
        start = len(self._places)
        self._places |= {(cell + offset, target): start + i for (cell, target), i in other._places.items()}
        self._askers += [(segment, [start + i for i in places]) for segment, places in other._askers]

    def points(self) -> Points:
        """The questions as arrays."""
        indices, targets = np.zeros((2, self._room), np.int32)
        if self._places:
            indices[:len(self)], targets[:len(self)] = np.transpose(list(self._places))
        return Points(indices, targets, np.int32(len(self)))

    def answers(self, out: Sampled) -> Iterator[tuple[tuple[int, int], Sampled]]:
        """Each question (cell, target) with its answer."""
        return ((point, Sampled(*(part[i] for part in out))) for point, i in self._places.items())

    def deliver(self, out: Sampled) -> list[Segment]:
        """Gives the answers to those who asked; returns them."""
        for segment, places in self._askers:
            segment.take(Sampled(*(part[places] for part in out)))
        return [segment for segment, _ in self._askers]


class Tree:
    """Segments whose texts share cells, behind `root` tokens that stand in a prefix cache; at most `room` cells."""

    def __init__(self, root: int, room: int):
        self.questions = Questions(room)
        self._root = root
        self._tokens, self._positions, self._ends = np.zeros((3, room), np.int32)
        self._path = np.zeros(0, np.int32)      # cells of the newest segment
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def extent(self) -> int:
        """Cells of a row that it takes, which has as many points as cells."""
        return max(self._size, len(self.questions))

    def add(self, segment: Segment, shared: int) -> bool:
        """Adds the next segment in lexicographic order, which has its first `shared` tokens in common with the one
        before it. False, and nothing is changed, when it does not fit.
        """
        keep = min(max(shared - self._root, 0), len(self._path))
        new = segment.tokens[self._root + keep:]
        end = self._size + len(new)
        if end > len(self._tokens):
            return False
        path = np.concatenate([self._path[:keep], np.arange(self._size, end, dtype=np.int32)])
        points = segment.points[segment.answered:]
        if not self.questions.ask(segment, [(int(path[index - self._root]), target) for index, target in points]):
            return False
        span = slice(self._size, end)
        self._tokens[span], self._positions[span] = new, np.arange(self._root + keep, len(segment.tokens))
        self._ends[path] = end      # the subtree of each cell on the path reaches at least here
        self._path, self._size = path, end
        return True

    def write(self, rows: Rows, row: int, start: int) -> None:
        """Puts the tree into a row, from cell `start` on."""
        span = slice(start, start + self._size)
        rows.tokens[row, span], rows.positions[row, span] = self._tokens[:self._size], self._positions[:self._size]
        rows.ends[row, span] = self._ends[:self._size] + start


def common_start(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two texts begin with alike."""
    size = min(len(a), len(b))
    differ = a[:size] != b[:size]
    first = int(differ.argmax()) if size else 0
    return first if size and differ[first] else size


def grow(segments: Sequence[Segment], shared: Sequence[int], root: int, room: int) -> list[Tree]:
    """Trees of segments in lexicographic order; `shared[i]` tokens has number i in common with the one before it.

    A segment joins the tree before it where at least an eighth of it is there already: smaller trees pack better.
    """
    trees: list[Tree] = []
    for segment, common in zip(segments, shared):
        joins = trees and common > root and 8 * (common - root) >= len(segment.tokens) - root
        if not (joins and trees[-1].add(segment, common)):
            trees.append(Tree(root, room))
            if not trees[-1].add(segment, 0):
                raise ValueError(f"a text with {len(segment.tokens)} tokens and {len(segment.points)} points does not "
                                 f"fit a row of {room} behind {root}")
    return trees


def pack(trees: Sequence[Tree], shape: tuple[int, int]) -> tuple[Rows, Questions, list[Tree]]:
    """First-fit of trees, in the order given, into rows; returns them and the trees that are left over."""
    count, length = shape
    rows = Rows(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.tile(np.arange(1, length + 1, dtype=np.int32),
                                                                              (count, 1)))
    questions, left = Questions(count * length), []
    free = [length] * count
    smallest = min(tree.extent for tree in trees)
    for tree in trees:
        row = next((r for r, room in enumerate(free) if room >= tree.extent), None) if max(free) >= smallest else None
        if row is None:
            left.append(tree)
            continue
        start = length - free[row]
        tree.write(rows, row, start)
        questions.join(tree.questions, row * length + start)
        free[row] -= tree.extent
    return rows, questions, left
