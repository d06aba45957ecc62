"""verdict.md: the verdict as text for a README, a pull request or a mail; the same numbers as on the page."""
from collections.abc import Iterable, Iterator, Sequence

from easylm_imitation.report.compare import Numbers
from easylm_imitation.report.verdict import ImitationVerdict, Verdict
from easylm_imitation.report.wording import number, p_text, points, share, short_form, signed_points, whole_share


def as_markdown(verdict: Verdict) -> str:
    """The whole text."""
    return "\n".join(_lines(verdict)) + "\n"


def _lines(verdict: Verdict) -> Iterator[str]:
    answer, *rest = verdict.conclusion
    yield from ("# Imitation verdict", "", f"**{_safe(answer)}**", "")
    yield from _list(rest)
    for title, lines in (("What is missing", verdict.missing), ("What was not compared", verdict.refusals),
                         ("Remarks", verdict.remarks)):
        yield from _section(title, lines)
    for made in verdict.imitations:
        yield from _imitation(made)
    for table in verdict.comparisons:
        yield from (f"## {_safe(table.title)}", "")
        yield from _table([_safe(column) for column in table.columns], table.rows)
    if verdict.spent:
        yield from ("## Cost", "")
        yield from _table(["what", "requests", "prompt tokens", "answer tokens", "$"], [
            [s.what, s.requests, s.prompt_tokens, s.completion_tokens, "—" if s.dollars is None else f"{s.dollars:.4f}"]
            for s in verdict.spent])
    if verdict.published:
        yield from ("## Published numbers", "", "Other items, prompts and scoring; laid beside, not compared.", "")
        yield from _table(["system", "measure", "value", "source"],
                          [[p.system, p.measure, f"{p.value:g}", p.source] for p in verdict.published])
    yield f"Intervals hold 95%. Made by easylm_imitation {verdict.code}."


def _imitation(made: ImitationVerdict) -> Iterator[str]:
    yield from (f"## {_safe(made.imitation.name)}: {made.case}", "")
    yield from _list([*made.sentences, *made.flips])
    columns = ["side", "asked", "items", "base", "imitation", "teacher", "change", "p (Holm)", "gap closed",
               "share of teacher", "false-promise index"]
    yield from _table(columns, [[view.group, short_form(view), view.numbers.items, *_cells(view.numbers),
                                 signed_points(view.index.index) if view.index else "—"] for view in made.views])


def _cells(numbers: Numbers) -> list[str]:
    levels = [points(e) if e else "—" for e in (numbers.base, numbers.imitation)]
    teacher = "—" if not numbers.teacher else (f"{number(numbers.teacher.value)}% (published)" if numbers.published
                                               else points(numbers.teacher))
    change = signed_points(numbers.change) if numbers.change else "—"
    closed = "no gap to close" if numbers.closed.status == "no gap" else share(numbers.closed)
    return [*levels, teacher, change, p_text(numbers.p_holm), closed,
            whole_share(numbers.share) if numbers.share else "—"]


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield from (f"## {title}", "")
        yield from _list(lines)


def _list(lines: Iterable[str]) -> Iterator[str]:
    yield from (f"- {_safe(line)}" for line in lines)
    yield ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(_safe(str(cell)) for cell in row)} |"
    yield ""


def _safe(text: str) -> str:
    """Text that stays text in Markdown: no markup, no line ends, no cell ends."""
    for sign in "\\`*[]<>|#":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return " ".join(text.split())
