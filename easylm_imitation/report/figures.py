"""The paper's figures from one's own results: Figures 1, 3, 4, 5 and Table 2 of arXiv 2305.15717, for what is there.

Across is the number of imitation tokens (more of the same teaching) or the base (ordered by how the bases themselves
do); a dotted line is the base, a dashed one the teacher, whiskers are 95% intervals. Each function returns markup as
plots.py makes it, or "" where the results hold no ladder of budgets or bases.
"""
import dataclasses
from collections.abc import Callable, Sequence

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

from easylm_imitation.report import plots
from easylm_imitation.report.compare import Numbers, benchmark_of
from easylm_imitation.report.verdict import PREFERENCE, STYLE, SUBSTANCE, ImitationVerdict, Verdict
from easylm_imitation.report.wording import number, points

_MOST = 4       # panels across
Pick = Callable[[ImitationVerdict], Numbers | None]


@dataclasses.dataclass(frozen=True)
class _Line:
    """What one line of a panel shows: (place across, numbers, name of the imitation) in order."""
    label: str
    steps: list[tuple[float, Numbers, str]]


@dataclasses.dataclass(frozen=True)
class _Panel:
    title: str
    across: str
    lines: list[_Line]
    ticks: tuple[str, ...] = ()     # names of bases, where these stand across


def figure_one(verdict: Verdict) -> str:
    """Preference over imitation tokens, substance over imitation tokens, substance over bases."""
    kinds = [(_first(PREFERENCE), "rated against the teacher", _by_tokens),
             (_first(SUBSTANCE), "substance", _by_tokens), (_first(SUBSTANCE), "substance", _by_base)]
    panels = [panel for pick, title, make in kinds if (panel := make(verdict, title, [("", pick)]))]
    return _drawn([panels], "Figure 1 of the paper: preference and substance over imitation data and bases")


def figure_three(verdict: Verdict) -> str:
    """Preference by each kind of rater, over imitation tokens and over bases."""
    raters = [(f"{task.removeprefix('preference_')} ({prompt})", _task(task, prompt))
              for task, prompt in _tasks(verdict, PREFERENCE)]
    panels = [panel for make in (_by_tokens, _by_base)
              if (panel := make(verdict, "rated against the teacher", raters))]
    return _drawn([panels], "Figure 3 of the paper: preference by each kind of rater") if raters else ""


def figure_four(verdict: Verdict) -> str:
    """Each benchmark over imitation tokens (upper rows) and over bases (lower rows)."""
    known = _tasks(verdict, SUBSTANCE)
    tasks = [(task, prompt) for task, prompt in known
             if benchmark_of(task) == task or (benchmark_of(task), prompt) not in known]
    return _drawn(_rows(verdict, tasks), "Figure 4 of the paper: benchmarks over imitation data and over bases")


def figure_five(verdict: Verdict) -> str:
    """Each measure of safety (toxicity, refusals) over imitation tokens and over bases."""
    rows = _rows(verdict, _tasks(verdict, "safety"))
    return _drawn(rows, "Figure 5 of the paper: safety over imitation data and over bases")


def _rows(verdict: Verdict, tasks: Sequence[tuple[str, str]]) -> list[list[_Panel]]:
    """A panel of each task over tokens, then of each over bases; at most _MOST beside each other."""
    kinds = [[panel for task, prompt in tasks
              if (panel := make(verdict, f"{task} ({prompt})", [("", _task(task, prompt))]))]
             for make in (_by_tokens, _by_base)]
    return [kind[start:start + _MOST] for kind in kinds for start in range(0, len(kind), _MOST)]


def table_two(verdict: Verdict) -> str:
    """Each measure of style: base, imitations by their tokens, and the teacher's second sample as the ceiling."""
    keys = _tasks(verdict, STYLE)
    made = sorted(verdict.imitations, key=lambda v: (v.imitation.base_name, v.imitation.tokens))
    if not keys or not made:
        return ""
    with matplotlib.rc_context(plots.LOOK):
        figure = matplotlib.figure.Figure(figsize=(8, 1.4 + 0.62 * len(keys)), layout="constrained")
        axes = figure.subplots()
        told = [_style_row(axes, place, key, made) for place, key in enumerate(keys)]
        axes.set_yticks(range(len(keys)), [f"{plots.short(task.removeprefix('style_'))} ({prompt})"
                                           for task, prompt in keys])
        axes.set_ylim(len(keys) - 0.4, -0.6)
        axes.grid(axis="y", alpha=0.25)
        plots.percent(axes.xaxis)
        handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
        axes.legend(handles.values(), handles.keys(), loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
                    frameon=False, fontsize=8)
    return plots.svg(figure, f"Table 2 of the paper: measures of style. {'; '.join(told)}.")


def _style_row(axes: Axes, place: int, key: tuple[str, str], made: Sequence[ImitationVerdict]) -> str:
    found = [(v, numbers) for v in made if (numbers := _task(*key)(v))]
    told, spread = [], np.linspace(-0.22, 0.22, len(found)) if len(found) > 1 else [0.0]
    shades = matplotlib.colormaps["autumn"](np.linspace(0.1, 0.75, len(found)))
    for (v, numbers), offset, shade in zip(found, spread, shades):
        name = plots.short(v.imitation.name)
        axes.errorbar(numbers.imitation.value, place + offset, xerr=plots.arms(numbers.imitation), fmt="D",
                      color=shade, markersize=6, elinewidth=1, label=name)
        told.append(f"{name} {number(numbers.imitation.value)}")
    for role in ("base", "teacher"):
        estimates = {e.value: e for _, numbers in found if (e := getattr(numbers, role))}
        for estimate in estimates.values():
            axes.errorbar(estimate.value, place, xerr=plots.arms(estimate), fmt=plots.MARKERS[role],
                          color=plots.COLOURS[role], markersize=10 if role == "teacher" else 7, elinewidth=1,
                          label="base" if role == "base" else "teacher, second sample")
            told.append(f"{role} {number(estimate.value)}")
    return f"{key[0]}: {', '.join(told)}"


# ── what stands across ────────────────────────────────────────────────────────────────────────────────────────────────


def _by_tokens(verdict: Verdict, title: str, picks: Sequence[tuple[str, Pick]]) -> _Panel | None:
    """Lines over tokens: one a base, data and pick, of imitations with different budgets."""
    lines = []
    for label, pick in picks:
        families: dict[tuple, list[ImitationVerdict]] = {}
        for made in verdict.imitations:
            families.setdefault((made.imitation.base_name, made.datasets), []).append(made)
        for (base, datasets), own in families.items():
            steps = [(float(v.imitation.tokens), n, v.imitation.name)
                     for v in sorted(own, key=lambda v: v.imitation.tokens) if (n := pick(v))]
            if len({x for x, _, _ in steps}) > 1:
                name = " · ".join(part for part in (label, base, "+".join(datasets)) if part)
                lines.append(_Line(name, steps))
    return _Panel(title, "imitation tokens", lines) if lines else None


def _by_base(verdict: Verdict, title: str, picks: Sequence[tuple[str, Pick]]) -> _Panel | None:
    """Lines over bases: of each base the imitation with most tokens."""
    largest: dict[str, ImitationVerdict] = {}
    for made in sorted(verdict.imitations, key=lambda v: v.imitation.tokens):
        if made.base:
            largest[made.base.id] = made
    level = _first(SUBSTANCE)
    ordered = sorted((v for v in largest.values() if (n := level(v)) and n.base), key=lambda v: level(v).base.value)
    if len(ordered) < 2:
        return None
    lines = [_Line(label or "imitation, by its base", steps) for label, pick in picks
             if len(steps := [(float(i), n, v.imitation.name) for i, v in enumerate(ordered) if (n := pick(v))]) > 1]
    return _Panel(title, "base of the imitation", lines, tuple(v.base.name for v in ordered)) if lines else None


def _first(group: str) -> Pick:
    """The first view of a group."""
    return lambda made: next((view.numbers for view in made.views if view.group == group), None)


def _task(task: str, prompt: str) -> Pick:
    return lambda made: next((t.numbers for t in made.tasks if (t.task, t.prompt) == (task, prompt)), None)


def _tasks(verdict: Verdict, group: str) -> list[tuple[str, str]]:
    return list(dict.fromkeys((t.task, t.prompt) for v in verdict.imitations for t in v.tasks if t.group == group))


# ── drawing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _drawn(rows: Sequence[Sequence[_Panel]], what: str) -> str:
    rows = [row for row in rows if row]
    if not rows:
        return ""
    across = max(map(len, rows))
    with matplotlib.rc_context(plots.LOOK):
        figure = matplotlib.figure.Figure(figsize=(max(4.2, 2.9 * across + 0.4), 3.3 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), across, squeeze=False)
        for row, own in zip(rows, grid):
            for place, axes in enumerate(own):
                _draw(axes, row[place]) if place < len(row) else axes.set_axis_off()
        handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False, fontsize=8,
                      ncols=min(len(handles), across))
    told = "; ".join(f"{panel.title} by {panel.across}, {line.label}: "
                     + ", ".join(f"{name} {points(n.imitation)}" for _, n, name in line.steps)
                     for row in rows for panel in row for line in panel.lines)
    return plots.svg(figure, f"{what}. {told}.")


def _draw(axes: Axes, panel: _Panel) -> None:
    for index, line in enumerate(panel.lines):
        colour = plots.SERIES[index % len(plots.SERIES)]
        x, numbers = [step[0] for step in line.steps], [step[1] for step in line.steps]
        axes.errorbar(x, [n.imitation.value for n in numbers],
                      yerr=np.hstack([plots.arms(n.imitation) for n in numbers]), marker="oDs^v*"[index % 6],
                      color=colour, capsize=2, label=plots.short(line.label))
        _levels(axes, panel, x, numbers, colour)
    axes.set(xlabel=panel.across, title=panel.title)
    axes.title.set_fontsize(10)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.05) if low > -0.1 else low, min(high + 0.02, 1.08))
    plots.percent(axes.yaxis)
    if panel.ticks:
        axes.set_xticks(range(len(panel.ticks)), [plots.short(name) for name in panel.ticks])
        axes.set_xlim(-0.4, len(panel.ticks) - 0.6)
        return
    budgets = sorted({x for line in panel.lines for x, _, _ in line.steps})
    if budgets[0] > 0:
        axes.set_xscale("log")
    axes.set_xticks(budgets, [_tokens(budget) for budget in budgets])
    axes.set_xticks([], minor=True)
    axes.set_xlim(budgets[0] / 1.5, budgets[-1] * 1.5)


def _tokens(count: float) -> str:
    """80000 as "80k"."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:g}"


def _levels(axes: Axes, panel: _Panel, x: list[float], numbers: list[Numbers], colour: str) -> None:
    """Where base and teacher stand: lines across over tokens, marks over bases."""
    if panel.ticks:
        bases = [(place, n.base.value) for place, n in zip(x, numbers) if n.base]
        axes.plot(*zip(*bases), marker="o", markerfacecolor="none", linestyle=":", color=colour,
                  label="its base")
    elif numbers[0].base:
        axes.axhline(numbers[0].base.value, color=colour, linestyle=":", linewidth=1.2)
    if numbers[-1].teacher:
        axes.axhline(numbers[-1].teacher.value, color=plots.COLOURS["teacher"], linestyle="--", linewidth=1.2)
