"""Event loops that another thread may end: what an interrupt needs where the work is not in the main thread.

    loops = Loops()
    one.submit(loops.holding, work)     # `work` calls `in_loop` wherever a script would call asyncio.run
    loops.stop()                        # and its coroutine is cancelled, as by Ctrl-C in a script
"""
import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_held: contextvars.ContextVar["Loops | None"] = contextvars.ContextVar("held", default=None)


class Loops:
    """The event loops of a piece of work, one after another."""

    def __init__(self):
        self._lock, self._stopped = threading.Lock(), False
        self._at: tuple[asyncio.AbstractEventLoop, asyncio.Task] | None = None

    def holding(self, call: Callable[[], T]) -> T:
        """What `call` returns, whose loops are those that `stop` ends; to be called in the thread of the work."""
        token = _held.set(self)
        try:
            return call()
        finally:
            _held.reset(token)

    def stop(self) -> None:
        """Cancels what runs, from another thread, and has nothing more begin: CancelledError in the work."""
        with self._lock:
            self._stopped = True
            if self._at is not None:
                loop, task = self._at
                loop.call_soon_threadsafe(task.cancel)

    @contextlib.contextmanager
    def _at_this(self) -> Iterator[None]:
        with self._lock:
            self._check()
            self._at = asyncio.get_running_loop(), asyncio.current_task()
        try:
            yield
        finally:
            with self._lock:
                self._at = None

    def _check(self) -> None:
        if self._stopped:
            raise asyncio.CancelledError


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within the block the current task is what `Loops.stop` cancels."""
    held = _held.get()
    with held._at_this() if held else contextlib.nullcontext():
        yield


def check_stopped() -> None:
    """CancelledError when the work was told to stop; for work that asks without an event loop."""
    held = _held.get()
    if held:
        held._check()


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, of work that can be stopped."""
    async def run() -> T:
        try:
            with stoppable():
                return await work
        finally:
            work.close()        # where it never began
    return asyncio.run(run())
