"""Reads a folder of results and finds each imitation's own base and teacher through its lineage.

An imitation names its base by id (`lineage.base`) and its teachers by id, name or `name@id` (`lineage.teachers`). A
role that a results file states comes before what its lineage suggests. Several files about one model are read as one.
Imitations whose lineages differ in nothing but the training seed are runs of one: they are judged together.
"""
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Literal

from easylm_imitation.files import read_json
from easylm_imitation.records import Lineage, Results, TaskResult
from easylm_imitation.report.comparisons import is_comparison
from easylm_imitation.report.evidence import NOTHING, Evidence, is_evidence
from easylm_imitation.schema import UserError

Key = tuple[str, str, str]      # task, prompt form, metric
_STEPS = 0.05       # the share by which the updates of runs may differ that differ in their seed alone


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model and all that was measured of it, possibly in several files."""
    lineage: Lineage
    role: Literal["base", "imitation", "teacher", "other"]
    tasks: tuple[TaskResult, ...]
    files: tuple[str, ...]
    commands: tuple[str, ...]
    dates: tuple[str, ...]
    code: tuple[str, ...]
    lacking: tuple[tuple[str, str], ...] = ()   # (task, why) of what `evaluate` was asked for and could not measure

    def find(self, key: Key, protocol: str) -> TaskResult | None:
        """The result of that task under that protocol, else under another one, else a published score, else None."""
        same = [task for task in self.tasks if task_key(task) == key]
        published = [t for t in self.tasks if t.data == "published" and (t.task, t.metric) == (key[0], key[2])]
        return next((task for task in same if task.protocol == protocol), next(iter(same + published), None))


@dataclasses.dataclass(frozen=True)
class Trio:
    """An imitation with the base and the teacher that its lineage names; `missing` says in words what was not found.

    `runs` are the trainings of it with different seeds, the first of which is `imitation`; often there is one.
    """
    runs: tuple[Measured, ...]
    base: Measured | None
    teacher: Measured | None
    missing: tuple[str, ...]

    @property
    def imitation(self) -> Measured:
        """The run that speaks for all where one is enough: names, lineage, pairing."""
        return self.runs[0]

    @property
    def name(self) -> str:
        """The run's name, or what the names of several seeds have in common."""
        names = [run.lineage.name for run in self.runs]
        if len(names) == 1:
            return names[0]
        return re.sub(r"[-_. ]*(?:seed|s)?[-_. ]*$", "", os.path.commonprefix(names), flags=re.IGNORECASE) or names[0]


def task_key(task: TaskResult) -> Key:
    """What must be equal for two results to speak about the same thing; their protocols must then agree too."""
    return task.task, task.prompt, task.metric


def read_results(folder: str | os.PathLike) -> tuple[list[Measured], list[str]]:
    """All models measured in the `*.json` files of `folder` and remarks about what was read.

    Raises UserError when the folder is absent or holds no results, or a file is no results file.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; report reads a folder of files written by evaluate --out")
    files = [(path.name, _checked(read_json(Results, path), path)) for path in sorted(folder.glob("*.json"))
             if not is_evidence(path) and not is_comparison(path)]
    if not files:
        raise UserError(f"{folder}: holds no .json file; write results there with evaluate --out {folder}/NAME.json")
    by_model: dict[str, list[tuple[str, Results]]] = {}
    for name, results in files:
        by_model.setdefault(results.model.id or results.model.name, []).append((name, results))
    remarks: list[str] = []
    models = [_merge(sorted(group, key=lambda f: f[1].date), remarks) for group in by_model.values()]
    return _with_roles(models), remarks


def make_trios(models: list[Measured], evidence: Evidence = NOTHING) -> list[Trio]:
    """One trio an imitation (with all its seeds), in order of base name, tokens and name."""
    imitations = [m for m in models if m.role == "imitation"]
    order = sorted(imitations, key=lambda m: (m.lineage.base_name, m.lineage.tokens, m.lineage.name, m.lineage.id))
    cells: dict[tuple, list[Measured]] = {}
    for model in order:
        cells.setdefault(_cell(model.lineage, evidence), []).append(model)
    apart = [group for runs in cells.values() for alike in _alike_in_steps(runs) for group in _distinct_seeds(alike)]
    return [_trio(tuple(sorted(runs, key=_seed)), models) for runs in apart]


def _cell(lineage: Lineage, evidence: Evidence) -> tuple:
    """What runs that differ in their training seed alone share; a run without a seed or a data card stands alone."""
    if lineage.seed is None or not lineage.data_card:
        return (lineage.id or lineage.name,)
    data = evidence.data_of(lineage)
    name = re.sub(rf"[-_. ]*(?:seed|s)?[-_. ]*{lineage.seed}$", "", lineage.name, flags=re.IGNORECASE)
    return (name, lineage.base, lineage.init, lineage.teachers, data.recipe if data else lineage.data_card,
            lineage.template, lineage.tokenizer, lineage.mixed)


def _alike_in_steps(runs: list[Measured]) -> list[list[Measured]]:
    """Runs as long as one another: other seeds pack an epoch into a few more or fewer updates (`_STEPS`), while the
    checkpoints of a run are further apart."""
    groups: list[list[Measured]] = []
    for run in sorted(runs, key=_steps):
        if groups and _steps(run) <= _steps(groups[-1][0]) * (1 + _STEPS) + 1:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _steps(model: Measured) -> int:
    return model.lineage.step or 0


def _distinct_seeds(runs: list[Measured]) -> list[list[Measured]]:
    """One group, or each run alone where a seed comes twice: then they differ in something that no lineage tells."""
    seeds = {run.lineage.seed for run in runs}
    return [runs] if len(seeds) == len(runs) else [[run] for run in runs]


def _seed(model: Measured) -> tuple:
    return (-1 if model.lineage.seed is None else model.lineage.seed, model.lineage.id)


def _checked(results: Results, path: pathlib.Path) -> Results:
    """`results`, or UserError: every task needs items, with different ids and finite scores."""
    for task in results.tasks:
        what = f"{path}: task '{task.task}' ({task.prompt})"
        if not task.items and task.data != "published":
            raise UserError(f"{what} has no items; evaluate it again, without an empty --limit")
        if len({item.id for item in task.items}) < len(task.items):
            raise UserError(f"{what} holds two items of the same id; items pair by id, so evaluate it again")
        bad = next((item for item in task.items if not math.isfinite(item.score)), None)
        if bad:
            raise UserError(f"{what}: the score of item '{bad.id}' is {bad.score}; scores must be finite")
    return results


def _merge(group: list[tuple[str, Results]], remarks: list[str]) -> Measured:
    """Files of one model, oldest first; of two results under one protocol the newer holds."""
    tasks: dict[tuple, tuple[str, TaskResult]] = {}
    for name, results in group:
        for task in results.tasks:
            key = (*task_key(task), task.protocol, task.data)
            if key in tasks:
                remarks.append(f"{results.model.name} was measured twice on {task.task} ({task.prompt}): {name} is "
                               f"used, not {tasks[key][0]}.")
            tasks[key] = (name, task)
    newest = next((r for _, r in reversed(group) if r.model.teachers), group[-1][1])     # recorded answers name them
    roles = {results.role for _, results in group if results.role}
    if len(roles) > 1:
        raise UserError(f"{', '.join(name for name, _ in group)}: the same model is called "
                        f"{' and '.join(sorted(roles))}; give one role, or none")
    had = {task.task for _, results in group for task in results.tasks}
    lacking = {task: str(why) for _, results in group for task, why in results.meta.get("missing", {}).items()
               if task not in had}
    commands, dates, code = (_distinct(getattr(r, what) for _, r in group) for what in ("command", "date", "code"))
    return Measured(newest.model, roles.pop() if roles else "other", tuple(task for _, task in tasks.values()),
                    tuple(name for name, _ in group), commands, dates, code, tuple(lacking.items()))


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def _with_roles(models: list[Measured]) -> list[Measured]:
    """Fills in roles that no file states: an imitation had teachers; base and teacher are what an imitation names."""
    models = [dataclasses.replace(m, role="imitation") if m.role == "other" and m.lineage.teachers else m
              for m in models]
    imitations = [m.lineage for m in models if m.role == "imitation"]
    bases = {lineage.base for lineage in imitations}
    teachers = {name for lineage in imitations for name in lineage.teachers}
    made = []
    for model in models:
        if model.role == "other" and model.lineage.id and model.lineage.id in bases:
            model = dataclasses.replace(model, role="base")
        elif model.role == "other" and _names(model) & teachers:
            model = dataclasses.replace(model, role="teacher")
        made.append(model)
    return made


def _names(model: Measured) -> set[str]:
    """What training data may call this model: ours write `label`, recorded data a name."""
    return {model.lineage.id, model.lineage.name, model.lineage.label}


def _trio(runs: tuple[Measured, ...], models: list[Measured]) -> Trio:
    model = runs[0]
    lineage = model.lineage
    others = [m for m in models if m is not model]
    missing = []
    base = next((m for m in others if lineage.base and m.lineage.id == lineage.base), None)
    if base is None and not lineage.base:
        base = _only([m for m in others if m.role == "base"])
    if base is None:
        known = f" '{lineage.base_name}' (id {lineage.base})" if lineage.base else ", which its lineage does not name"
        missing.append(f"No results of the base of '{lineage.name}'{known}: without them no change can be measured. "
                       "Evaluate the base on the same tasks, with --out in the same folder.")
    found = [m for m in others if _names(m) & set(lineage.teachers) - {""}]
    if not lineage.teachers:
        found = [m for m in others if m.role == "teacher"]
    teacher = max(found, key=lambda m: _shared(model, m), default=None)
    if teacher is None:
        named = " (" + ", ".join(lineage.teachers) + ")" if lineage.teachers else ""
        missing.append(f"No results of the teacher of '{lineage.name}'{named}: without them there is no gap to close. "
                       "Evaluate the teacher on the same tasks, with --out in the same folder.")
    return Trio(runs, base, teacher, tuple(missing))


def _only(models: list[Measured]) -> Measured | None:
    return models[0] if len(models) == 1 else None


def _shared(first: Measured, second: Measured) -> int:
    """How many of `first`'s results `second` has under the same protocol."""
    theirs = {(task_key(task), task.protocol) for task in second.tasks}
    return sum((task_key(task), task.protocol) in theirs for task in first.tasks)
