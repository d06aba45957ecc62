"""Numbers as people read them: percentages with their intervals, and names of the ways of asking."""
from typing import Protocol

from easylm_imitation.report.statistics import Estimate, GapClosed

MINUS = "−"


class Asked(Protocol):
    """Anything that knows its prompt form and its form of answering: a View or a TaskComparison."""
    prompt: str
    form: str


class Ladderlike(Asked, Protocol):
    """The ends of a ladder, as scaling.Ladder has them."""
    axis: str
    group: str
    bottom: str
    top: str
    difference: Estimate
    finding: str


def number(value: float) -> str:
    """A share as a percentage without its sign "%": one digit after the point, a real minus."""
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", MINUS)


def points(estimate: Estimate) -> str:
    """"51.0% (44.0 to 58.0)"."""
    return f"{number(estimate.value)}% ({number(estimate.low)} to {number(estimate.high)})"


def signed_points(estimate: Estimate) -> str:
    """"+4.2 points (−0.1 to 8.3)"."""
    value = number(estimate.value)
    plus = "" if value.startswith(MINUS) or value == "0.0" else "+"
    return f"{plus}{value} points ({number(estimate.low)} to {number(estimate.high)})"


def share(closed: GapClosed) -> str:
    """"92% (88% to 95%)"; "—" when there is none."""
    if closed.status != "measured":
        return "—"
    return f"{_whole(closed.value)} ({_whole(closed.low)} to {_whole(closed.high)})"


def whole_share(estimate: Estimate) -> str:
    """A ratio as "83% (80% to 86%)"."""
    return f"{_whole(estimate.value)} ({_whole(estimate.low)} to {_whole(estimate.high)})"


def ahead(index: Estimate) -> str:
    """The false-promise index in words: which side ran ahead, in points of the gap."""
    words = "style ran ahead of substance" if index.low > 0 else (
        "substance ran ahead of style" if index.high < 0 else "neither side ran measurably ahead of the other")
    value, low, high = (_whole(x).removesuffix("%") for x in (index.value, index.low, index.high))
    return f"{words}, {value} points of the gap ({low} to {high})"


def describe_ladder(ladder: Ladderlike) -> str:
    """What more data, or a better base, did."""
    what = "More imitation data" if ladder.axis == "data" else "A better base"
    finding = {"gained": "raised", "lost": "lowered", "unchanged": "left", "unclear": "has not enough data to tell for"}
    tail = " unchanged" if ladder.finding == "unchanged" else ""
    side = f"{ladder.group} ({short_form(ladder)})"
    return (f"{what}, from {ladder.bottom} to {ladder.top}, {finding[ladder.finding]} {side}{tail}: "
            f"{signed_points(ladder.difference)}")


def p_text(p: float | None) -> str:
    """A p-value for a table."""
    return "—" if p is None else "<0.001" if p < 0.001 else f"{p:.2g}"


def form_name(asked: Asked) -> str:
    """"raw prompts, multiple choice" and the like."""
    forms = {"choices": "multiple choice", "generation": "written answers", "style": "next to the teacher's answers",
             "preference": "judged against the teacher's", "people": "people's choice against the teacher's"}
    return f"{asked.prompt} prompts, {forms.get(asked.form, asked.form)}"


def short_form(asked: Asked) -> str:
    """"raw, choices": for narrow places."""
    return f"{asked.prompt} prompts" if asked.form in ("style", "preference") else f"{asked.prompt}, {asked.form}"


def describe(finding: str) -> str:
    """A finding as a noun."""
    return {"gained": "a gain", "lost": "a loss", "unchanged": "no measurable change",
            "unclear": "not enough data"}[finding]


def _whole(value: float) -> str:
    text = f"{100 * value:.0f}%"
    return "0%" if text == "-0%" else text.replace("-", MINUS)
