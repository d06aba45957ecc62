"""The verdict: what the numbers of a folder of results say, in words that follow from the numbers alone.

Fixed rules choose the words. A change is *measurable* when its 95% interval leaves out zero. A finding *flips* when it
is a measurable gain in one view and a measurable loss in another; it *depends on the form* when it is measurable in one
view and not in another.
"""
import dataclasses
from collections.abc import Sequence

from easylm_imitation.records import Lineage, code_version
from easylm_imitation.report.compare import Finding, Numbers, TaskComparison, View, compare
from easylm_imitation.report.pairing import Measured, Trio, make_trios
from easylm_imitation.report.wording import describe, form_name, points, share, short_form, signed_points

SUBSTANCE, STYLE = "substance", "style"


@dataclasses.dataclass(frozen=True)
class ImitationVerdict:
    """What is to be said about one imitation. `sentences` read on their own; `headline` is the short form of them all.

    `judgement` is the headline without name and numbers.
    """
    imitation: Lineage
    base: Lineage | None
    teacher: Lineage | None
    judgement: str
    headline: str
    sentences: tuple[str, ...]
    flips: tuple[str, ...]
    views: tuple[View, ...]
    tasks: tuple[TaskComparison, ...]


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
    """verdict.json. `missing`, `refusals` and `remarks` are complete sentences for the reader."""
    headline: str
    imitations: tuple[ImitationVerdict, ...]
    scores: tuple[ModelScore, ...]
    missing: tuple[str, ...]
    refusals: tuple[str, ...]
    remarks: tuple[str, ...]
    code: str


def make_verdict(models: Sequence[Measured], remarks: Sequence[str] = ()) -> Verdict:
    """Pairs, compares and words everything in `models`."""
    trios = make_trios(list(models))
    made, refusals = [], []
    for trio in trios:
        tasks, views, refused = compare(trio)
        made.append(_imitation(trio, tasks, views))
        refusals += refused
    missing = [line for trio in trios for line in trio.missing]
    if not trios:
        missing.append("No imitation among these results: a model counts as one when its lineage names teachers.")
    samples = sorted({t.task for m in models for t in m.tasks if t.data == "sample"})
    if samples:
        remarks = [*remarks, f"Measured on a sample, not on all items: {', '.join(samples)}."]
    headline = " ".join(v.headline for v in made) if made else "Nothing to compare: no imitation among these results."
    return Verdict(headline, tuple(made), tuple(_scores(models)), tuple(dict.fromkeys(missing)),
                   tuple(dict.fromkeys(refusals)), tuple(remarks), code_version())


def _imitation(trio: Trio, tasks: list[TaskComparison], views: list[View]) -> ImitationVerdict:
    style, substance = ([v for v in views if v.group == side] for side in (STYLE, SUBSTANCE))
    judgement = _judgement(_together(style), _together(substance))
    return ImitationVerdict(
        trio.imitation.lineage, trio.base and trio.base.lineage, trio.teacher and trio.teacher.lineage, judgement,
        _headline(trio.imitation.lineage.name, judgement, style, substance), tuple(_sentence(view) for view in views),
        tuple(_flips(views, tasks)), tuple(views), tuple(tasks))


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
    return findings.pop() if len(findings) == 1 else "lost or unchanged" if "lost" in findings else "depends"


_STYLE_WORDS = {"gained": "took on the teacher's style", "lost": "moved away from the teacher's style",
                "unchanged": "did not measurably change its style",
                "lost or unchanged": "moved away from the teacher's style in some forms of asking",
                "depends": "took on the teacher's style in some forms of asking only",
                "flips": "moved towards or away from the teacher's style depending on the form of asking"}
_SUBSTANCE_WORDS = {"gained": "gained substance", "lost": "lost substance",
                    "unchanged": "gained no measurable substance",
                    "lost or unchanged": "gained no substance and in some forms lost it",
                    "depends": "gained substance in some forms of asking only",
                    "flips": "gained or lost substance depending on the form of asking"}


def _judgement(style: str, substance: str) -> str:
    if style == "unknown" and substance == "unknown":
        return "no change can be measured without its base"
    if "unknown" in (style, substance):
        return _SUBSTANCE_WORDS[substance] if style == "unknown" else _STYLE_WORDS[style]
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


def _sentence(view: View) -> str:
    """A whole sentence about one view, with every number behind it."""
    numbers = view.numbers
    asked = {SUBSTANCE: "Substance", STYLE: "Style"}.get(view.group, view.group.capitalize())
    where = f"{asked}, {form_name(view)} ({', '.join(view.tasks)}; {numbers.items} items)"
    scores = [f"the imitation scores {points(numbers.imitation)}"]
    scores += [f"its base {points(numbers.base)}"] if numbers.base else []
    scores += [f"its teacher {points(numbers.teacher)}"] if numbers.teacher else []
    return f"{where}: {', '.join(scores)}. {_change(numbers)}{_closed(numbers)}".strip()


def _change(numbers: Numbers) -> str:
    if numbers.change is None:
        return ""
    words = {"gained": "a measurable gain over the base", "lost": "a measurable loss against the base",
             "unchanged": "no measurable change against the base"}
    return f"That is {words[numbers.finding]} ({signed_points(numbers.change)}). "


def _closed(numbers: Numbers) -> str:
    if numbers.closed.status == "missing":
        return ""
    if numbers.closed.status == "no gap":
        return "The teacher is not measurably better than the base here, so there is no gap to close."
    return f"Gap closed: {share(numbers.closed)}."


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
    if len(by_finding) < 2:
        return []
    verb = "flips with" if {"gained", "lost"} <= set(by_finding) else "depends on"
    parts = [f"{describe(finding)} in {', '.join(by_finding[finding])}" for finding in by_finding]
    return [f"{what}: the finding {verb} the form of asking: {'; '.join(parts)}."]


def _scores(models: Sequence[Measured]) -> list[ModelScore]:
    order = {"base": 0, "imitation": 1, "teacher": 2, "other": 3}
    return [ModelScore(m.lineage.name, m.role, t.task, t.prompt, t.form, t.metric, t.score, len(t.items), t.shots,
                       t.data == "sample", t.protocol)
            for m in sorted(models, key=lambda m: (order[m.role], m.lineage.name)) for t in m.tasks]
