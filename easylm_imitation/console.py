"""What people see: progress bars, tables and one-line errors, through rich; plain lines on a dumb terminal.

Everything here goes to stderr, so that stdout stays for results (`--json` puts one JSON object on its last line).
"""
import collections
import contextlib
import datetime
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator

import rich.console
import rich.progress
import rich.table
import rich.text

_console = rich.console.Console(stderr=True, highlight=False)


@contextlib.contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Silences `say`, `table` and progress within the block, or lets them speak; errors are shown in any case."""
    before, _console.quiet = _console.quiet, on
    try:
        yield
    finally:
        _console.quiet = before


def say(message: str) -> None:
    """One line of plain text; square brackets are not markup."""
    _console.print(message, markup=False, soft_wrap=True)


@functools.cache
def say_once(message: str) -> None:
    """`say`, but a message that this process has said already is not repeated."""
    say(message)


def marked(parts: Iterable[tuple[str, bool]]) -> None:
    """Text of which some parts stand out: in colour, or between >> and << where there is none. Characters that would
    steer a terminal are spelled out."""
    text = rich.text.Text()
    plain = _console.color_system is None
    for part, stands_out in parts:
        shown = "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in part)
        if stands_out:
            text.append(f">>{shown}<<" if plain else shown, style="black on green")
        else:
            text.append(shown)
    _console.print(text, soft_wrap=True)


def error(message: str) -> None:
    """One line that is shown even when quiet."""
    rich.console.Console(stderr=True, highlight=False).print(f"error: {message}", markup=False, soft_wrap=True)


def table(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Prints a small table, the first column left-aligned; square brackets are not markup."""
    made = rich.table.Table(title=rich.text.Text(title), title_justify="left")
    for i, column in enumerate(columns):
        made.add_column(rich.text.Text(column), justify="left" if i == 0 else "right")
    for row in rows:
        made.add_row(*[rich.text.Text(f"{cell:.4g}" if isinstance(cell, float) else str(cell)) for cell in row])
    _console.print(made)


@contextlib.contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Yields `advance(n=1, note="")`. A bar on a terminal; elsewhere a line at most every ten seconds,
    with the time that passed and, where `total` is known, what is left at that speed.

    >>> with progress("tokenizing", total=len(rows)) as advance:
    ...     for row in rows:
    ...         advance(note=f"{row}")
    """
    if _console.quiet:
        yield lambda n=1, note="": None
    elif _console.is_terminal and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", ""):
        with _bar() as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda n=1, note="": bar.update(task, advance=n, note=note)
    else:
        yield _lines(label, total)


def _bar() -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn(bar_width=30),
        rich.progress.MofNCompleteColumn(), rich.progress.TimeElapsedColumn(), rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}", markup=False), console=_console)


def _lines(label: str, total: int | None) -> Callable[..., None]:
    done, begun = 0, time.monotonic()
    shown = collections.deque([(begun, 0)], maxlen=4)      # (when, how many) of the last lines, which tell the speed

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done
        done += n
        now = time.monotonic()
        if now - shown[-1][0] >= 10 or (n and done == total):
            since, before = shown[0]
            shown.append((now, done))
            left = ((total or 0) - done) * (now - since) / (done - before) if done > before else 0
            said = [f"{label}: {done}/{'?' if total is None else total}", f"in {_hours(now - begun)}",
                    f"{_hours(left)} left" if left > 0 else "", note]
            say(", ".join(filter(None, said)))
    return advance


def _hours(seconds: float) -> str:
    """0:01:05 for 65 seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))
