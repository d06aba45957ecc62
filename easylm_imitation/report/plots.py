"""Figures as inline SVG: no script, no font, no address outside the page; axes and words take the page's colour.

Each function returns markup with an accessible description, or "" when there is nothing to draw. Colour is never the
only cue: models differ in marker or hatching too, and every number drawn also stands in a table.
"""
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

from easylm_imitation.report.compare import TaskComparison, View
from easylm_imitation.report.statistics import Estimate
from easylm_imitation.report.verdict import STYLE, SUBSTANCE, ImitationVerdict, Verdict
from easylm_imitation.report.wording import form_name, number, points

_INK = "#010203"        # drawn with this, then replaced by the page's text colour
COLOURS = {"base": "#4477aa", "imitation": "#e07b39", "teacher": "#2a9d6f"}
MARKERS = {"base": "o", "imitation": "D", "teacher": "*"}
SERIES = ("#4477aa", "#e07b39", "#2a9d6f", "#b05ab5", "#8a8f2a", "#cc4455")      # readable on light and on dark
_HATCHES = {"base": "", "imitation": "////", "teacher": "xxxx"}     # no dots: an SVG draws each as a circle
LOOK = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "hatch.linewidth": 0.5,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def style_against_substance(verdict: Verdict) -> str:
    """Base → imitation → teacher, style across and substance up; one panel for each view of substance."""
    many = len(verdict.imitations) > 1
    pairs = [(str(i) if many else "imitation", style, substance) for i, v in enumerate(verdict.imitations, 1)
             for style in _views(v, STYLE)[:1] for substance in _views(v, SUBSTANCE)
             if style.numbers.base or style.numbers.teacher]
    panels = list(dict.fromkeys(form_name(substance) for _, _, substance in pairs))
    if not panels:
        return ""
    with matplotlib.rc_context(LOOK):
        figure = matplotlib.figure.Figure(figsize=(3.9 * len(panels) + 0.6, 3.9), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            _path_panel(axes, panel, [pair for pair in pairs if form_name(pair[2]) == panel])
    told = "; ".join(f"{label}, {form_name(sub)}: style {points(style.numbers.imitation)}, substance "
                     f"{points(sub.numbers.imitation)}" for label, style, sub in pairs)
    return svg(figure, f"Style against substance, from base over imitation to teacher. {told}.")


def task_bars(verdict: ImitationVerdict, groups: Sequence[str], title: str) -> str:
    """Scores of base, imitation and teacher with 95% intervals, one set of bars a task of these groups."""
    tasks = [task for task in verdict.tasks if task.group in groups]
    if not tasks:
        return ""
    with matplotlib.rc_context(LOOK):
        figure = matplotlib.figure.Figure(figsize=(8, 0.9 + 0.75 * len(tasks)), layout="constrained")
        _bars(figure.subplots(), tasks)
    told = "; ".join(f"{t.task} ({t.prompt}): imitation {points(t.numbers.imitation)}" for t in tasks)
    return svg(figure, f"{title} of {verdict.imitation.name} beside its base and teacher. {told}.")


def side_by_side(verdict: Verdict, group: str) -> str:
    """Several imitations on the tasks of one group that all of them have: a panel a task, a row an imitation."""
    tasks = [{(t.task, t.prompt): t for t in v.tasks if t.group == group} for v in verdict.imitations]
    shared = [key for key in tasks[0] if all(key in own for own in tasks)] if len(tasks) > 1 else []
    if not shared:
        return ""
    names = [f"{i}. {short(v.imitation.name)}" for i, v in enumerate(verdict.imitations, 1)]
    estimates = {key: [own[key].numbers.imitation for own in tasks] for key in shared}
    across = min(3, len(shared))
    down = -(-len(shared) // across)
    with matplotlib.rc_context(LOOK):
        figure = matplotlib.figure.Figure(figsize=(2.2 + 2.2 * across, down * (0.9 + 0.21 * len(names))),
                                          layout="constrained")
        panels = figure.subplots(down, across, sharey=True, squeeze=False).flatten()
        for axes, (task, prompt) in zip(panels, shared):
            _rows(axes, estimates[task, prompt])
            axes.set_title(f"{short(task)}\n{prompt} prompt", fontsize=9)
            axes.set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.3, -0.7)      # all panels share it
        for axes in panels[len(shared):]:
            axes.remove()
    told = "; ".join(f"{name}: " + ", ".join(number(estimates[key][i].value) for key in shared)
                     for i, name in enumerate(names))
    return svg(figure, f"Imitations side by side on {', '.join(task for task, _ in shared)}. {told}.")


def _views(verdict: ImitationVerdict, group: str) -> list[View]:
    return [view for view in verdict.views if view.group == group]


def _path_panel(axes: Axes, title: str, drawn: list[tuple[str, View, View]]) -> None:
    told = set()
    for label, style, substance in drawn:
        before = None
        for role in ("base", "imitation", "teacher"):
            x, y = getattr(style.numbers, role), getattr(substance.numbers, role)
            if x is None or y is None:
                continue
            _point(axes, role, x, y)
            if before:
                axes.annotate("", (x.value, y.value), before, zorder=1,
                              arrowprops={"arrowstyle": "->", "color": _INK, "alpha": 0.45, "shrinkA": 7, "shrinkB": 7})
            before = (x.value, y.value)
            text = label if role == "imitation" else role
            if (text, before) not in told:
                axes.annotate(text, before, xytext=(7, 7), textcoords="offset points", fontsize=9)
            told.add((text, before))
    axes.set(xlim=(-0.03, 1.12), ylim=(-0.03, 1.12), xlabel="style match", ylabel="substance", title=title)
    axes.title.set_fontsize(10)
    percent(axes.xaxis)
    percent(axes.yaxis)


def _point(axes: Axes, role: str, x: Estimate, y: Estimate) -> None:
    axes.errorbar(x.value, y.value, xerr=arms(x), yerr=arms(y), fmt=MARKERS[role], color=COLOURS[role],
                  markersize=11 if role == "teacher" else 7, elinewidth=1, alpha=0.95, zorder=3)


def _rows(axes: Axes, estimates: list[Estimate]) -> None:
    """One estimate a row, from the first row down: a point, its interval and its number."""
    axes.errorbar([e.value for e in estimates], range(len(estimates)), xerr=np.hstack([arms(e) for e in estimates]),
                  fmt=MARKERS["imitation"], color=COLOURS["imitation"], markersize=5, ecolor=_INK, elinewidth=1)
    for row, estimate in enumerate(estimates):
        axes.annotate(number(estimate.value), (max(estimate.high, 0), row), xytext=(4, 0), fontsize=8,
                      textcoords="offset points", va="center")
    axes.set_xlim(min(0, axes.get_xlim()[0]), max(1.12, axes.get_xlim()[1]))
    axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.5)
    percent(axes.xaxis)


def _bars(axes: Axes, tasks: list[TaskComparison]) -> None:
    roles = ("base", "imitation", "teacher")
    for place, role in enumerate(roles):
        rows = [(i, getattr(task.numbers, role)) for i, task in enumerate(tasks)]
        rows = [(i + (place - 1) * 0.26, estimate) for i, estimate in rows if estimate]
        if not rows:
            continue
        _one_series(axes, rows, 0.24, color=COLOURS[role], hatch=_HATCHES[role], label=role)
    _finish_bars(axes, [f"{short(t.task)}\n{t.prompt} prompt" for t in tasks])


def _one_series(axes: Axes, rows: list[tuple[float, Estimate]], height: float, **look: Any) -> None:
    """Bars at (position, estimate), with whiskers and numbers."""
    y, estimates = [row[0] for row in rows], [row[1] for row in rows]
    axes.barh(y, [e.value for e in estimates], height, edgecolor="white", linewidth=0, **look,
              xerr=np.hstack([arms(e) for e in estimates]), error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 2})
    for position, estimate in rows:
        axes.annotate(number(estimate.value), (max(estimate.high, 0), position), xytext=(4, 0), fontsize=8,
                      textcoords="offset points", va="center")


def _finish_bars(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(min(0, axes.get_xlim()[0]), max(1.08, axes.get_xlim()[1]))
    percent(axes.xaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def arms(estimate: Estimate) -> np.ndarray:
    """Distances from the value to its bounds: [2, 1], never negative."""
    return np.maximum([[estimate.value - estimate.low], [estimate.high - estimate.value]], 0)


def percent(axis: matplotlib.axis.Axis) -> None:
    """Ticks as percentages."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def short(name: str) -> str:
    """A name that fits beside an axis."""
    name = _UNPRINTABLE.sub("�", name)
    return name if len(name) <= 34 else name[:33] + "…"


def svg(figure: matplotlib.figure.Figure, description: str) -> str:
    """The figure's <svg>: without prolog and namespaces (HTML needs none), described, in the page's text colour."""
    buffer = io.StringIO()
    with matplotlib.rc_context(LOOK | {"svg.hashsalt": description}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")   # words stay words: the reader's fonts draw them
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href").replace(_INK, "currentColor")
    label = (_UNPRINTABLE.sub(" ", description).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;"))
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
