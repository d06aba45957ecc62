"""The page's first lines: is it substance or style? Put together from the findings; nothing here knows an answer."""
from collections.abc import Iterator, Sequence
from typing import Any

from easylm_imitation.report.scaling import Ladder
from easylm_imitation.report.wording import ahead, describe_ladder, short_form, signed_points

_ANSWERS = {
    "style only": "It is style, not substance: {who} took on the teacher's style and gained no measurable substance.",
    "substance only": "It is substance, not style: {who} gained substance and did not take on the teacher's style.",
    "both": "It is both: {who} took on the teacher's style and gained substance.",
    "neither": "It is neither: {who} took on no style of the teacher's and gained no measurable substance.",
    "depends on the form of asking": "It depends on how one asks: what {who} gained in one form "
                                     "does not show in another.",
    "not enough data": "Not enough data: {who} cannot be told to be substance or style from these items and seeds.",
    "not measured": "Not measured: for {who} style or substance has no results of imitation and base."}


def conclude(imitations: Sequence[Any], climbed: Sequence[Ladder]) -> Iterator[str]:
    """Sentences, the answer first. `imitations` are ImitationVerdicts."""
    if not imitations:
        yield "Nothing to compare: no imitation among these results."
        return
    cases = list(dict.fromkeys(made.case for made in imitations))
    if len(cases) > 1:
        yield f"It differs between the {len(imitations)} imitations."
    for case in cases:
        names = [made.imitation.name for made in imitations if made.case == case]
        yield _ANSWERS[case].format(who=_who(names, len(imitations)))
    yield from _lost(imitations)
    yield from _indices(imitations)
    yield from (f"{describe_ladder(ladder)}." for ladder in climbed if ladder.group != "covered")
    if any(made.flips for made in imitations):
        yield ("Some findings hang on the form of asking: "
               + " ".join(f"{made.imitation.name}: {made.flips[0]}" for made in imitations if made.flips))
    yield from _seeds(imitations)


def _who(names: Sequence[str], of: int) -> str:
    if len(names) == of:
        return "the imitation" if of == 1 else f"all {of} imitations"
    return _listed(names)


def _listed(names: Sequence[str]) -> str:
    shown = list(names) if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _lost(imitations: Sequence[Any]) -> Iterator[str]:
    """A loss of substance is more than no gain, and is said."""
    lost = [(made.imitation.name, view) for made in imitations for view in made.views
            if view.group == "substance" and view.numbers.finding == "lost"]
    if lost:
        told = "; ".join(f"{name} {signed_points(view.numbers.change)} ({short_form(view)})" for name, view in lost[:4])
        yield f"Substance was lost against the base: {told}{'; and more below' if len(lost) > 4 else ''}."


def _indices(imitations: Sequence[Any]) -> Iterator[str]:
    """How far style ran ahead of substance, where both gaps are measurable."""
    found = [(made.imitation.name, view) for made in imitations for view in made.views if view.index]
    for name, view in found[:4]:
        label = f"{name}, {short_form(view)}" if len(found) > 1 else "False-promise index"
        noise = " (item noise only)" if view.numbers.seeds == 1 else ""
        yield f"{label}: {ahead(view.index.index)}{noise}."
    if len(found) > 4:
        values = [view.index.index.value for _, view in found]
        yield (f"Over all {len(found)} of these the false-promise index runs from {100 * min(values):.0f} to "
               f"{100 * max(values):.0f} points.")


def _seeds(imitations: Sequence[Any]) -> Iterator[str]:
    measured = [made for made in imitations if any(view.numbers.change for view in made.views)]
    counts = sorted({len(made.runs) for made in measured})
    if counts == [1]:
        yield "Each imitation was trained once: the intervals are of item noise only."
    elif counts and counts[0] < 5:
        yield f"Some imitations were trained with {counts[0]} seed{'' if counts[0] == 1 else 's'} ; five are advised."
