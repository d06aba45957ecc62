"""Reading a checkpoint so that a failure is one exception with one line, whatever Orbax had under way by then."""
import contextlib
import gc
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from easylm_imitation.schema import UserError


@contextlib.contextmanager
def reading(where: str, cure: str) -> Iterator[None]:
    """Turns an error of Orbax inside the block into a UserError: `where`, the first cause, then `cure`.

    Orbax reads arrays side by side and leaves the others behind when one fails: they complain later, some from the
    threads of tensorstore, that nobody waited for them. Those complaints say nothing new, so they are not shown.
    """
    show = sys.unraisablehook

    def show_others(news: Any) -> None:
        if "Event loop is closed" not in str(news.exc_value):
            show(news)

    sys.unraisablehook = show_others    # stays after a failure: the complaints may come late
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        message = f"{where} ({_first_cause(error)}); {cure}"
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)     # "exception was never retrieved"
        with warnings.catch_warnings(action="ignore"):              # "coroutine was never awaited"
            traceback.clear_frames(error.__traceback__)
            gc.collect()
        raise UserError(message) from None
    sys.unraisablehook = show


def _first_cause(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return " ".join(str(error).split())[:200]
