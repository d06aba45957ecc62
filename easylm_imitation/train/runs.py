"""What the run dirs below a folder hold, told from their files alone: nothing is written, no checkpoint is opened."""
import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from easylm_imitation.schema import UserError
from easylm_imitation.train.lock import in_training
from easylm_imitation.weights import RunDir

_BARS = "▁▂▃▄▅▆▇█"


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """One run, as its files and its lock tell it."""
    path: str
    state: Literal["training", "finished", "diverged", "interrupted", "not started", "model", "unreadable"]
    step: int | None                # of the newest checkpoint
    logged: int | None              # of the last line of metrics
    total_steps: int | None         # None for a model without training
    loss: float | None              # of the last line that has one
    losses: tuple[float | None, ...]    # of all lines; None where it was not finite
    saved: float | None             # when the newest checkpoint was written, in seconds since 1970
    problem: str = ""               # why it is unreadable


def find_runs(folders: Sequence[str | os.PathLike]) -> list[RunSummary]:
    """The runs in and below the folders, by path. Raises UserError for a folder that is not there."""
    for folder in folders:
        if not pathlib.Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; give one that holds runs, or a run")
    return [summarize(path) for path in sorted({path for folder in folders for path in _run_dirs(folder)})]


def summarize(path: str | os.PathLike) -> RunSummary:
    """What one run dir holds."""
    run = RunDir(path)
    try:
        steps, lines, total = run.steps(), _metrics(run.metrics), _total(run)
        trains = run.config.is_file()
        saved = (run.checkpoints / str(steps[-1])).stat().st_mtime if steps else None
    except (OSError, ValueError, TypeError) as error:
        return RunSummary(str(path), "unreadable", None, None, None, None, (), None, " ".join(str(error).split()))
    losses = tuple(loss if isinstance(loss := line.get("loss"), float) else None for line in lines)
    step, logged = steps[-1] if steps else None, lines[-1].get("step") if lines else None
    if not trains:
        state = "model" if steps else "not started"
    elif in_training(run):
        state = "training"
    elif step is not None and total is not None and step >= total:
        state = "finished"
    elif losses and losses[-1] is None:
        state = "diverged"
    else:
        state = "interrupted" if lines or steps else "not started"
    known = [loss for loss in losses if loss is not None]
    return RunSummary(str(path), state, step, logged, total, known[-1] if known else None, losses, saved)


def sparkline(losses: Sequence[float | None], width: int = 20) -> str:
    """At most `width` bars, from the least loss to the largest; each the mean of as many losses as any other.

    >>> sparkline([4.0, 3.0, 2.0, 1.0])
    '█▆▃▁'
    """
    finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    count = min(width, len(finite))
    edges = [len(finite) * i // count for i in range(count + 1)] if count else []
    means = [sum(finite[a:b]) / (b - a) for a, b in zip(edges, edges[1:])]
    low, span = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    return "".join(_BARS[round((mean - low) / span * (len(_BARS) - 1)) if span else 0] for mean in means)


def age(saved: float | None) -> str:
    """How long ago, in its largest unit: '40 s', '12 min', '5 h', '3 d'."""
    if saved is None:
        return "-"
    seconds = max(time.time() - saved, 0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _run_dirs(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    for path, below, _ in os.walk(folder):
        if RunDir(path).holds_model():
            below.clear()
            yield pathlib.Path(path)
        below[:] = [name for name in below if not name.startswith(".")]


def _metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines; the last may be in the midst of being written."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
             if line.endswith("\n")]
    if not all(isinstance(line, dict) for line in lines):
        raise ValueError(f"{path}: not lines of metrics")
    return lines


def _total(run: RunDir) -> int | None:
    """The updates that the run has; the config knows them in a run that is older than length.json, if not by epochs."""
    for path, key in ((run.length, "total_steps"), (run.config, "steps")):
        if path.is_file() and isinstance(found := json.loads(path.read_text()), dict) and found.get(key):
            return int(found[key])
    return None
