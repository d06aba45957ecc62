"""What every benchmark here shares: best-of-n timing, a printed table, a dated section appended to RESULTS.md."""
import datetime
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence

from easylm_imitation import console

RESULTS = pathlib.Path(__file__).parent / "RESULTS.md"


def best_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of `repeats` calls, after one call that warms up. `run` must wait for its own result."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def report(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Prints the table and appends it to RESULTS.md with the command, the date and the machine."""
    console.table(title, list(columns), [list(row) for row in rows])
    cells = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    told = [os.path.basename(arg) if os.path.isabs(arg) else arg for arg in sys.argv[1:]]   # no machine's paths
    command = " ".join(["python", os.path.relpath(sys.argv[0]), *told])
    lines = [f"\n## {title}", "", f"`{command}`, {_today()}, {_machine()}. {note}".rstrip(), "",
             "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    with RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _machine() -> str:
    import jax
    devices = jax.devices()
    device = f"{devices[0].device_kind} x {len(devices)}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {device}, jax {jax.__version__}"
