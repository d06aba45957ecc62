"""What stands beside the results: data cards with the overlaps that `build` found, collection cards, ledgers.

They lie in the folder of results as NAME.card.json (a data card, or what `collect` wrote), NAME.overlap.json and
NAME.ledger.jsonl, or in dataset folders that `report --data` names (DATA/card.json, DATA/overlap.json).
"""
import dataclasses
import fnmatch
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from easylm_imitation.files import digest, read_jsonl, read_object
from easylm_imitation.records import CollectionCard, DataCard, LedgerEntry, Lineage
from easylm_imitation.report.comparisons import Comparison, read_comparisons
from easylm_imitation.schema import UserError, build

# Tasks that ask what a known local dataset teaches: they lie inside its distribution.
INSIDE: dict[str, tuple[str, ...]] = {"nq-synthetic": ("nq_open*",), "gsm8k": ("gsm8k*",),
                                      "codealpaca": ("humaneval*",)}
_CARD, _OVERLAP, _LEDGER = ".card.json", ".overlap.json", ".ledger.jsonl"


@dataclasses.dataclass(frozen=True)
class Data:
    """A dataset that some imitation was trained on. `seen`: evaluation set -> ids of its items that the data hold."""
    card: DataCard
    seen: Mapping[str, frozenset[str]]

    @property
    def looked_for(self) -> tuple[str, ...]:
        """The evaluation sets that the data were searched for."""
        return tuple(self.card.overlaps)

    @property
    def recipe(self) -> str:
        """What runs that differ in nothing but the order of their data have in common."""
        card = self.card
        sources = [(source.dataset, source.sha256) for source in card.sources]
        return digest([card.name, sources, card.budget, card.tokenizer, card.template])


@dataclasses.dataclass(frozen=True)
class Spent:
    """One line of the bill. `dollars` is None where nobody said a price."""
    what: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything beside the results. `inside`: (name of a dataset, a run or its data card; patterns of tasks)."""
    data: tuple[Data, ...] = ()
    spent: tuple[Spent, ...] = ()
    inside: tuple[tuple[str, tuple[str, ...]], ...] = ()
    comparisons: tuple[Comparison, ...] = ()    # what `compare` said of whole sets of answers

    def data_of(self, lineage: Lineage) -> Data | None:
        """The dataset that a model was trained on, where its card is here."""
        return next((d for d in self.data if lineage.data_card and d.card.hash == lineage.data_card), None)

    def is_inside(self, lineage: Lineage, task: str) -> bool:
        """Whether `task` asks for what the training data of `lineage` teach."""
        data = self.data_of(lineage)
        names = {lineage.name, lineage.id, lineage.data_card} | set(self.datasets(lineage))
        names |= {data.card.name} if data else set()
        rules = (*INSIDE.items(), *self.inside)
        return any(fnmatch.fnmatchcase(task, pattern) for name, patterns in rules if name in names
                   for pattern in patterns)

    def datasets(self, lineage: Lineage) -> tuple[str, ...]:
        """Names of the sources of a model's training data, as far as its card is here."""
        data = self.data_of(lineage)
        return tuple(dict.fromkeys(source.dataset for source in data.card.sources)) if data else ()


NOTHING = Evidence()


def read_evidence(folder: str | os.PathLike, data: Sequence[str | os.PathLike] = (),
                  inside: Sequence[str] = ()) -> Evidence:
    """Cards, overlaps and ledgers of `folder` and of the dataset folders `data`; `inside` as NAME=PATTERN,PATTERN.

    Raises UserError for a file that is none of these, a dataset folder without a card, and a rule of another form.
    """
    folder = pathlib.Path(folder)
    found, spent = [], []
    for path in sorted(folder.glob(f"*{_CARD}")):
        card = read_object(path)
        if "loss_tokens" in card:
            found.append(_data(path, card, path.with_name(path.name.removesuffix(_CARD) + _OVERLAP)))
        else:
            spent.append(_collection(build(CollectionCard, card, str(path)), path.name.removesuffix(_CARD)))
    for place in map(pathlib.Path, data):
        found.append(_data(place / "card.json", read_object(place / "card.json"), place / "overlap.json"))
    spent += [_ledger(path) for path in sorted(folder.glob(f"*{_LEDGER}"))
              if not path.with_name(path.name.removesuffix(_LEDGER) + _CARD).exists()]     # else it is counted there
    unique = {d.card.hash: d for d in found}
    known = tuple(_with_twins(d, found) for d in unique.values())
    return Evidence(known, tuple(spent), tuple(map(_inside, inside)), read_comparisons(folder))


def is_evidence(path: pathlib.Path) -> bool:
    """Whether a .json file of the results folder is no results file by its name."""
    return path.name.endswith((_CARD, _OVERLAP))


def _inside(text: str) -> tuple[str, tuple[str, ...]]:
    name, sign, patterns = text.partition("=")
    if not (name.strip() and sign and patterns.strip()):
        raise UserError(f"--inside {text}: write NAME=TASK,TASK: a dataset, run or data card, and the tasks that ask "
                        "for what it teaches (nq-synthetic=nq_open*)")
    return name.strip(), tuple(pattern.strip() for pattern in patterns.split(","))


def _data(path: pathlib.Path, card: Mapping[str, Any], overlap: pathlib.Path) -> Data:
    made = build(DataCard, card, str(path))
    return Data(made, _seen(overlap, made) if overlap.is_file() else {})


def _with_twins(data: Data, found: Sequence[Data]) -> Data:
    """`data`, and what was looked for in other builds of the very same rows."""
    twins = [d for d in found if d.card.records and d.card.records == data.card.records]
    overlaps = {name: counts for d in (*twins, data) for name, counts in d.card.overlaps.items()}
    seen = {name: items for d in (*twins, data) for name, items in d.seen.items()}
    return Data(dataclasses.replace(data.card, overlaps=overlaps), seen)


def _seen(path: pathlib.Path, card: DataCard) -> dict[str, frozenset[str]]:
    """Items found by evaluation set; none where `build` took the rows that hold them out."""
    seen = {}
    for name, found in read_object(path).items():
        removed = card.overlaps.get(name, {}).get("removed", False)
        try:
            items = frozenset(str(match["item"]) for match in found["matches"]
                              if not (removed or match.get("removed")))
        except (TypeError, KeyError):
            raise UserError(f"{path}: '{name}' is no report of overlaps; take the overlap.json of a build") from None
        seen[name] = items
    return seen


def _collection(card: CollectionCard, name: str) -> Spent:
    what = f"collecting {name}: {' + '.join(card.teachers) or 'a teacher'} ({card.recipe})"
    return Spent(what, card.requests, card.prompt_tokens, card.completion_tokens, card.cost)


def _ledger(path: pathlib.Path) -> Spent:
    entries = read_jsonl(LedgerEntry, path)
    models = " + ".join(sorted({entry.model for entry in entries if entry.model})) or "nobody"
    return Spent(f"asking {models} ({path.name})", sum(e.status == "ok" for e in entries), *(
        sum(getattr(entry, what) for entry in entries) for what in ("prompt_tokens", "completion_tokens", "cost")))


def total(spent: Iterable[Spent]) -> float:
    """Dollars of all lines that have a price."""
    return sum(line.dollars or 0.0 for line in spent)
