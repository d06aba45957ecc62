"""The page's first lines: is it substance or style? Put together from the findings; nothing here knows an answer."""
from collections.abc import Iterator, Sequence
from typing import Any

from easylm_imitation.report.scaling import Ladder
from easylm_imitation.report.wording import MINUS, ahead, describe_ladder, short_form, signed_points

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
    yield from _climbed(climbed)
    hanging = [made.imitation.name for made in imitations if made.flips]
    if hanging:
        yield f"Some findings of {_listed(hanging)} hang on the form of asking; below each says which."
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
    alone = bool(found) and all(view.numbers.seeds == 1 for _, view in found)
    noise = " (item noise only)" if alone else ""
    if len(found) > 2:
        values = [view.index.index.value for _, view in found]
        style = sum(view.index.index.low > 0 and view.p_index < 0.05 for _, view in found)
        substance = sum(view.index.index.high < 0 and view.p_index < 0.05 for _, view in found)
        yield (f"False-promise index: style ran measurably ahead of substance in {style} of {len(found)} comparisons, "
               f"substance ahead of style in {substance}; it runs from {_whole(min(values))} to {_whole(max(values))} "
               f"points of the gap{noise}.")
        return
    for _, view in found:
        label = f"False-promise index, {short_form(view)}" if len(found) > 1 else "False-promise index"
        yield f"{label}: {ahead(view.index.index)}{noise}."


def _climbed(climbed: Sequence[Ladder]) -> Iterator[str]:
    """What more data and better bases did: one sentence for each ladder and side, whatever the forms of asking."""
    for axis, group in dict.fromkeys((ladder.axis, ladder.group) for ladder in climbed):
        own = [ladder for ladder in climbed if (ladder.axis, ladder.group) == (axis, group)]
        if len(own) == 1:
            yield f"{describe_ladder(own[0])}."
            continue
        words = {"gained": "raised in", "lost": "lowered in", "unchanged": "unchanged in",
                 "unclear": "not enough data in"}
        counts = [f"{words[finding]} {n}" for finding in words if (n := sum(x.finding == finding for x in own))]
        values = [ladder.difference for ladder in own]
        low, high = min(values, key=lambda e: e.value), max(values, key=lambda e: e.value)
        what = "More imitation data" if axis == "data" else "A better base"
        yield (f"{what} and {group}, {len(own)} comparisons: {', '.join(counts)}; from {signed_points(low)} to "
               f"{signed_points(high)}.")


def _whole(value: float) -> str:
    return f"{100 * value:.0f}".replace("-", MINUS)


def _seeds(imitations: Sequence[Any]) -> Iterator[str]:
    measured = [made for made in imitations if any(view.numbers.change for view in made.views)]
    counts = sorted({len(made.runs) for made in measured})
    if counts == [1]:
        yield "Each imitation was trained once: the intervals are of item noise only."
    elif counts and counts[0] < 5:
        yield f"Some imitations were trained with {counts[0]} seed{'' if counts[0] == 1 else 's'}; five are advised."
