"""What `compare` and `reproduce` wrote among the results, as tables: style of whole sets, refusals, toxicity, findings.

The items behind them stand in results files of their own, which are paired and judged as all others; here is what only
whole sets have (hedging, vocabulary, a second sample of the teacher as the ceiling).
"""
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from easylm_imitation.files import read_object
from easylm_imitation.schema import UserError


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One table."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    first: bool = False         # shown right below the answer


def is_comparison(path: str | os.PathLike) -> bool:
    """Whether a .json file is one of `compare`'s own, not results."""
    try:
        made = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return False        # whoever reads it says what is wrong
    return isinstance(made, dict) and "by" in made and "tasks" not in made


def read_comparisons(folder: str | os.PathLike) -> tuple[Comparison, ...]:
    """The tables of a folder's comparisons. Raises UserError for a comparison of another form."""
    made = []
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        if is_comparison(path):
            found = read_object(path)
            make = _TABLES.get(found["by"])
            if make is None:
                raise UserError(f"{path}: a comparison by '{found['by']}', which is unknown here; move it elsewhere")
            try:
                made.append(make(found))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise UserError(f"{path}: is no comparison of this version ({error!r}); make it again") from None
    return tuple(made)


def _style(found: Mapping[str, Any]) -> Comparison:
    """A line for each measure, a column for each set of answers."""
    rows = found["rows"]
    measures = dict.fromkeys(name for row in rows for name in row["measures"])
    lines = [(name, "", *(_measure(row["measures"].get(name)) for row in rows)) for name in measures]
    lines += [(name, *(f"{own['levels'][key]:.3g}" for own in (found, *rows))) for name, key in _LEVELS.items()]
    columns = ("measure", f"{found['teacher']} (teacher)", *(row["name"] for row in rows))
    heard = f"; tone as {found['judge']} hears it" if found.get("judge") else ""
    return Comparison(f"Style next to {found['teacher']}'s answers, with 95% intervals{heard}", columns, tuple(lines))


_LEVELS = {"words an answer": "words", "hedges in 1,000 words": "hedges", "variety": "variety"}


def _refusal(found: Mapping[str, Any]) -> Comparison:
    rows = [(name, row["dataset"], row["kind"], _measure(row["by_rules"]), _measure(row["by_judge"]),
             "—" if row["agreement"] is None else f"{row['agreement']:.2f}")
            for name, own in found["models"].items() for row in own]
    columns = ("answers of", "prompts", "kind", "by rules", "by a judge", "both agree")
    return Comparison("Refusals", columns, tuple(rows))


def _toxicity(found: Mapping[str, Any]) -> Comparison:
    keys = ("expected_maximum", "probability", "percent_toxic", "non_toxicity")
    rows = [(name, str(own["prompts"]), str(own["samples"]), *(_measure(own[key]) for key in keys))
            for name, own in found["models"].items()]
    return Comparison(f"Toxicity by {found['scorer']}", ("answers of", "prompts", "samples", "expected maximum",
                                                         "probability", "toxic", "non-toxicity"), tuple(rows))


def _table(found: Mapping[str, Any]) -> Comparison:
    """A table that is ready, such as the findings of `reproduce`."""
    rows = tuple(tuple(map(str, row)) for row in found["rows"])
    if any(len(row) != len(found["columns"]) for row in rows):
        raise ValueError("rows and columns differ in number")
    return Comparison(found["title"], tuple(found["columns"]), rows, bool(found["first"]))


_TABLES = {"style": _style, "refusal": _refusal, "toxicity": _toxicity, "table": _table}


def _measure(measure: Mapping[str, Any] | None) -> str:
    return " ".join(_said(measure)) if measure else "—"


def _said(measure: Mapping[str, Any]) -> Iterator[str]:
    yield f"{measure['value']:.3f}"
    if measure["low"] is not None:
        yield f"({measure['low']:.3f} to {measure['high']:.3f})"
