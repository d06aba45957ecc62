"""Reading and writing checkpoints so that a failure is one exception, whatever Orbax had under way by then."""
import contextlib
import gc
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from easylm_imitation.schema import UserError

# What a place answers that is not to blame itself: tensorstore's words for no right to read, no memory, no connection.
_NOT_DAMAGE = ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")


class Unreadable(UserError):
    """What lies there is damaged, as far as anybody can tell; `cause` is the first error, in a line."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


# What Orbax raises over garbage, or a disk that is full.
_FAULTS = (ValueError, KeyError, TypeError, AttributeError, OSError)


@contextlib.contextmanager
def reading(where: str, cure: str) -> Iterator[None]:
    """Turns an error of Orbax inside the block into a UserError: `where`, the first cause, then `cure`.

    It is an `Unreadable` unless the place merely refused, as one without permission does.
    """
    try:
        with without_echoes():
            yield
    except _FAULTS as error:
        cause, refused = _first_cause(error)
        message = f"{where} ({cause}); {cure}"
        raise (UserError(message) if refused else Unreadable(message, cause)) from None


@contextlib.contextmanager
def without_echoes() -> Iterator[None]:
    """An error of Orbax inside the block is heard once.

    Orbax treats arrays side by side and leaves the others behind when one fails: they complain later, some from the
    threads of tensorstore, that nobody waited for them. Those complaints say nothing new, so they are not shown.
    """
    show = sys.unraisablehook

    def show_others(news: Any) -> None:
        if not _left_behind(news):
            show(news)

    # All of this stays after a failure: the complaints may come late.
    sys.unraisablehook = show_others
    try:
        yield
        sys.unraisablehook = show
    except _FAULTS as error:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)     # "exception was never retrieved"
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise


def _left_behind(news: Any) -> bool:
    """Whether `sys.unraisablehook` was called for a read of Orbax that nobody waits for any more."""
    coroutine = getattr(news.object, "cr_code", None)
    return "Event loop is closed" in str(news.exc_value) or (coroutine is not None
                                                             and "orbax" in coroutine.co_filename)


def _first_cause(error: BaseException) -> tuple[str, bool]:
    """(what began it, in a line; whether the place refused to be read, rather than held something damaged)."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    refused = isinstance(error, PermissionError) or any(word in str(error) for word in _NOT_DAMAGE)
    plain = isinstance(error, (KeyError, TypeError, AttributeError))        # their texts say little by themselves
    text = f"{type(error).__name__} {error}" if plain else str(error)
    return " ".join(text.split())[:200], refused
