"""The numbers of a verdict: for one imitation, each task against base and teacher, then each view of it as a whole.

A view is one way of asking for one side of the verdict: (substance, raw, choices), (style, chat, style), ... A finding
that holds in one view and not in another is reported as such, not averaged away.
"""
import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from easylm_imitation.records import TaskResult
from easylm_imitation.report import statistics
from easylm_imitation.report.pairing import Measured, Trio, task_key
from easylm_imitation.report.statistics import Estimate, GapClosed

Finding = Literal["gained", "lost", "unchanged", "unknown"]
ONE_STYLE_NUMBER = "style_match"    # where evaluate offers it, this task alone speaks for style; its parts are shown


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Scores of the three models on the same items, the imitation's change against its base, and the gap closed."""
    items: int
    imitation: Estimate
    base: Estimate | None
    teacher: Estimate | None
    change: Estimate | None             # imitation - base
    closed: GapClosed
    finding: Finding                    # about `change`: measurable only when its interval leaves out zero


@dataclasses.dataclass(frozen=True)
class TaskComparison:
    """One task under one prompt form."""
    task: str
    prompt: str
    form: str
    metric: str
    group: str
    shots: int
    sample: bool
    p_value: float | None               # exact sign test of imitation against base
    numbers: Numbers


@dataclasses.dataclass(frozen=True)
class View:
    """All tasks of one group asked in one prompt form and answered in one form; tasks count alike."""
    group: str
    prompt: str
    form: str
    tasks: tuple[str, ...]
    numbers: Numbers


@dataclasses.dataclass(frozen=True)
class _Row:
    """One task's results of the three, ready to compare: other models' results are None when absent or refused."""
    mine: TaskResult
    base: TaskResult | None
    teacher: TaskResult | None


def compare(trio: Trio) -> tuple[list[TaskComparison], list[View], list[str]]:
    """Comparisons of each task, views over them, and a line for every comparison that is refused."""
    refusals: list[str] = []
    rows = [_Row(task, _counterpart(task, trio, trio.base, refusals), _counterpart(task, trio, trio.teacher, refusals))
            for task in trio.imitation.tasks]
    return [_task(row) for row in rows], _views(rows), refusals


def group_of(task: TaskResult) -> str:
    """Which side of the verdict a task speaks for; style tasks are known by their form where the group is left out."""
    return task.group or ("style" if task.form == "style" else "substance")


def _counterpart(task: TaskResult, trio: Trio, other: Measured | None, refusals: list[str]) -> TaskResult | None:
    """The other model's result of the same task, if it was measured alike; otherwise a line in `refusals`, and None."""
    theirs = other.find(task_key(task), task.protocol) if other else None
    if theirs is None:
        return None
    name, other_name = trio.imitation.lineage.name, other.lineage.name
    what = f"{task.task} ({task.prompt}): '{name}' is not compared with '{other_name}'"
    if theirs.protocol != task.protocol:
        how = f", {task.shots} and {theirs.shots} shots" if task.shots != theirs.shots else ""
        refusals.append(f"{what}, because they were measured under different protocols ({task.protocol or 'none'} and "
                        f"{theirs.protocol or 'none'}{how}). Evaluate both with the same command.")
        return None
    if {i.id for i in theirs.items} != {i.id for i in task.items}:
        refusals.append(f"{what}, because they answered different items ({len(task.items)} and {len(theirs.items)}). "
                        "Evaluate both with the same --limit.")
        return None
    return theirs


def _task(row: _Row) -> TaskComparison:
    mine, base = row.mine, row.base
    p_value = statistics.sign_test(_scores(mine, mine), _scores(base, mine)) if base and mine.items else None
    return TaskComparison(mine.task, mine.prompt, mine.form, mine.metric, group_of(mine), mine.shots,
                          mine.data == "sample", p_value, _numbers([row]))


def _views(rows: Sequence[_Row]) -> list[View]:
    """Rows gathered by (group, prompt, form): style first, then substance, then the rest, raw prompts before chat."""
    gathered: dict[tuple[str, str, str], list[_Row]] = {}
    for row in rows:
        gathered.setdefault((group_of(row.mine), row.mine.prompt, row.mine.form), []).append(row)
    order = {"style": 0, "substance": 1}
    keys = sorted(gathered, key=lambda key: (order.get(key[0], 2), key[0], key[1] != "raw", key[2]))
    return [_view(key, gathered[key]) for key in keys]


def _view(key: tuple[str, str, str], rows: list[_Row]) -> View:
    """A view speaks for tasks that all models of the trio share, as far as there are such."""
    rows = [row for row in rows if row.mine.task == ONE_STYLE_NUMBER] or rows
    for wanted in (lambda r: r.base and r.teacher, lambda r: r.base, lambda r: r.teacher):
        if chosen := [row for row in rows if wanted(row)]:
            rows = chosen
            break
    return View(*key, tuple(row.mine.task for row in rows), _numbers(rows))


def _numbers(rows: Sequence[_Row]) -> Numbers:
    """Everything about some tasks of one trio; base and teacher enter where all the rows have them."""
    present = [who for who in ("mine", "base", "teacher") if all(getattr(row, who) for row in rows)]
    paired = statistics.Paired([[_scores(getattr(row, who), row.mine) for row in rows] for who in present])
    place = {who: index for index, who in enumerate(present)}
    mean = {who: paired.mean(index) for who, index in place.items()}
    change = paired.difference(0, place["base"]) if "base" in place else None
    closed = paired.gap_closed(place["base"], 0, place["teacher"]) if len(present) == 3 else GapClosed("missing")
    return Numbers(paired.items, mean["mine"], mean.get("base"), mean.get("teacher"), change, closed, _finding(change))


def _finding(change: Estimate | None) -> Finding:
    if change is None:
        return "unknown"
    return "gained" if change.low > 0 else "lost" if change.high < 0 else "unchanged"


def _scores(task: TaskResult, order: TaskResult) -> np.ndarray:
    """Item scores of `task` in the item order of `order`: float64 [items]."""
    by_id = {item.id: item.score for item in task.items}
    return np.array([by_id[item.id] for item in order.items], dtype=np.float64)
