"""Spreads the tokenizing of a build over processes, keeping the records' order and bounding what is in memory."""
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from easylm_imitation.data import work
from easylm_imitation.data.ahead import in_order
from easylm_imitation.data.config import BuildConfig, CleanRule, SourceConfig
from easylm_imitation.data.files import SourceFiles
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.sources import RawRecord, iter_records
from easylm_imitation.text import Template, Tokenizer

T = TypeVar("T")
Made = Callable[[int], Iterator[tuple[str, int, list[work.Outcome]]]]
"""Of a source by its number: (file, number in it, outcomes) of each of its records, in order. Sources are asked for in
order."""
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
    numbers = dict.fromkeys(datasets, 0)    # records read of each dataset: files of one dataset go on counting
    count = config.processes or worth_processes(files)
    with _workers(count, tokenizer, folder, template, config.clean) as outcomes:
        def made(i: int) -> Iterator[tuple[str, list[work.Outcome]]]:
            source, dataset = config.sources[i], datasets[i]
            for path, name in zip(files[i].paths, files[i].names, strict=True):
                records = numbered(iter_records(path, FORMATS[source.format].shape), numbers[dataset])
                for number, outcome in enumerate(outcomes(records, source, dataset)):
                    numbers[dataset] += 1
                    yield name, number, outcome
        yield made


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
