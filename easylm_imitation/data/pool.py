"""Spreads the tokenizing of a build over processes, keeping the records' order and bounding what is in memory."""
import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from easylm_imitation.data import work
from easylm_imitation.data.ahead import in_order
from easylm_imitation.data.config import BuildConfig, CleanRule, SourceConfig
from easylm_imitation.data.files import SourceFiles
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.sources import RawRecord, count_records, iter_records
from easylm_imitation.text import Template, Tokenizer

T = TypeVar("T")
Found = tuple[str, int, list[work.Outcome]]
"""A record's file, its number there, and what became of it."""


class Made(Protocol):
    """The records of the sources, by the source's number. Sources are asked for in order."""

    def records(self, i: int) -> int:
        """How many a source has."""

    def __call__(self, i: int, chosen: np.ndarray | None = None) -> Iterator[Found]:
        """Each record, in order; of those alone that are `chosen`, bool [records], counted through its files."""


_Outcomes = Callable[[Iterator[RawRecord], SourceConfig, str], Iterator[list[work.Outcome]]]

_CHUNK = 256            # records a worker takes at a time
_WORTH = 4_000_000      # bytes of input, gzipped or not, from which starting processes (a second or two) pays


def worth_processes(files: Iterable[SourceFiles]) -> int:
    """How many processes inputs of this size deserve."""
    return (os.cpu_count() or 1) if sum(found.size for found in files) >= _WORTH else 1


@contextlib.contextmanager
def processes(config: BuildConfig, files: list[SourceFiles], datasets: list[str], tokenizer: Tokenizer,
              folder: pathlib.Path, template: Template) -> Iterator[Made]:
    """Yields the outcomes of the sources of `config`, by as many processes as it says or they are worth.

    `folder` holds `tokenizer`, for other processes to read.
    """
    count = config.processes or worth_processes(files)
    with _workers(count, tokenizer, folder, template, config.clean) as outcomes:
        yield _Direct(config, files, datasets, outcomes)


class _Direct:
    """The records as this machine reads them."""

    def __init__(self, config: BuildConfig, files: list[SourceFiles], datasets: list[str], outcomes: _Outcomes):
        self._config, self._files, self._datasets, self._outcomes = config, files, datasets, outcomes
        self._next = dict.fromkeys(datasets, 0)     # files of one dataset go on counting
        self._first: dict[int, int] = {}            # of each source
        self._counts: dict[pathlib.Path, int] = {}

    def records(self, i: int) -> int:
        """As `Made` says."""
        return sum(self._count(path, i) for path in self._files[i].paths)

    def _count(self, path: pathlib.Path, i: int) -> int:
        if path not in self._counts:
            self._counts[path] = count_records(path, FORMATS[self._config.sources[i].format].shape)
        return self._counts[path]

    def __call__(self, i: int, chosen: np.ndarray | None = None) -> Iterator[Found]:
        """As `Made` says."""
        source, dataset = self._config.sources[i], self._datasets[i]
        first = self._first.setdefault(i, self._next[dataset])
        if chosen is not None:
            self._next[dataset] = first + len(chosen)
        start = 0       # of the file's records, among the source's
        for path, name in zip(self._files[i].paths, self._files[i].names, strict=True):
            records = numbered(iter_records(path, FORMATS[source.format].shape), first + start)
            numbers: Iterator[int] = itertools.count()
            if chosen is not None:
                own = chosen[start:start + self._count(path, i)]
                records, numbers = itertools.compress(records, own), iter(np.flatnonzero(own).tolist())
                start += len(own)
            for outcome in self._outcomes(records, source, dataset):
                if chosen is None:
                    start += 1
                    self._next[dataset] = first + start
                yield name, next(numbers), outcome


def numbered(records: Iterator[RawRecord], first: int) -> Iterator[RawRecord]:
    """The records, counted from `first`: the number is what names a record that has no id."""
    return (record._replace(number=record.number + first) for record in records)


@contextlib.contextmanager
def _workers(count: int, tokenizer: Tokenizer, folder: pathlib.Path, template: Template,
             clean: tuple[CleanRule, ...]) -> Iterator[_Outcomes]:
    """Yields `outcomes(records, source, dataset)`: each record's list of outcomes, in order."""
    if count == 1:
        worker = work.Worker(tokenizer, template, clean)
        yield lambda records, *source: (o for chunk in chunks(records, _CHUNK) for o in worker.outcomes(chunk, *source))
        return
    spawn = multiprocessing.get_context("spawn")  # threads of this process (jax's, rich's) do not survive a fork
    arguments = str(folder), template.name, clean
    with concurrent.futures.ProcessPoolExecutor(count, spawn, work.start, arguments) as pool:
        yield lambda records, source, dataset: (
            outcomes for made in in_order(pool, functools.partial(work.run, source=source, dataset=dataset),
                                          chunks(records, _CHUNK), ahead=4 * count) for outcomes in made)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last may be shorter."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
