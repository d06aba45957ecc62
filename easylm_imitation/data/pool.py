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
from easylm_imitation.data.config import CleanRule, SourceConfig
from easylm_imitation.data.files import SourceFiles
from easylm_imitation.data.sources import RawRecord
from easylm_imitation.text import Template, Tokenizer

T = TypeVar("T")
Outcomes = Callable[[Iterator[RawRecord], SourceConfig, str], Iterator[list[work.Outcome]]]

_CHUNK = 256            # records a worker takes at a time
_WORTH = 4_000_000      # bytes of input, gzipped or not, from which starting processes (a second or two) pays


def worth_processes(files: Iterable[SourceFiles]) -> int:
    """How many processes inputs of this size deserve."""
    return (os.cpu_count() or 1) if sum(found.size for found in files) >= _WORTH else 1


@contextlib.contextmanager
def processes(count: int, tokenizer: Tokenizer, folder: pathlib.Path, template: Template,
              clean: tuple[CleanRule, ...]) -> Iterator[Outcomes]:
    """Yields `outcomes(records, source, dataset)`: each record's list of outcomes, in order; by `count` processes.

    `folder` holds `tokenizer`, for other processes to read; `clean` are the rules for all sources.
    """
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
