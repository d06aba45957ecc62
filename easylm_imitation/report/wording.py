"""Numbers as people read them: percentages with their intervals, and names of the ways of asking."""
from typing import Protocol

from easylm_imitation.report.statistics import Estimate, GapClosed

MINUS = "−"


class Asked(Protocol):
    """Anything that knows its prompt form and its form of answering: a View or a TaskComparison."""
    prompt: str
    form: str


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


def form_name(asked: Asked) -> str:
    """"raw prompts, multiple choice" and the like."""
    forms = {"choices": "multiple choice", "generation": "written answers", "style": "next to the teacher's answers"}
    return f"{asked.prompt} prompts, {forms.get(asked.form, asked.form)}"


def short_form(asked: Asked) -> str:
    """"raw, choices": for narrow places."""
    return f"{asked.prompt} prompts" if asked.form == "style" else f"{asked.prompt}, {asked.form}"


def describe(finding: str) -> str:
    """A finding as a noun."""
    return {"gained": "a gain", "lost": "a loss", "unchanged": "no measurable change"}[finding]


def _whole(value: float) -> str:
    text = f"{100 * value:.0f}%"
    return "0%" if text == "-0%" else text.replace("-", MINUS)
