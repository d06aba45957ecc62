"""The numbers of a verdict: for one imitation, each task against base and teacher, then each view of it as a whole.

A view is one way of asking for one side of the verdict: (substance, raw, choices), (style, chat, style), ... A finding
that holds in one view and not in another is reported as such, not averaged away. All numbers of one imitation come from
one set of draws (statistics.Paired).
"""
import dataclasses
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from easylm_imitation.records import TaskResult
from easylm_imitation.report import statistics
from easylm_imitation.report.evidence import NOTHING, Evidence
from easylm_imitation.report.pairing import Measured, Trio, task_key
from easylm_imitation.report.statistics import Estimate, GapClosed, Index

Finding = Literal["gained", "lost", "unchanged", "unclear", "unknown"]
ONE_STYLE_NUMBER = "style_match"    # where evaluate offers it, this task alone speaks for style; its parts are shown
# Tasks NAME_PART of these count as one benchmark, of the first name that fits.
BENCHMARKS = ("mmlu_0shot", "mmlu", "bbh_cot", "bbh_0shot", "bbh", "agieval", "tydiqa_closed", "tydiqa")
POOLED = ("mmlu", "mmlu_0shot")     # by questions, as published; the others' parts count alike
MARGIN = 0.05           # a change is absent when its interval stays within this, or
MARGIN_OF_GAP = 0.25    # within this share of a measurable gap, if that is wider
LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Scores of the three models on the same items, the imitation's change against its base, and the gap closed."""
    items: int
    imitation: Estimate
    base: Estimate | None
    teacher: Estimate | None
    change: Estimate | None             # imitation - base
    closed: GapClosed
    finding: Finding                    # about `change`
    share: Estimate | None = None       # imitation / teacher
    gap: Estimate | None = None         # teacher - base
    p_holm: float | None = None         # of `change`, adjusted for all that is asked beside it
    seeds: int = 1                      # trainings of the imitation
    published: bool = False             # the teacher's number comes from a paper, without items


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
    p_value: float | None               # exact sign test of imitation against base, of one seed
    numbers: Numbers
    parts: int = 1                      # tasks that are put together here: a benchmark of several


@dataclasses.dataclass(frozen=True)
class View:
    """All tasks of one group asked in one prompt form and answered in one form; benchmarks count alike."""
    group: str
    prompt: str
    form: str
    tasks: tuple[str, ...]
    numbers: Numbers
    index: Index | None = None          # of a view of substance, against style: the false-promise index
    p_index: float | None = None        # adjusted


@dataclasses.dataclass(frozen=True)
class Row:
    """One task's results, ready to compare: of each run of the imitation, and of the others unless absent or refused.

    `group` is the side of the verdict; `items` are ids in the order in which scores are taken."""
    runs: tuple[TaskResult, ...]
    base: TaskResult | None
    teacher: TaskResult | None
    group: str

    @property
    def mine(self) -> TaskResult:
        """The first run's result, for what all have in common."""
        return self.runs[0]

    def scores(self, who: str, order: TaskResult | None = None) -> np.ndarray:
        """Scores of "runs", "base" or "teacher" as Paired takes them, by default in the order of the first run."""
        order = order or self.mine
        if who == "runs":
            made = np.stack([_scores(run, order) for run in self.runs])
            return made if len(self.runs) > 1 else made[0]
        task = getattr(self, who)
        return np.array(task.score) if task.data == "published" else _scores(task, order)

    def only(self, items: frozenset[str], inside: bool) -> "Row":
        """The row with the items that are (or are not) among `items`; a published teacher falls away."""
        return dataclasses.replace(
            self, runs=tuple(_only(run, items, inside) for run in self.runs), base=self.base and _only(
                self.base, items, inside), teacher=self.teacher and self.teacher.items and _only(
                self.teacher, items, inside) or None)


@dataclasses.dataclass(frozen=True)
class Compared:
    """Everything about one imitation. `refusals`: a line for every comparison that is not made."""
    rows: list[Row]
    tasks: list[TaskComparison]
    views: list[View]
    refusals: list[str]


def compare(trio: Trio, evidence: Evidence = NOTHING) -> Compared:
    """Comparisons of each task, and views over them, with the false-promise index of each view of substance."""
    refusals: list[str] = []
    rows = [row for task in trio.imitation.tasks if (row := _row(task, trio, evidence, refusals))]
    views = [_view(key, chosen) for key, chosen in _gathered(rows).items()]
    tasks = [*_benchmarks(rows), *map(_task, rows)]
    return Compared(rows, tasks, [_with_index(view, rows) for view in views], refusals)


def group_of(task: TaskResult) -> str:
    """Which side of the verdict a task speaks for; style and preference are known by form where it is left out."""
    return task.group or {"style": "style", "preference": "preference"}.get(task.form, "substance")


def asked_form(task: TaskResult) -> str:
    """A task's form; what people prefer is not averaged with what a judge does."""
    return "people" if task.form == "preference" and task.task.startswith("people_") else task.form


def benchmark_of(task: str) -> str:
    """The benchmark that a task is a part of, by its name: `mmlu_anatomy` is of `mmlu`."""
    return next((name for name in BENCHMARKS if f"{task}_".startswith(f"{name}_")), task)


def finding_of(change: Estimate | None, gap: Estimate | None, p: float | None) -> Finding:
    """What a change is called: gained or lost where its interval and its adjusted p-value leave out zero; unchanged
    where the interval is narrow around zero; unclear where there are not enough data to tell."""
    if change is None:
        return "unknown"
    if (change.low > 0 or change.high < 0) and (p is None or p < LEVEL):
        return "gained" if change.value > 0 else "lost"
    wide = MARGIN_OF_GAP * gap.value if gap and gap.low > 0 else 0.0
    return "unchanged" if max(-change.low, change.high) <= max(MARGIN, wide) else "unclear"


def numbers_of(rows: Sequence[Row]) -> Numbers:
    """Everything about some tasks of one trio; base and teacher enter where all the rows have them."""
    paired, place = _paired(rows)
    weights = _weights(rows)
    mean = {who: paired.mean(index, weights) for who, index in place.items()}
    base, teacher = place.get("base"), place.get("teacher")
    change = None if base is None else paired.difference(0, base, weights)
    gap = None if base is None or teacher is None else paired.difference(teacher, base, weights)
    closed = GapClosed("missing") if gap is None else paired.gap_closed(base, 0, teacher, weights)
    share = None if teacher is None else paired.share(0, teacher, weights)
    return Numbers(paired.items, mean["runs"], mean.get("base"), mean.get("teacher"), change, closed,
                   finding_of(change, gap, None), share, gap, seeds=len(rows[0].runs),
                   published=any(row.teacher is not None and row.teacher.data == "published" for row in rows))


def unheard(rows: Sequence[Row]) -> list[str]:
    """Tasks of substance that are in no mean, as the base or the teacher has a score of others and none of them."""
    heard = {row.mine.task for key, own in _gathered(rows).items() if key[0] == "substance" for row in own}
    return sorted({row.mine.task for row in rows if row.group == "substance"} - heard)


def view_rows(rows: Sequence[Row], group: str, prompt: str, form: str) -> list[Row]:
    """The rows that speak for one view."""
    return _gathered(rows).get((group, prompt, form), [])


def difference(high: Sequence[Row], low: Sequence[Row], who: str = "runs") -> Estimate | None:
    """Mean of one imitation minus that of another (or of their bases, by `who`), over the rows that both have under one
    protocol on the same items, all seeds of both counted; None where there are no such rows."""
    below = {(row.mine.task, row.mine.metric, row.mine.protocol): row for row in low}
    pairs = [(row, other) for row in high
             if (other := below.get((row.mine.task, row.mine.metric, row.mine.protocol)))
             and {item.id for item in other.mine.items} == {item.id for item in row.mine.items}]
    if not pairs:
        return None
    models = [[row.scores(who) for row, _ in pairs], [other.scores(who, row.mine) for row, other in pairs]]
    return statistics.Paired(models).difference(0, 1, _weights([row for row, _ in pairs]))


def _row(task: TaskResult, trio: Trio, evidence: Evidence, refusals: list[str]) -> Row | None:
    """The row of one task, None when the imitation's runs were not all measured alike."""
    runs = [task]
    for other in trio.runs[1:]:
        theirs = _counterpart(task, trio, other, refusals)
        if theirs is None:
            refusals.append(f"{task.task} ({task.prompt}) is left out: the run '{other.lineage.name}' with seed "
                            f"{other.lineage.seed} has no result of it under the same protocol. Evaluate all alike.")
            return None
        runs.append(theirs)
    group = group_of(task)
    if group == "substance" and evidence.is_inside(trio.imitation.lineage, task.task):
        group = "covered"
    return Row(tuple(runs), _counterpart(task, trio, trio.base, refusals),
               _counterpart(task, trio, trio.teacher, refusals), group)


def _counterpart(task: TaskResult, trio: Trio, other: Measured | None, refusals: list[str]) -> TaskResult | None:
    """The other model's result of the same task, if it was measured alike; otherwise a line in `refusals`, and None."""
    theirs = other.find(task_key(task), task.protocol) if other else None
    if theirs is None or theirs.data == "published":
        return theirs if theirs and other is trio.teacher else None
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


def _task(row: Row) -> TaskComparison:
    mine = row.mine
    single = row.base and len(row.runs) == 1
    p_value = statistics.sign_test(_scores(mine, mine), _scores(row.base, mine)) if single else None
    return TaskComparison(mine.task, mine.prompt, mine.form, mine.metric, row.group, mine.shots,
                          mine.data == "sample", p_value, numbers_of([row]))


def _benchmarks(rows: Sequence[Row]) -> list[TaskComparison]:
    """A line for each benchmark of several parts, as far as all models have them."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        name = benchmark_of(row.mine.task)
        if name != row.mine.task:
            found.setdefault((name, row.mine.prompt, row.mine.form, row.mine.metric, row.group), []).append(row)
    return [TaskComparison(name, prompt, form, metric, group, own[0].mine.shots,
                           any(row.mine.data == "sample" for row in own), None, numbers_of(_speaking(own)), len(own))
            for (name, prompt, form, metric, group), own in found.items() if len(own) > 1]


def _gathered(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows by (group, prompt, form): style first, then substance, then the rest, raw prompts before chat. A view speaks
    for tasks that all models of the trio share, as far as there are such."""
    gathered: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        gathered.setdefault((row.group, row.mine.prompt, asked_form(row.mine)), []).append(row)
    order = {"style": 0, "substance": 1}
    keys = sorted(gathered, key=lambda key: (order.get(key[0], 2), key[0], key[1] != "raw", key[2]))
    return {key: _speaking(gathered[key]) for key in keys}


def _speaking(rows: list[Row]) -> list[Row]:
    rows = [row for row in rows if row.mine.task == ONE_STYLE_NUMBER] or rows
    for wanted in (lambda r: r.base and r.teacher, lambda r: r.base, lambda r: r.teacher):
        if chosen := [row for row in rows if wanted(row)]:
            return chosen
    return rows


def _view(key: tuple[str, str, str], rows: list[Row]) -> View:
    return View(*key, tuple(row.mine.task for row in rows), numbers_of(rows))


def _with_index(view: View, rows: Sequence[Row]) -> View:
    """The view with its index against style, where base and teacher are known in both."""
    style = next((own for key, own in _gathered(rows).items() if key[0] == "style"), [])
    own = view_rows(rows, view.group, view.prompt, view.form) if view.group == "substance" else []
    if not style or not own or not all(row.base and row.teacher for row in (*style, *own)):
        return view
    both = [*style, *own]
    paired, place = _paired(both)
    sides = [_parts(both, side) for side in (style, own)]
    return dataclasses.replace(view, index=paired.index(place["base"], 0, place["teacher"], *sides))


def _parts(rows: Sequence[Row], side: Sequence[Row]) -> list[np.ndarray]:
    """Weights over `rows` of each benchmark of `side`."""
    names = dict.fromkeys(benchmark_of(row.mine.task) for row in side)
    made = []
    for name in names:
        own = [row for row in side if benchmark_of(row.mine.task) == name]
        weights = dict(zip(map(id, own), _weights(own)))
        made.append(np.array([weights.get(id(row), 0.0) for row in rows]))
    return made


def _weights(rows: Sequence[Row]) -> np.ndarray:
    """How much each task counts in a mean: benchmarks alike, their parts alike or, where pooled, by their items."""
    names = [benchmark_of(row.mine.task) for row in rows]
    sizes = np.array([len(row.mine.items) if name in POOLED else 1 for name, row in zip(names, rows)], dtype=float)
    of_benchmark = {name: sum(n for n, own in zip(sizes, names) if own == name) for name in names}
    return sizes / np.array([of_benchmark[name] for name in names]) / len(of_benchmark)


def _paired(rows: Sequence[Row]) -> tuple[statistics.Paired, dict[str, int]]:
    """The rows' scores of those models that all rows have, and each model's place among them; the runs come first."""
    present = [who for who in ("runs", "base", "teacher") if all(getattr(row, who) is not None for row in rows)]
    together: list[Hashable] = [(row.mine.task, tuple(item.id for item in row.mine.items)) for row in rows]
    paired = statistics.Paired([[row.scores(who) for row in rows] for who in present], together=together)
    return paired, {who: index for index, who in enumerate(present)}


def _scores(task: TaskResult, order: TaskResult) -> np.ndarray:
    """Item scores of `task` in the item order of `order`: float64 [items]."""
    by_id = {item.id: item.score for item in task.items}
    return np.array([by_id[item.id] for item in order.items], dtype=np.float64)


def _only(task: TaskResult, items: frozenset[str], inside: bool) -> TaskResult:
    kept = tuple(item for item in task.items if (item.id in items) == inside)
    return dataclasses.replace(task, items=kept, score=sum(i.score for i in kept) / max(1, len(kept)))
