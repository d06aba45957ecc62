"""What the harness says, as our records: items, scores, parts made one, and scores that come after the texts."""
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from easylm_imitation.evaluate.after import Scored
from easylm_imitation.evaluate.plan import Prompt
from easylm_imitation.evaluate.tasks import Task, protocol
from easylm_imitation.files import digest
from easylm_imitation.records import Item, TaskResult
from easylm_imitation.schema import UserError


def task_result(task: Task, form: Prompt, limit: int | None, said: dict[str, Any], scored: Sequence[Scored] | None,
                answer_tokens: int | None, cut_to: int | None, by: Sequence[str] = ()) -> TaskResult:
    """One task's result from what the harness returned; `scored` holds the scores that were made afterwards, `by` whom
    if that was the user's choice."""
    samples = first_filter(said, task)
    items = tuple(_item(task, sample) for sample in samples)
    score = float(said["results"][task.name][f"{task.metric},{samples[0]['filter']}"])
    if scored is not None:
        items = tuple(dataclasses.replace(item, score=s.score, prediction=s.prediction)
                      for item, s in zip(items, scored))
        score = sum(item.score for item in items) / len(items)
    asked = protocol(task, form, [sample["doc"] for sample in samples], answer_tokens, cut_to)
    whole = task.complete and (limit is None or limit >= len(task.rows))
    return TaskResult(
        task=task.name, prompt=form, form=task.form, metric=task.metric, shots=task.shots, group=task.group,
        score=score, items=items, data="full" if whole else "sample",
        protocol=digest([asked, *by]) if by else asked)


def first_filter(said: dict[str, Any], task: Task) -> list[dict[str, Any]]:
    """The samples of the first of the task's filters."""
    samples = said["samples"][task.name]
    return [s for s in samples if s["filter"] == samples[0]["filter"]]


def _item(task: Task, sample: dict[str, Any]) -> Item:
    score = sample[task.metric]
    if not isinstance(score, (int, float)):
        raise UserError(f"task '{task.name}': metric '{task.metric}' scores no single item; put one first that does")
    name = str(sample["doc"]["id"] if task.has_ids else sample["doc_id"])
    prediction, target = sample["filtered_resps"][0], sample["target"]
    if task.form == "choices":
        options = [continuation for _, continuation in sample["arguments"]]
        likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
        prediction = options[likelihoods.index(max(likelihoods))].strip() if len(options) > 1 else prediction[1]
        target = options[target].strip() if isinstance(target, int) and len(options) > 1 else target
    targets = target if isinstance(target, (list, tuple)) else [target]
    return Item(name, float(score), str(prediction), " | ".join(map(str, targets)))


def made_whole(tasks: Sequence[Task], results: Sequence[TaskResult]) -> list[TaskResult]:
    """Results in order, those of the parts of one task (which stand together) as one, items named PART/ID."""
    pairs = itertools.groupby(zip(tasks, results), lambda pair: (pair[0].whole or pair[0].name, pair[1].prompt))
    made = []
    for (name, _), group in pairs:
        parts = list(group)
        made.append(_joined(name, parts) if parts[0][0].whole else parts[0][1])
    return made


def _joined(name: str, parts: list[tuple[Task, TaskResult]]) -> TaskResult:
    """One result of many: the mean over items, or over parts (macro).

    In a macro average an item's score is weighed by its part, so that the mean of the items is the task's score.
    """
    total = sum(len(result.items) for _, result in parts)
    items = []
    for task, result in parts:
        weight = total / (len(parts) * len(result.items)) if task.macro else 1.0
        items += [dataclasses.replace(item, id=item_id(task, item.id), score=item.score * weight)
                  for item in result.items]
    first = parts[0][1]
    return dataclasses.replace(
        first, task=name, items=tuple(items), score=sum(item.score for item in items) / total,
        protocol=digest([name, parts[0][0].macro, [result.protocol for _, result in parts]]),
        data="full" if all(result.data == "full" for _, result in parts) else "sample")


def item_id(task: Task, own: str) -> str:
    """What an item is called in results: PART/ID where results are given in the name of a whole, else its own id."""
    return f"{part_of(task)}/{own}" if task.whole else own


def part_of(task: Task) -> str:
    """The part's own name: "anatomy" of mmlu_anatomy."""
    return task.name.removesuffix("@published").removeprefix(task.whole.removesuffix("@published") + "_")
