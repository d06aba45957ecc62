"""What papers print about the systems that imitation is known for: laid beside one's own numbers, never paired with
them. Other items, other prompts, other scoring: only the order of magnitude compares."""
import dataclasses
import json
import pathlib
from collections.abc import Iterable

from easylm_imitation.schema import build


@dataclasses.dataclass(frozen=True)
class Published:
    """One printed number, in percent unless `measure` says otherwise."""
    system: str
    source: str
    benchmark: str      # task names that are equal to it, or go on after it with an underscore, are of it
    measure: str
    value: float


def published_for(tasks: Iterable[str]) -> tuple[Published, ...]:
    """The printed numbers about the benchmarks that `tasks` are of, in the file's order."""
    names = set(tasks)
    known = [build(Published, row, "published.json")
             for row in json.loads(pathlib.Path(__file__).with_name("published.json").read_text(encoding="utf-8"))]
    return tuple(row for row in known if any(n == row.benchmark or n.startswith(f"{row.benchmark}_") for n in names))
