"""Recorded answers as results for `report`: what `compare` tables sum up, item by item, with the model's lineage.

    style_results("A.jsonl", teacher) -> Results        refusal_results(...)        toxicity_results(...)

Judges and scorers are asked through the journals of the tables, so nothing is asked or paid twice.
"""
import os
from collections.abc import Mapping, Sequence
from typing import Any

from easylm_imitation.evaluate.answers import AnswersMeta, answers_meta, read_answers
from easylm_imitation.evaluate.harness import results_now
from easylm_imitation.evaluate.judging import JudgeConfig
from easylm_imitation.evaluate.refusal import RULES, judged_refusals, refuses
from easylm_imitation.evaluate.style import style_task
from easylm_imitation.evaluate.tone import authoritative_tone
from easylm_imitation.evaluate.toxicity import ScorerConfig, score_texts
from easylm_imitation.files import digest
from easylm_imitation.records import Answer, Item, Results, TaskResult

Path = str | os.PathLike


def style_results(path: Path, reference: Sequence[Answer], judge: JudgeConfig | None = None, journal: Path = "",
                  role: str = "", command: str = "") -> Results:
    """The measures of style of the answers in `path` next to the teacher's `reference`, tone where a `judge` hears it
    (answers on whose tone it is neither yes nor no are left out). Raises UserError."""
    answers = read_answers(path)
    meta = answers_meta(path, answers, reference[0].model)
    tasks = style_task(answers, reference, meta.prompt, meta.options)
    if judge:
        asked = {a.prompt_id for a in reference}
        mine = [a for a in answers if a.prompt_id in asked]
        tone = authoritative_tone(mine, judge, journal)
        heard = {i: float(said) for i, said in tone.heard.items() if said is not None}
        tasks += _task("style_tone", "authoritative", heard, mine, meta, tone.judge, form="style", group="style"),
    return results_now(meta.lineage, tasks, role=role, command=command)


def refusal_results(path: Path, harmless: Sequence[str] = (), judge: JudgeConfig | None = None, journal: Path = "",
                    command: str = "") -> Results:
    """Refusals by dataset, by the rules and by a `judge`: 1 is what is wanted, a refusal, or an answer to a harmless
    prompt."""
    answers = read_answers(path)
    meta = answers_meta(path, answers, answers[0].model)
    judged, name = judged_refusals(answers, judge, journal) if judge else ({}, "")
    tasks: list[TaskResult] = []
    for dataset in dict.fromkeys(a.dataset for a in answers):
        own, safe = [a for a in answers if a.dataset == dataset], dataset in harmless
        task, metric = ("over_refusals" if safe else "refusals"), ("answers" if safe else "refuses")
        task = "_".join(filter(None, (task, dataset)))
        ruled = {a.prompt_id: float(refuses(a.answer) != safe) for a in own}
        tasks.append(_task(task, metric, ruled, own, meta, RULES))
        heard = {a.prompt_id: float(said != safe) for a in own if (said := judged.get(a.prompt_id)) is not None}
        tasks += [_task(task, f"{metric}_judged", heard, own, meta, name)] if heard else []
    return results_now(meta.lineage, tasks, command=command)


def toxicity_results(path: Path, scorer: ScorerConfig, journal: Path, command: str = "") -> Results:
    """Non-toxicity, 1 - the score, of each text, by dataset."""
    answers = read_answers(path)
    meta = answers_meta(path, answers, answers[0].model)
    scores = score_texts(scorer, {a.prompt_id: a.answer for a in answers}, journal)
    tasks = []
    for dataset in dict.fromkeys(a.dataset for a in answers):
        own = [a for a in answers if a.dataset == dataset]
        task = "_".join(filter(None, ("non_toxicity", dataset)))
        tasks.append(_task(task, "non_toxicity", {a.prompt_id: 1 - scores[a.prompt_id] for a in own}, own, meta,
                           scorer.who()))
    return results_now(meta.lineage, tasks, command=command)


def _task(name: str, metric: str, scores: Mapping[str, float], answers: Sequence[Answer], meta: AnswersMeta, by: Any,
          **more: Any) -> TaskResult:
    """`by`: the rule or the judge, a part of the protocol, as are the prompts and how they were asked."""
    asked = sorted((a.prompt_id, a.prompt) for a in answers)
    items = tuple(Item(i, score) for i, score in sorted(scores.items()))
    return TaskResult(name, meta.prompt, **({"form": "generation", "group": "safety"} | more), metric=metric,
                      score=sum(scores.values()) / len(scores) if scores else 0.0, items=items,
                      protocol=digest([name, metric, by, meta.options, asked]))

