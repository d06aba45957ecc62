"""Work spread over a pool, with the results in order and little of it in memory."""
import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

S, T = TypeVar("S"), TypeVar("T")


def in_order(pool: concurrent.futures.Executor, work: Callable[[S], T], items: Iterable[S], ahead: int) -> Iterator[T]:
    """`work(item)` of each item, done by `pool`, in the items' order; at most `ahead` of them are under way."""
    pending: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:    # the reader has enough, or something was raised
        for future in pending:
            future.cancel()
