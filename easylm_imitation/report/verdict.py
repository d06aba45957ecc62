"""The verdict: what the numbers of a folder of results say, in words that follow from the numbers alone.

Fixed rules choose the words (compare.finding_of). A change is *measurable* when its 95% interval leaves out zero and
its p-value, adjusted by Holm's rule for all that is asked of the imitation, is below 0.05. It is *absent* when its
interval stays within 5 points of zero (or a quarter of a measurable gap); in between there are not enough data. A
finding *flips* when it is a measurable gain in one view and a measurable loss in another; it *depends on the form* when
it is measurable in one view and not in another.
"""
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from easylm_imitation.records import Lineage, code_version
from easylm_imitation.report import conclusion, statistics
from easylm_imitation.report.compare import Finding, Numbers, TaskComparison, View, compare, finding_of, unheard
from easylm_imitation.report.comparisons import Comparison
from easylm_imitation.report.contamination import Contamination, contamination, told
from easylm_imitation.report.evidence import NOTHING, Evidence, Spent
from easylm_imitation.report.one_answer import one_answer
from easylm_imitation.report.pairing import Measured, Trio, make_trios
from easylm_imitation.report.published import Published, published_for
from easylm_imitation.report.scaling import Ladder, Step, ladders
from easylm_imitation.report.wording import (
    ahead,
    describe,
    form_name,
    points,
    share,
    short_form,
    signed_points,
    whole_share,
)

SUBSTANCE, STYLE, PREFERENCE = "substance", "style", "preference"
SEEDS_WANTED = 5
Case = Literal["style only", "substance only", "both", "neither", "depends on the form of asking", "not enough data",
               "not measured"]


@dataclasses.dataclass(frozen=True)
class ImitationVerdict:
    """What is to be said about one imitation. `sentences` read on their own; `headline` is the short form of them all.

    `judgement` is the headline without name and numbers; `runs` are its trainings with different seeds.
    """
    imitation: Lineage
    base: Lineage | None
    teacher: Lineage | None
    case: Case
    judgement: str
    headline: str
    sentences: tuple[str, ...]
    flips: tuple[str, ...]
    views: tuple[View, ...]
    tasks: tuple[TaskComparison, ...]
    runs: tuple[Lineage, ...] = ()
    datasets: tuple[str, ...] = ()      # sources of its training data, where the card is here
    contamination: Contamination = Contamination((), "")


@dataclasses.dataclass(frozen=True)
class ModelScore:
    """One line of the table of everything that was measured."""
    model: str
    role: str
    task: str
    prompt: str
    form: str
    metric: str
    score: float
    items: int
    shots: int
    sample: bool
    protocol: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """verdict.json. `conclusion`, `missing`, `refusals` and `remarks` are complete sentences for the reader; the first
    of the conclusion is the answer."""
    headline: str
    conclusion: tuple[str, ...]
    imitations: tuple[ImitationVerdict, ...]
    ladders: tuple[Ladder, ...]
    scores: tuple[ModelScore, ...]
    published: tuple[Published, ...]
    spent: tuple[Spent, ...]
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]
    refusals: tuple[str, ...]
    remarks: tuple[str, ...]
    code: str


def make_verdict(models: Sequence[Measured], remarks: Sequence[str] = (), evidence: Evidence = NOTHING) -> Verdict:
    """Pairs, compares and words everything in `models`."""
    trios = make_trios(list(models), evidence)
    compared = [compare(trio, evidence) for trio in trios]
    steps = [Step(trio, made.rows, _base_level(made.views), evidence.datasets(trio.imitation.lineage))
             for trio, made in zip(trios, compared)]
    climbed, unordered = ladders(steps)
    climbed = _adjusted_ladders(climbed)
    made = [_imitation(trio, _adjusted_tasks(raw.tasks), _adjusted(raw.views),
                       contamination(trio, raw.rows, evidence), evidence) for trio, raw in zip(trios, compared)]
    refusals = [line for raw in compared for line in raw.refusals]
    missing = [*(line for trio in trios for line in trio.missing), *_contamination_notes(made), *_lacking(models),
               *unordered]
    if not trios:
        missing.append("No imitation among these results: a model counts as one when its lineage names teachers.")
    samples = sorted({t.task for m in models for t in m.tasks if t.data == "sample"})
    if samples:
        remarks = [*remarks, f"Measured on a sample, not on all items: {', '.join(samples)}."]
    unheard_of = sorted({task for raw in compared for task in unheard(raw.rows)})
    if unheard_of:
        remarks = [*remarks, "Shown, but in no mean of substance, as the base or the teacher has no score of it: "
                             f"{', '.join(unheard_of)}."]
    remarks = [*remarks, *_other_metrics(trios), *one_answer(models)]
    headline = " ".join(v.headline for v in made) if made else "Nothing to compare: no imitation among these results."
    return Verdict(headline, tuple(conclusion.conclude(made, climbed)), tuple(made), tuple(climbed),
                   tuple(_scores(models)), published_for(t.task if t.form != "preference" else "preference"
                                                         for m in models for t in m.tasks), evidence.spent,
                   evidence.comparisons,
                   tuple(dict.fromkeys(missing)), tuple(dict.fromkeys(refusals)),
                   tuple(remarks), code_version())


def _lacking(models: Sequence[Measured]) -> Iterator[str]:
    """A sentence for each task that some models were asked for and that could not be measured."""
    names: dict[tuple[str, str], list[str]] = {}
    for model in models:
        for lack in model.lacking:
            names.setdefault(lack, []).append(model.lineage.name)
    for (task, why), of in names.items():
        yield f"{task} was not measured of {', '.join(of)}: {why}."


def _other_metrics(trios: Sequence[Trio]) -> Iterator[str]:
    """A sentence for each published score of a teacher that is of another metric than all that was measured."""
    metrics: dict[str, set[str]] = {}
    for task in (task for trio in trios for task in trio.imitation.tasks):
        metrics.setdefault(task.task, set()).add(task.metric)
    told = {(trio.teacher.lineage.name, task.task, task.metric)
            for trio in trios if trio.teacher for task in trio.teacher.tasks if task.data == "published"}
    for teacher, task, metric in sorted(told):
        if task in metrics and metric not in metrics[task]:
            yield (f"{teacher}'s published score of {task} is not used: it is of the metric '{metric}', what was "
                   f"measured is '{', '.join(sorted(metrics[task]))}'.")


# ── many comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────


def _adjusted(views: list[View]) -> list[View]:
    """One imitation's changes and indices are one family: what is said of it hangs on nothing else in the folder."""
    changed, indexed = ([view for view in views if view.numbers.change], [view for view in views if view.index])
    adjusted = statistics.holm([*(v.numbers.change.p for v in changed), *(v.index.index.p for v in indexed)])
    of_change, of_index = (dict(zip(map(id, own), ps)) for own, ps in (
        (changed, adjusted), (indexed, adjusted[len(changed):])))
    return [dataclasses.replace(view, p_index=of_index.get(id(view)), numbers=_judged(
        view.numbers, of_change[id(view)]) if view.numbers.change else view.numbers) for view in views]


def _adjusted_ladders(climbed: list[Ladder]) -> list[Ladder]:
    adjusted = statistics.holm([ladder.difference.p for ladder in climbed])
    return [dataclasses.replace(ladder, p_holm=p, finding=finding_of(ladder.difference, None, p))
            for ladder, p in zip(climbed, adjusted)]


def _adjusted_tasks(tasks: list[TaskComparison]) -> list[TaskComparison]:
    """One imitation's single tasks are a family of their own, beside the conclusion."""
    changed = [task for task in tasks if task.numbers.change]
    adjusted = dict(zip(map(id, changed), statistics.holm(
        [task.numbers.change.p if task.p_value is None or task.form == "style" else task.p_value for task in changed])))
    return [dataclasses.replace(task, numbers=_judged(task.numbers, adjusted[id(task)])) if id(task) in adjusted
            else task for task in tasks]


def _judged(numbers: Numbers, p: float) -> Numbers:
    return dataclasses.replace(numbers, p_holm=p, finding=finding_of(numbers.change, numbers.gap, p))


def _base_level(views: Sequence[View]) -> float | None:
    """How the base does in substance, to put bases in order."""
    levels = [view.numbers.base.value for view in views if view.group == SUBSTANCE and view.numbers.base]
    return sum(levels) / len(levels) if levels else None


# ── one imitation ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _imitation(trio: Trio, tasks: list[TaskComparison], views: list[View], seen: Contamination,
               evidence: Evidence) -> ImitationVerdict:
    style, substance = ([v for v in views if v.group == side] for side in (STYLE, SUBSTANCE))
    found = _together(style), _together(substance)
    judgement = _judgement(*found)
    lineage = dataclasses.replace(trio.imitation.lineage, name=trio.name)
    sentences = [*(_sentence(view) for view in views), *(_index_sentence(view) for view in substance if view.index),
                 *told(seen), *_seed_sentence(trio, views)]
    return ImitationVerdict(
        lineage, trio.base and trio.base.lineage, trio.teacher and trio.teacher.lineage, _case(*found), judgement,
        _headline(lineage.name, judgement, style, substance), tuple(sentences), tuple(_flips(views, tasks)),
        tuple(views), tuple(tasks), tuple(run.lineage for run in trio.runs), evidence.datasets(lineage), seen)


def _headline(name: str, judgement: str, style: Sequence[View], substance: Sequence[View]) -> str:
    """One sentence: what happened to style, what to substance, each with its numbers."""
    judged = f"{name}: {judgement}"
    parts = [_side("style", style)] if style else []
    parts += [_side("substance", substance)] if substance else []
    return f"{judged} ({'; '.join(parts)})." if parts else f"{judged}."


def _together(views: Sequence[View]) -> str:
    """The common finding of some views: a Finding, "depends" where they differ, "flips" where they contradict."""
    findings: set[Finding] = {v.numbers.finding for v in views} - {"unknown"}
    if not findings:
        return "unknown"
    if {"gained", "lost"} <= findings:
        return "flips"
    if len(findings) == 1:
        return findings.pop()
    if "lost" in findings:
        return "lost or unchanged"
    return "depends" if "gained" in findings else "unclear"


def _case(style: str, substance: str) -> Case:
    if "unknown" in (style, substance):
        return "not measured"
    if "unclear" in (style, substance):
        return "not enough data"
    if {style, substance} & {"flips", "depends"}:
        return "depends on the form of asking"
    return {(True, True): "both", (True, False): "style only", (False, True): "substance only",
            (False, False): "neither"}[style == "gained", substance == "gained"]


_STYLE_WORDS = {"gained": "took on the teacher's style", "lost": "moved away from the teacher's style",
                "unchanged": "did not measurably change its style",
                "lost or unchanged": "moved away from the teacher's style in some forms of asking",
                "depends": "took on the teacher's style in some forms of asking only",
                "flips": "moved towards or away from the teacher's style depending on the form of asking",
                "unclear": "has not enough data to say whether it took on the teacher's style"}
_SUBSTANCE_WORDS = {"gained": "gained substance", "lost": "lost substance",
                    "unchanged": "gained no measurable substance",
                    "lost or unchanged": "gained no substance and in some forms lost it",
                    "depends": "gained substance in some forms of asking only",
                    "flips": "gained or lost substance depending on the form of asking",
                    "unclear": "has not enough data to say whether it gained substance"}


def _judgement(style: str, substance: str) -> str:
    if style == "unknown" and substance == "unknown":
        return "no change can be measured without its base"
    if "unknown" in (style, substance):
        return _SUBSTANCE_WORDS[substance] if style == "unknown" else _STYLE_WORDS[style]
    if style == substance == "unclear":
        return "has not enough data to say whether it took on style or gained substance"
    opposed = (style == "gained") != (substance == "gained")
    return f"{_STYLE_WORDS[style]} {'but' if opposed else 'and'} {_SUBSTANCE_WORDS[substance]}"


def _side(side: str, views: Sequence[View]) -> str:
    """Such as "style 92% (88% to 95%) of the gap closed": a share, else a change, else a level, for every view."""
    return f"{side} " + ", ".join(_short(view, label=len(views) > 1) for view in views)


def _short(view: View, label: bool) -> str:
    numbers = view.numbers
    prefix = f"({short_form(view)}) " if label else ""
    if numbers.closed.status == "measured":
        return f"{prefix}{share(numbers.closed)} of the gap closed"
    if numbers.change is not None:
        return f"{prefix}{signed_points(numbers.change)} against the base"
    return f"{prefix}{points(numbers.imitation)}"


# ── sentences ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sentence(view: View) -> str:
    """A whole sentence about one view, with every number behind it: absolute ones first."""
    numbers = view.numbers
    asked = {SUBSTANCE: "Substance", STYLE: "Style"}.get(view.group, view.group.capitalize())
    where = f"{asked}, {form_name(view)} ({', '.join(view.tasks)}; {numbers.items} items)"
    if view.group == PREFERENCE:
        return f"{where}: judged against the teacher's answers, the imitation wins {points(numbers.imitation)}" + (
            f", its base {points(numbers.base)}" if numbers.base else "") + f", ties counted half. {_change(numbers)}"
    scores = [f"the imitation scores {points(numbers.imitation)}"]
    scores += [f"its base {points(numbers.base)}"] if numbers.base else []
    scores += [f"its teacher {_teacher(numbers)}"] if numbers.teacher else []
    return f"{where}: {', '.join(scores)}. {_change(numbers)}{_closed(numbers)}".strip()


def _teacher(numbers: Numbers) -> str:
    return f"{points(numbers.teacher).split(' ')[0]} (published, not paired)" if numbers.published else points(
        numbers.teacher)


def _change(numbers: Numbers) -> str:
    if numbers.change is None:
        return ""
    words = {"gained": "a measurable gain over the base", "lost": "a measurable loss against the base",
             "unchanged": "no measurable change against the base",
             "unclear": "not enough data to tell a change against the base from none"}
    return f"That is {words[numbers.finding]} ({signed_points(numbers.change)}). "


def _closed(numbers: Numbers) -> str:
    of_teacher = f" It has {whole_share(numbers.share)} of the teacher's score." if numbers.share else ""
    if numbers.closed.status == "missing":
        return of_teacher.strip()
    if numbers.closed.status == "no gap":
        return f"The teacher is not measurably better than the base here, so there is no gap to close.{of_teacher}"
    return f"Gap closed: {share(numbers.closed)}.{of_teacher}"


def _index_sentence(view: View) -> str:
    made = view.index
    noise = ", item noise only" if view.numbers.seeds == 1 else ""
    return (f"False-promise index, {form_name(view)}: {ahead(made.index)}{noise}; style closed "
            f"{whole_share(made.style)} of its gap (mean of {made.style_parts}), substance "
            f"{whole_share(made.substance)} (mean of {made.substance_parts}).")


def _seed_sentence(trio: Trio, views: Sequence[View]) -> list[str]:
    """What the intervals know of training seeds."""
    if not any(view.numbers.change for view in views):
        return []
    if len(trio.runs) == 1:
        return ["One training seed: the intervals are of item noise only and leave out what another seed would change."]
    few = f"; {SEEDS_WANTED} are advised for a contrast that carries a conclusion" if len(
        trio.runs) < SEEDS_WANTED else ""
    return [f"{len(trio.runs)} training seeds: the intervals are of items and seeds{few}."]


def _flips(views: Sequence[View], tasks: Sequence[TaskComparison]) -> list[str]:
    """Findings that hold in one prompt form or way of answering and not in another."""
    lines = []
    for group in dict.fromkeys(view.group for view in views):
        lines += _flip(f"{group.capitalize()}", [(form_name(v), v.numbers) for v in views if v.group == group])
    for task in dict.fromkeys(t.task for t in tasks):
        lines += _flip(f"Task {task}", [(form_name(t), t.numbers) for t in tasks if t.task == task])
    return lines


def _flip(what: str, ways: list[tuple[str, Numbers]]) -> list[str]:
    by_finding: dict[Finding, list[str]] = {}
    for way, numbers in ways:
        if numbers.change is not None:
            by_finding.setdefault(numbers.finding, []).append(f"{way} ({signed_points(numbers.change)})")
    if len(by_finding) < 2 or not {"gained", "lost"} & set(by_finding):
        return []
    verb = "flips with" if {"gained", "lost"} <= set(by_finding) else "depends on"
    parts = [f"{describe(finding)} in {', '.join(by_finding[finding])}" for finding in by_finding]
    return [f"{what}: the finding {verb} the form of asking: {'; '.join(parts)}."]


def _contamination_notes(imitations: Sequence[ImitationVerdict]) -> list[str]:
    """What is not known about contamination, said once for all imitations that share it."""
    names: dict[str, list[str]] = {}
    for made in imitations:
        if made.contamination.note:
            names.setdefault(made.contamination.note, []).append(made.imitation.name)
    return [f"{', '.join(own)}: {note}" for note, own in names.items()]


def _scores(models: Sequence[Measured]) -> list[ModelScore]:
    order = {"base": 0, "imitation": 1, "teacher": 2, "other": 3}
    return [ModelScore(m.lineage.name, m.role, t.task, t.prompt, t.form, t.metric, t.score, len(t.items), t.shots,
                       t.data == "sample", t.protocol)
            for m in sorted(models, key=lambda m: (order[m.role], m.lineage.name)) for t in m.tasks]
