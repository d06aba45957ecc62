"""report.html: one file that needs nothing else, made from the verdict and the results by page.html.jinja.

Every text is escaped by the template engine; only the figures of plots.py enter as markup. A content security policy in
the page forbids scripts and loading anything.
"""
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import jinja2

from easylm_imitation.records import Item, TaskResult
from easylm_imitation.report import evidence, figures, plots, wording
from easylm_imitation.report.compare import View, group_of
from easylm_imitation.report.pairing import Measured, task_key
from easylm_imitation.report.verdict import PREFERENCE, STYLE, SUBSTANCE, ImitationVerdict, Verdict

EXAMPLES_A_TASK = 4     # of each kind: gained, lost
_SHOWN = 200            # characters of an answer


@dataclasses.dataclass(frozen=True)
class Example:
    """An item on which base and imitation differ."""
    task: str
    prompt: str
    item: str
    target: str
    base: str
    imitation: str
    what: str           # "gained" or "lost"


def render(verdict: Verdict, models: Sequence[Measured]) -> str:
    """The whole page."""
    folder = pathlib.Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("page.html.jinja").render(
        verdict=verdict, tile=_tile, models=sorted(models, key=lambda m: (m.role == "other", m.lineage.name)),
        dates=when(models), lineage=_lineage, scatter=plots.style_against_substance(verdict), papers=_papers(verdict),
        together=_together(verdict), bars=[_bars(made) for made in verdict.imitations],
        examples=[list(_examples(made, models)) for made in verdict.imitations], total=evidence.total(verdict.spent),
        number=wording.number, share=wording.share, whole_share=wording.whole_share, p_text=wording.p_text,
        signed_points=wording.signed_points, short_form=wording.short_form)


def when(models: Sequence[Measured]) -> str:
    """The days of the measurements: one, or first and last."""
    dates = sorted(date for model in models for date in model.dates)
    return " to ".join(dict.fromkeys((dates[0][:10], dates[-1][:10]))) if dates else ""


def _papers(verdict: Verdict) -> list[tuple[str, str]]:
    """(figure, caption) of the paper's figures that these results can fill."""
    made = [(figures.figure_one(verdict), "As the paper's Figure 1: how answers are rated, and what is known, as "
             "imitation data grow; what a better base brings. Dotted: the base. Dashed: the teacher."),
            (figures.figure_three(verdict), "As the paper's Figure 3: preference by each kind of rater."),
            (figures.figure_four(verdict), "As the paper's Figure 4: benchmarks as imitation data grow (above) and "
             "over bases (below). Dotted: the base. Dashed: the teacher."),
            (figures.figure_five(verdict), "As the paper's Figure 5: what concerns safety as imitation data grow "
             "(above) and over bases (below). Dotted: the base. Dashed: the teacher."),
            (figures.table_two(verdict), "As the paper's Table 2: how like the teacher's answers; the star is a second "
             "sample of the teacher itself, the ceiling.")]
    return [(svg, caption) for svg, caption in made if svg]


def _tile(view: View) -> tuple[str, str]:
    """The one number of a view and what goes with it: the change in points with its interval and the share of the gap,
    else the level; of preference always the level."""
    numbers = view.numbers
    if numbers.change is None or view.group == PREFERENCE:
        return tuple(wording.points(numbers.imitation).split(" ", 1))
    value, interval = wording.signed_points(numbers.change).split(" ", 1)
    gap = {"measured": f"; {wording.share(numbers.closed).split(' ')[0]} of the gap closed",
           "no gap": "; no gap to close", "missing": ""}[numbers.closed.status]
    return value, f"points against the base {interval.removeprefix('points ')}{gap}"


def _together(verdict: Verdict) -> list[tuple[str, str]]:
    """(figure, caption) of several imitations on the tasks that they share."""
    made = [(plots.side_by_side(verdict, STYLE), "Likeness to the teacher's answers; whiskers are 95% intervals."),
            (plots.side_by_side(verdict, SUBSTANCE), "Substance; whiskers are 95% intervals.")]
    return [(svg, caption) for svg, caption in made if svg]


def _bars(made: ImitationVerdict) -> list[tuple[str, str]]:
    """(figure, caption) for style and for everything else."""
    others = tuple(dict.fromkeys(task.group for task in made.tasks if task.group != STYLE))
    return [(plots.task_bars(made, others, "Scores"), "Scores of each task; the bars' whiskers are 95% intervals."),
            (plots.task_bars(made, (STYLE,), "Style measures"), "Measures of likeness to the teacher's answers.")]


def _lineage(model: Measured) -> Iterator[tuple[str, str]]:
    """(what, value) of everything known about the model's origin, empty things left out."""
    for field in dataclasses.fields(model.lineage):
        value = getattr(model.lineage, field.name)
        if value not in ("", (), 0, None) or field.name == "seed" and value == 0:
            yield field.name.replace("_", " "), ", ".join(value) if isinstance(value, tuple) else str(value)
    if model.dates:
        yield "measured", ", ".join(model.dates)


def _examples(made: ImitationVerdict, models: Sequence[Measured]) -> Iterator[Example]:
    """Items that the imitation gets right and its base wrong, and the reverse, a few of each task."""
    mine, base = (next((m for m in models if lineage and (m.lineage.id, m.lineage.name) == (lineage.id, lineage.name)),
                       None) for lineage in (made.runs[0] if made.runs else made.imitation, made.base))
    if mine is None or base is None:
        return
    for task in mine.tasks:
        theirs = base.find(task_key(task), task.protocol)
        if theirs and theirs.protocol == task.protocol and group_of(task) != STYLE:
            yield from _changed(task, theirs)


def _changed(mine: TaskResult, base: TaskResult) -> Iterator[Example]:
    before = {item.id: item for item in base.items}
    pairs = [(before[item.id], item) for item in mine.items if item.id in before]
    for what, sign in (("gained", 1), ("lost", -1)):
        found = [pair for pair in pairs if sign * (pair[1].score - pair[0].score) > 0]
        for old, new in found[:EXAMPLES_A_TASK]:
            yield Example(mine.task, mine.prompt, new.id, _cut(new.target), _said(old), _said(new), what)


def _said(item: Item) -> str:
    return _cut(item.prediction) if item.prediction else "—"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
