"""Which items of the tasks stand in an imitation's training data, and its scores on those and on the others apart.

`build` looks for evaluation sets in the data (docs/overlap.md) and names what it found by evaluation set and item id.
A set is a task's when their names agree, or the task's name goes on after the set's (`nq_open` and `nq_open_0shot`).
"""
import dataclasses
from collections.abc import Iterator, Sequence

from easylm_imitation.report.compare import Numbers, Row, numbers_of
from easylm_imitation.report.evidence import Data, Evidence
from easylm_imitation.report.pairing import Trio

FEWEST = 2      # items that a score of its own is told of


@dataclasses.dataclass(frozen=True)
class Seen:
    """One task under one prompt form. `clean` and `seen` are None where fewer than two items are of that kind."""
    task: str
    prompt: str
    items: int
    items_seen: int
    clean: Numbers | None
    seen: Numbers | None


@dataclasses.dataclass(frozen=True)
class Contamination:
    """Of one imitation. `note` says what is not known, "" when every task was looked for."""
    tasks: tuple[Seen, ...]
    note: str


def contamination(trio: Trio, rows: Sequence[Row], evidence: Evidence) -> Contamination:
    """What of `rows` the imitation's data hold; style and preference have no items that could be learned by heart."""
    asked = [row for row in rows if row.group not in ("style", "preference")]
    lineage = trio.imitation.lineage
    data = evidence.data_of(lineage)
    if not asked:
        return Contamination((), "")
    if data is None:
        return Contamination((), "contamination is unknown: the data card "
                             f"{f'({lineage.data_card}) ' if lineage.data_card else ''}is not here. Name the dataset "
                             "folder with --data, or put its card.json and overlap.json as NAME.card.json and "
                             "NAME.overlap.json among the results.")
    found = [(row, _set_of(row.mine.task, data)) for row in asked]
    unknown = sorted({row.mine.task for row, name in found if name is None})
    note = (f"not looked for in the training data: {', '.join(unknown)}. Build these data once more with --look-for "
            "and their names, and give both folders to --data." if unknown else "")
    return Contamination(tuple(_seen(row, _items(row.mine.task, name, data)) for row, name in found if name), note)


def told(made: Contamination) -> Iterator[str]:
    """Sentences about what was found."""
    for task in made.tasks:
        if task.items_seen:
            share = 100 * task.items_seen / task.items
            yield (f"{task.items_seen} of the {task.items} items of {task.task} ({task.prompt}) stand in the training "
                   f"data ({share:.1f}%).")


def _set_of(task: str, data: Data) -> str | None:
    task = task.removesuffix("@published")
    fitting = [name for name in data.looked_for if task == name or task.startswith(f"{name}_")]
    return max(fitting, key=len, default=None)


def _items(task: str, name: str, data: Data) -> frozenset[str]:
    """What the data hold of the set `name`, called as the results of `task` call it: PART/ID is ID in a part's own."""
    seen = data.seen.get(name, frozenset())
    part = task.removesuffix("@published").removeprefix(f"{name}_") + "/"
    return seen | {item.removeprefix(part) for item in seen if item.startswith(part)}


def _seen(row: Row, items: frozenset[str]) -> Seen:
    ids = {item.id for item in row.mine.items}
    known = frozenset(ids & items)
    parts = [numbers_of([row.only(known, inside)]) if count >= FEWEST and known else None
             for inside, count in ((False, len(ids) - len(known)), (True, len(known)))]
    return Seen(row.mine.task, row.mine.prompt, len(ids), len(known), *parts)
