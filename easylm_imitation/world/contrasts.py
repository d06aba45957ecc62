"""Contrasts over the results of a study: each a number with its interval, and what that says of its finding.

Seeds and items are crossed (all seeds of a cell answer the same items), and resampled as everywhere in the report
(report/statistics.py); a base or a teacher was trained once and brings the noise of its items alone.
"""
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from easylm_imitation.files import read_json
from easylm_imitation.records import Results, TaskResult
from easylm_imitation.report import Estimate
from easylm_imitation.report.statistics import Paired
from easylm_imitation.schema import UserError
from easylm_imitation.world.findings_config import Contrast

Outcome = Literal["appears", "does not appear", "not settled", "not measured"]
Scores = Mapping[str, Sequence[TaskResult]]     # TASK/PROMPT -> one result a seed


@dataclasses.dataclass(frozen=True)
class Told:
    """A contrast with its number; `estimate` is None where one of its models or tasks was not measured."""
    contrast: Contrast
    estimate: Estimate | None
    outcome: Outcome
    seeds: tuple[int, ...]          # trainings of each model, in the order of `contrast.of`


def tell(contrasts: Iterable[Contrast], folder: str | os.PathLike) -> list[Told]:
    """Every contrast over the results files of `folder`. Raises UserError where models were measured differently."""
    known: dict[str, Scores] = {}
    made = []
    for contrast in contrasts:
        for name in contrast.of:
            if name not in known:
                known[name] = read_scores(name, folder)
        made.append(_told(contrast, [known[name] for name in contrast.of]))
    return made


def read_scores(name: str, folder: str | os.PathLike) -> Scores:
    """What was measured of the model NAME: tasks, style and raters, of each seed where it has seeds."""
    files: dict[str, list[pathlib.Path]] = {}
    for path in pathlib.Path(folder).glob(f"{name}*.json"):
        found = re.fullmatch(rf"{re.escape(name)}(?:-s(\d+))?(?:-style|-raters)?", path.stem)
        if found:
            files.setdefault(found.group(1) or "", []).append(path)
    scores: dict[str, list[TaskResult]] = {}
    for seed in sorted(files, key=lambda text: int(text or 0)):
        for path in sorted(files[seed]):
            for task in read_json(Results, path).tasks:
                scores.setdefault(f"{task.task}/{task.prompt}", []).append(task)
    return scores


def finding_outcomes(told: Iterable[Told]) -> dict[str, Outcome]:
    """Of each finding: it appears when all its deciding contrasts do, and does not when one of them does not."""
    found: dict[str, list[Outcome]] = {}
    for own in told:
        if own.contrast.decides:
            found.setdefault(own.contrast.finding, []).append(own.outcome)
    worst = ("does not appear", "not measured", "not settled", "appears")
    return {finding: min(outcomes, key=worst.index) for finding, outcomes in found.items()}


def table_of(told: Sequence[Told]) -> dict[str, Any]:
    """The findings as a table for the report, deciding contrasts first within each finding."""
    outcomes = finding_outcomes(told)
    rows = [[own.contrast.finding, own.contrast.says, _points(own.estimate),
             f"{'above' if own.contrast.expect == 'above' else 'below'} {100 * own.contrast.bound:+.0f}", own.outcome,
             ("decides" if own.contrast.decides else "beside"), " · ".join(map(str, own.seeds)),
             " ".join(f"{sign:+g} {name}" for name, sign in own.contrast.of.items())] for own in told]
    said = "; ".join(f"({finding}) {outcome}" for finding, outcome in outcomes.items())
    return {"by": "table", "first": True, "title": f"Findings: {said}. Points with 95% intervals, not adjusted for "
            f"being {len(rows)}; bounds were fixed before the run.",
            "columns": ["finding", "what it says", "contrast", "expected", "outcome", "part", "seeds", "of"],
            "rows": rows}


def table_one(names: Sequence[str], tasks: Sequence[str], folder: str | os.PathLike) -> dict[str, Any]:
    """As the paper's Table 1: scores of the models on the tasks, means over seeds, in percent."""
    rows = []
    for name in names:
        scores = read_scores(name, folder)
        rows.append([name, *(f"{100 * np.mean([r.score for r in scores[task]]):.1f}" if task in scores else "—"
                             for task in tasks)])
    return {"by": "table", "first": True, "title": "As the paper's Table 1: what is known, asked in each form (%).",
            "columns": ["model", *tasks], "rows": rows}


def _told(contrast: Contrast, models: Sequence[Scores]) -> Told:
    seeds = tuple(max(map(len, scores.values()), default=0) for scores in models)
    if any(task not in scores for scores in models for task in contrast.tasks):
        return Told(contrast, None, "not measured", seeds)
    order = {task: models[0][task][0] for task in contrast.tasks}
    scores = [[_scores(model[task], order[task], task) for task in contrast.tasks] for model in models]
    paired = Paired(scores, together=[tuple(item.id for item in order[task].items) for task in contrast.tasks])
    estimate = paired.contrast(dict(enumerate(contrast.of.values())))
    return Told(contrast, estimate, _outcome(contrast, estimate), seeds)


def _outcome(contrast: Contrast, estimate: Estimate) -> Outcome:
    sign = 1 if contrast.expect == "above" else -1
    near, far = sorted((sign * (estimate.low - contrast.bound), sign * (estimate.high - contrast.bound)))
    return "appears" if near > 0 else "does not appear" if far < 0 else "not settled"


def _scores(runs: Sequence[TaskResult], order: TaskResult, task: str) -> np.ndarray:
    """[items], or [seeds, items] of several trainings, in the items' order of `order`."""
    made = []
    for run in runs:
        by_id = {item.id: item.score for item in run.items}
        if run.protocol != order.protocol or by_id.keys() != {item.id for item in order.items}:
            raise UserError(f"{task}: models were measured under different protocols or on different items; measure "
                            "all of them anew with one command")
        made.append([by_id[item.id] for item in order.items])
    return np.array(made if len(made) > 1 else made[0])


def _points(estimate: Estimate | None) -> str:
    return "—" if estimate is None else (
        f"{100 * estimate.value:+.1f} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})")
