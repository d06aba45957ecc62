"""What more imitation data do, and what a better base does: the paper's two axes, as paired differences.

Imitations of one base by different budgets of one dataset are a ladder of data; imitations of different bases are a
ladder of bases, ordered by how the bases themselves do in substance, where that tells them apart. Each ladder is told
by its ends: the difference between the highest and the lowest step, on the same items, seeds of both sides counted.
"""
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

from easylm_imitation.report.compare import Finding, Row, asked_form, difference, finding_of, view_rows
from easylm_imitation.report.pairing import Trio
from easylm_imitation.report.statistics import Estimate
from easylm_imitation.report.wording import signed_points


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The ends of one ladder in one view: `top` minus `bottom`. `names` are of imitations, lowest first."""
    axis: Literal["data", "base"]
    group: str
    prompt: str
    form: str
    names: tuple[str, ...]
    bottom: str
    top: str
    difference: Estimate
    finding: Finding
    p_holm: float | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """An imitation with its rows, as compare made them, and how its base does in substance."""
    trio: Trio
    rows: list[Row]
    base_level: float | None
    datasets: tuple[str, ...] = ()      # sources of its training data, where the card is here


def ladders(steps: Sequence[Step]) -> tuple[list[Ladder], list[str]]:
    """All ladders of at least two steps, of data first; and a line for each of bases that cannot be put in order."""
    made = []
    for own in _families(steps, lambda s: (s.trio.imitation.lineage.base, *_taught(s))):
        budgets = {step.trio.imitation.lineage.tokens: step for step in own}
        if len(budgets) > 1:
            made += _ladder("data", [budgets[tokens] for tokens in sorted(budgets)])
    largest: dict[tuple, Step] = {}
    for step in steps:
        lineage = step.trio.imitation.lineage
        key = lineage.base, *_taught(step)
        if step.base_level is not None and (key not in largest or
                                            lineage.tokens > largest[key].trio.imitation.lineage.tokens):
            largest[key] = step
    unclear = []
    for own in _families(list(largest.values()), _taught):
        if len(own) > 1:
            ordered = sorted(own, key=lambda step: step.base_level)
            apart = _bases_apart(ordered[0], ordered[-1])
            if apart and apart.low > 0:
                made += _ladder("base", ordered)
            else:
                unclear.append(_not_better(ordered[0], ordered[-1], apart))
    return made, unclear


def _bases_apart(low: Step, high: Step) -> Estimate | None:
    """How much better the base of `high` is in substance, over all that both bases were asked."""
    asked = [[row for row in step.rows if row.group == "substance" and row.base] for step in (high, low)]
    return difference(*asked, who="base")


def _not_better(low: Step, high: Step, apart: Estimate | None) -> str:
    names = [step.trio.imitation.lineage.base_name for step in (high, low)]
    said = f": {signed_points(apart)}" if apart else ", as they were not asked the same items"
    return (f"The bases {names[0]} and {names[1]} cannot be told apart in substance{said}; what a better base does is "
            "left open.")


def _taught(step: Step) -> tuple:
    """Who taught, and with which data: steps of one ladder have both in common."""
    return step.trio.imitation.lineage.teachers, step.datasets


def _families(steps: Sequence[Step], key: Callable[[Step], Hashable]) -> list[list[Step]]:
    found: dict[Hashable, list[Step]] = {}
    for step in steps:
        found.setdefault(key(step), []).append(step)
    return list(found.values())


def _ladder(axis: Literal["data", "base"], steps: list[Step]) -> list[Ladder]:
    """One ladder for each view of style, substance and preference that both ends have."""
    low, high = steps[0], steps[-1]
    views = dict.fromkeys((row.group, row.mine.prompt, asked_form(row.mine)) for row in high.rows
                          if row.group in ("style", "substance", "preference"))
    made = []
    for view in views:
        change = difference(view_rows(high.rows, *view), view_rows(low.rows, *view))
        if change:
            names = tuple(step.trio.name for step in steps)
            made.append(Ladder(axis, *view, names, names[0], names[-1], change, finding_of(change, None, None)))
    return made
