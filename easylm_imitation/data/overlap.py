"""Which training texts hold which items of an evaluation set, by published rules: what to leave out, or to report.

    overlap = Overlap([read_evaluation_set("nq.jsonl")], ["13-gram", "near"])
    matches = overlap.match(texts)                      # texts of training conversations, by number
    kept = [text for i, text in enumerate(texts) if i not in matched_rows(matches)]
    write_json("overlap.json", overlap.report(matches, names_of_rows))

Texts are compared folded: without case, accents, punctuation and white space (data/folding.py).
"""
import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from easylm_imitation.data import folding
from easylm_imitation.data.overlap_index import RareWords, Windows
from easylm_imitation.data.sources import Drop, iter_records
from easylm_imitation.schema import UserError, nearest

TEXTS = ("text", "prompt", "messages", "question", "question_text", "instruction", "user_query", "input", "problem",
           "query")


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a text holds an item. Windows are runs of `size` words or letters that text and item share."""
    unit: Literal["words", "letters", "rare words"]
    share: float            # of the item that shared windows must cover, or of a piece's weight that words must have
    size: int = 0
    least: int = 5          # items of fewer words or letters are not looked for; those between are compared whole
    evidence: float = 20.0  # of rare words: nats by which what is found must exceed chance
    samples: int | None = None      # windows looked for of each item, instead of all of them


RULES: dict[str, Rule] = {
    # GPT-3 (Brown et al. 2020, app. C) and lm-evaluation-harness: any run of 13 words that both have.
    "13-gram": Rule("words", share=0.0, size=13),
    # Tülu 3 (Lambert et al. 2024): runs of 8 words that cover at least half of the item.
    "8-gram": Rule("words", share=0.5, size=8),
    # GPT-4 (OpenAI 2023, app. C): any of three runs of 50 letters and digits, drawn from the item.
    "substring": Rule("letters", share=0.0, size=50, least=20, samples=3),
    # Ours: words that weigh 0.8 of the item's, in any order, in a passage of 80 words. Finds rephrased copies.
    "near": Rule("rare words", share=0.8),
}


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Items by id: what must not be learned."""
    name: str
    items: Mapping[str, str]

    @classmethod
    def from_rows(cls, name: str, rows: Iterable[Mapping[str, Any]], fields: Sequence[str] = ()) -> "EvaluationSet":
        """Of records such as an evaluation task's rows: the item's text is its `fields`, line after line.

        Without `fields`: the first of text, prompt, messages (the user's), question, instruction, user_query, input,
        problem and query that a row has; and "input" besides "instruction". A row without an `id` goes by its number.
        Raises UserError for a row without such a text, an id that comes twice, and no rows at all.
        """
        items: dict[str, str] = {}
        for number, row in enumerate(rows):
            identity = str(row.get("id", number))
            if identity in items:
                raise UserError(f"evaluation set '{name}': the id '{identity}' comes twice; ids must differ")
            items[identity] = _text_of(row, fields, f"evaluation set '{name}', item '{identity}'")
        if not items:
            raise UserError(f"evaluation set '{name}': no items in it")
        return cls(name, items)


def read_evaluation_set(path: str | os.PathLike, name: str = "", fields: Sequence[str] = ()) -> EvaluationSet:
    """A file of items, JSONL or one JSON array, gzipped or not: `{"id", "text"}`, a prompts file, or records as
    `EvaluationSet.from_rows` takes them. `name`: by default the file's, without its endings. Raises UserError."""
    return EvaluationSet.from_rows(name or name_of(path), read_rows(path), fields)


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a file of evaluation items, as they are. Raises UserError."""
    rows = []
    for record in iter_records(pathlib.Path(path)):
        try:
            rows.append(record.parse())
        except Drop as drop:
            raise UserError(f"{path}:{record.line}: {drop}") from None
    return rows


def name_of(path: str | os.PathLike) -> str:
    """How an evaluation set in a file is called: as the file, without its endings."""
    return pathlib.Path(path).name.partition(".")[0]


class Match(NamedTuple):
    """A training text holds an evaluation item, as one rule sees it."""
    row: int            # the training text's number
    evaluation: str     # the evaluation set
    item: str           # its item's id
    rule: str
    score: float        # share of the item that was found, in (0, 1]


class Overlap:
    """Evaluation sets, indexed for matching. Rules are names of RULES, or rules of one's own by name."""

    def __init__(self, evaluation_sets: Sequence[EvaluationSet], rules: Sequence[str] | Mapping[str, Rule]):
        """Raises UserError for an unknown rule, no rules, and two evaluation sets of one name."""
        self.rules = rules if isinstance(rules, Mapping) else {name: _rule(name) for name in rules}
        self.sets = {evaluation.name: evaluation for evaluation in evaluation_sets}
        if not self.rules:
            raise UserError(f"overlap: no rules; name some of {', '.join(RULES)}")
        if len(self.sets) != len(evaluation_sets):
            raise UserError("overlap: two evaluation sets have one name; names must differ")
        self._ids = {name: list(evaluation.items) for name, evaluation in self.sets.items()}

    @functools.cached_property
    def _indexes(self) -> dict[tuple[str, str], Windows | RareWords]:
        """Made when first asked for: `build` checks what it is to look for before it reads anything."""
        return {(name, rule): _index(list(evaluation.items.values()), definition)
                for name, evaluation in self.sets.items() for rule, definition in self.rules.items()}

    def match(self, texts: Iterable[str], threads: int | None = None) -> list[Match]:
        """Every match of `texts` (read once), in the order of texts, sets, items, rules. A conversation is one text,
        its messages joined, or several. Neither batches nor `threads` change the result."""
        matches, start, _ = [], 0, self._indexes     # before the threads, each of which would make them
        for count, found in folding.in_threads(self._batch, texts, threads):
            matches += [match._replace(row=match.row + start) for match in found]
            start += count
        return matches

    def _batch(self, texts: list[str]) -> tuple[int, list[Match]]:
        folded, found = folding.fold(texts), []
        for (evaluation, rule), index in self._indexes.items():
            triples = index.match(folded)
            ids = self._ids[evaluation]
            found += [Match(text, evaluation, ids[item], rule, round(score, 4))
                      for text, item, score in zip(*(array.tolist() for array in triples))]
        rank = {key: i for i, key in enumerate(self._indexes)}
        found.sort(key=lambda m: (m.row, m.evaluation, m.item, rank[m.evaluation, m.rule]))
        return len(texts), found

    def report(self, matches: Sequence[Match], rows: Sequence[str]) -> dict[str, Any]:
        """What overlaps with what, as JSON: {set: {items, items_found, rows_found, rules, matches}}.

        `rows` names the training texts. `rules` counts for each rule the items and rows found, and the items that it
        does not look for (too short, or nothing but what the set's items share). `matches` has one entry a row and
        item: {"row": name, "item": id, "rules": {rule: score}}.
        """
        return {name: self._of_one(name, [m for m in matches if m.evaluation == name], rows) for name in self.sets}

    def _of_one(self, name: str, matches: Sequence[Match], rows: Sequence[str]) -> dict[str, Any]:
        pairs: dict[tuple[int, str], dict[str, float]] = collections.defaultdict(dict)
        for match in matches:
            pairs[match.row, match.item][match.rule] = match.score
        by_rule = {rule: {**_counts([m for m in matches if m.rule == rule]),
                          "items_not_looked_for": int((~self._indexes[name, rule].looked_for).sum())}
                   for rule in self.rules}
        return {"items": len(self._ids[name]), **_counts(matches), "rules": by_rule,
                "matches": [{"row": rows[row], "item": item, "rules": found} for (row, item), found in pairs.items()]}


def matched_rows(matches: Iterable[Match]) -> set[int]:
    """The numbers of the training texts that hold anything."""
    return {match.row for match in matches}


def _counts(matches: Sequence[Match]) -> dict[str, int]:
    return {"items_found": len({m.item for m in matches}), "rows_found": len({m.row for m in matches})}


def _rule(name: str) -> Rule:
    if name not in RULES:
        raise UserError(f"overlap: unknown rule '{name}'{nearest(name, RULES)}")
    return RULES[name]


def _index(items: list[str], rule: Rule) -> Windows | RareWords:
    if rule.unit == "rare words":
        return RareWords(items, rule.share, rule.evidence)
    return Windows(items, rule.unit, rule.share, rule.size, rule.least, rule.samples)


def _text_of(row: Mapping[str, Any], fields: Sequence[str], where: str) -> str:
    names = list(fields) or [next((name for name in TEXTS if name in row), "")]
    if not fields and names == ["instruction"] and "input" in row:
        names.append("input")
    parts = [_flat(row.get(name)) for name in names]
    if not any(parts) or None in parts:
        missing = next((name for name, part in zip(names, parts) if part is None), names[0])
        raise UserError(f"{where}: no text in '{missing or 'text'}'; keys are {', '.join(map(str, row))}; name the "
                        "keys that make the item's text")
    return "\n".join(part for part in parts if part)


def _flat(value: Any) -> str | None:
    """Text of a field: a string, a list of them (choices), or messages, of which the user's count."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("content"), str)
                                       for part in value):
        return "\n".join(part["content"] for part in value if part.get("role") == "user")
    return None
