"""What came of a study: majority votes as results for `report`, agreement of the raters, and every single rating.

The score of a pair is what more than half of its raters say: 1 the model's answer is better, 0 the reference's, 0.5 a
tie or no majority. Raters who fail their attention checks are left out of every number, and named.
"""
import collections
import dataclasses
import datetime
import os
from collections.abc import Sequence
from typing import Any

from easylm_imitation.evaluate.people.agreement import Agreement, agreement, clustered_mean, majority, verdict_of
from easylm_imitation.evaluate.people.config import PeopleConfig
from easylm_imitation.evaluate.people.pairs import CHECK, Sets
from easylm_imitation.evaluate.people.study import Rating
from easylm_imitation.evaluate.style_profile import Measure, mean
from easylm_imitation.files import digest, write_jsonl
from easylm_imitation.records import Item, Results, TaskResult, code_version
from easylm_imitation.schema import UserError


@dataclasses.dataclass(frozen=True)
class Votes:
    """One model against the reference. Rates are shares of 1, ties half; intervals (95%) are of items, with all the
    ratings of an item together."""
    items: int
    ratings: int
    win_rate: Measure                   # of majority votes
    wins: int
    ties: int                           # no majority counts as one
    losses: int
    equal_or_better: Measure            # share of items whose majority does not prefer the reference
    mean_vote: Measure                  # of all ratings
    left_preferred: float | None        # of ratings that decide, the share for the left answer: 0.5 is no preference
    agreement: Agreement
    acceptable: Measure | None = None           # share of items whose majority accepts the model's answer
    reference_acceptable: Measure | None = None


@dataclasses.dataclass(frozen=True)
class Rater:
    """One person's part. `counted`: whether the ratings enter the numbers."""
    rater: int
    worker: str
    ratings: int
    checks: int
    passed: int
    counted: bool
    seconds: float                      # median of a rating


def raters_of(ratings: Sequence[Rating], config: PeopleConfig) -> list[Rater]:
    """Everybody who said something."""
    by_rater: dict[int, list[Rating]] = {}
    for rating in ratings:
        by_rater.setdefault(rating.rater, []).append(rating)
    made = []
    for number, own in by_rater.items():
        checks = [passes(r, config) for r in own if r.model == CHECK]
        pairs = [r for r in own if r.model != CHECK]
        fine = not checks or sum(checks) >= config.pass_share * len(checks)
        times = sorted(r.seconds for r in own)
        made.append(Rater(number, own[0].worker, len(pairs), len(checks), sum(checks), fine, times[len(times) // 2]))
    return made


def passes(check: Rating, config: PeopleConfig) -> bool:
    """Whether the good answer of a check was preferred, and, where that is asked, the bad one not accepted."""
    return verdict_of(check.answer, len(config.choices)) == 2 and not check.other_ok


def votes_of(ratings: Sequence[Rating], config: PeopleConfig) -> Votes:
    """The numbers of one model, of ratings that count. Raises ValueError without any."""
    if not ratings:
        raise ValueError("no ratings")
    by_item = _by_item(ratings)
    count = len(config.choices)
    votes = {i: [verdict_of(r.answer, count) / 2 for r in own] for i, own in by_item.items()}
    said = [majority(own) for own in votes.values()]
    lefts = [(vote == 1) == r.mine_left for i, own in by_item.items() for r, vote in zip(own, votes[i]) if vote != 0.5]
    asked = config.question == "tulu"
    return Votes(
        len(said), len(ratings), mean(said), said.count(1.0), said.count(0.5), said.count(0.0),
        mean([float(one > 0) for one in said]), clustered_mean(list(votes.values())),
        sum(lefts) / len(lefts) if lefts else None,
        agreement([[r.answer for r in own] for own in by_item.values()], count),
        mean(list(_accepted(by_item, "mine_ok").values())) if asked else None,
        mean(list(_accepted(by_item, "other_ok").values())) if asked else None)


def study_results(sets: Sets, ratings: Sequence[Rating], config: PeopleConfig, command: str = "") -> list[Results]:
    """Results of each model, in order, then of the reference where acceptability was asked. Where only a part is rated,
    the prompts that are rated for every model count, so that models compare. Raises UserError when that is none."""
    raters = raters_of(ratings, config)
    counted = {one.rater for one in raters if one.counted}
    kept = [r for r in ratings if r.rater in counted and r.model != CHECK]
    rated = [{r.prompt for r in kept if r.model == number} for number in range(len(sets.models))]
    prompts = set.intersection(*rated)
    if not prompts:
        raise UserError("no prompt is rated for every model yet; serve the study until some are")
    own = [[r for r in kept if r.model == number and r.prompt in prompts] for number in range(len(sets.models))]
    complete = len(prompts) == sets.prompts and all(
        len(of) >= config.ratings for part in own for of in _by_item(part).values())
    date = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    meta = {"reference": sets.reference.lineage.name, "asked": config.asked, "raters": len(counted),
            "left_out": [dataclasses.asdict(one) for one in raters if not one.counted],
            "prompts_not_rated": sets.prompts - len(prompts)}
    made = []
    for model, part in zip(sets.models, own):
        tasks = _tasks(sets, part, prompts, config, "full" if complete else "sample")
        votes = dataclasses.asdict(votes_of(part, config))
        made.append(Results(model.lineage, tasks, command=command, date=date, code=code_version(),
                            meta=meta | votes))
    if config.question == "tulu":       # how many of the reference's answers are acceptable, all pairs together
        everything = [r for part in own for r in part]
        task = _task(_acceptable(made[0].tasks[0]), _accepted(_by_item(everything), "other_ok"))
        made.append(Results(sets.reference.lineage, (task,), command=command, date=date, code=code_version()))
    return made


def write_ratings(path: str | os.PathLike, ratings: Sequence[Rating], sets: Sets, config: PeopleConfig) -> int:
    """Every rating as one JSON object a line, checks and those that are not counted included; how many."""
    counted = {one.rater: one.counted for one in raters_of(ratings, config)}
    names = [model.lineage.name for model in sets.models]
    return write_jsonl(path, [_row(r, names, sets.reference.lineage.name, counted[r.rater], config) for r in ratings])


def _row(rating: Rating, names: Sequence[str], reference: str, counted: bool, config: PeopleConfig) -> dict[str, Any]:
    check = rating.model == CHECK
    left, right = ("good", "bad") if check else (names[rating.model], reference)
    if not rating.mine_left:
        left, right = right, left
    count = len(config.choices)
    place = count - 1 - rating.answer if rating.mine_left else rating.answer
    when = datetime.datetime.fromtimestamp(rating.time, datetime.UTC).isoformat(timespec="seconds")
    return {"rater": rating.rater, "worker": rating.worker, "number": rating.number, "prompt_id": rating.prompt,
            "model": "" if check else names[rating.model], "check": check, "left": left, "right": right,
            "said": config.choices[place], "vote": verdict_of(rating.answer, count) / 2,
            "answer": rating.answer, "acceptable": rating.mine_ok, "reference_acceptable": rating.other_ok,
            "passed": passes(rating, config) if check else None, "counted": counted, "seconds": rating.seconds,
            "revisions": rating.revisions, "time": when}


def _tasks(sets: Sets, ratings: Sequence[Rating], prompts: set[str], config: PeopleConfig,
           data: str) -> tuple[TaskResult, ...]:
    by_item = _by_item(ratings)
    votes = {i: majority([verdict_of(r.answer, len(config.choices)) / 2 for r in own]) for i, own in by_item.items()}
    shown = [(pair.prompt, turn.question, turn.other) for pair in sets.pairs
             if pair.model == 0 and pair.prompt in prompts for turn in pair.turns]
    protocol = digest(["people", config.question, config.asked, config.markdown, config.ratings, shown])
    base = TaskResult(f"people_{config.question}", "chat", "preference", "win_rate", 0.0, (), protocol=protocol,
                      data=data, group="preference")
    made = [_task(base, votes)]
    if config.question == "tulu":
        made.append(_task(_acceptable(base), _accepted(by_item, "mine_ok")))
    return tuple(made)


def _acceptable(base: TaskResult) -> TaskResult:
    return dataclasses.replace(base, task="people_acceptable", form="generation", metric="acceptable",
                               group="acceptable")


def _task(base: TaskResult, scores: dict[str, float]) -> TaskResult:
    items = tuple(Item(i, score) for i, score in sorted(scores.items()))
    return dataclasses.replace(base, items=items, score=sum(scores.values()) / len(scores))


def _accepted(by_item: dict[str, list[Rating]], which: str) -> dict[str, float]:
    """Prompt id -> 1 where more than half of its raters accept the answer, else 0."""
    return {i: float(2 * sum(bool(getattr(r, which)) for r in own) > len(own)) for i, own in by_item.items()}


def _by_item(ratings: Sequence[Rating]) -> dict[str, list[Rating]]:
    made: dict[str, list[Rating]] = collections.defaultdict(list)
    for rating in ratings:
        made[rating.prompt].append(rating)
    return dict(made)

