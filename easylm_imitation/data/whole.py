"""The rules that need all conversations at once, run when every other rule is through. Near-duplicates, and overlaps
that are to be removed, are taken out before the mixture is drawn; overlaps, the diversity of queries and evaluation
prompts that are too near to them are told of the dataset as it is then. Each looks at one text a conversation, which
its rule took in passing."""
import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from easylm_imitation.data.clean import Step
from easylm_imitation.data.diversity import held_out_nearness, query_diversity
from easylm_imitation.data.mixture import Row
from easylm_imitation.data.near import near_duplicates
from easylm_imitation.data.overlap import EvaluationSet, Overlap, name_of, read_rows
from easylm_imitation.data.tally import Tally
from easylm_imitation.files import digest, file_sha256
from easylm_imitation.schema import UserError

_TASK = "task:"     # what opens the name of an evaluation task, in `against`


class Evaluations:
    """The items that `against` names: of files, and of the tasks of `evaluate` ("task:mmlu"). This part knows no tasks;
    `tasks` gives the items of one by its name. A file is looked for from the current folder, then from `root`."""

    def __init__(self, tasks: Callable[[str], list[dict[str, Any]]] | None = None, root: str = ""):
        self._tasks, self._known, self._root = tasks, dict[str, list[dict[str, Any]]](), root
        self._names: dict[str, str] = {}
        self._places: dict[str, str] = {}

    def rows(self, against: str) -> list[dict[str, Any]]:
        """The items' records. Raises UserError."""
        if not against.startswith(_TASK):
            return read_rows(self._file(against))
        if self._tasks is None:
            raise UserError(f"clean: against '{against}': a task's items need the folder of its published files; give "
                            "`build` --task-data DIR")
        if against not in self._known:
            try:
                self._known[against] = self._tasks(against.removeprefix(_TASK))
            except UserError as error:
                raise UserError(f"clean: against '{against}': {error}") from None
        return self._known[against]

    def _file(self, against: str) -> pathlib.Path:
        file = pathlib.Path(self.place(against))
        if file.is_file():
            return file
        looked = self._looked_for(against)
        told = f": {looked[0]}" if len(looked) == 1 else f", neither {' nor '.join(looked)}"
        raise UserError(f"clean: against '{against}': no such file{told}")

    def place(self, against: str) -> str:
        """Where the set is, the same however it is written: a path without detours, or the task's name."""
        if against.startswith(_TASK):
            return against
        if against not in self._places:
            looked = self._looked_for(against)
            self._places[against] = next((place for place in looked if os.path.isfile(place)), looked[0])
        return self._places[against]

    def _looked_for(self, against: str) -> list[str]:
        folders = ["", self._root] if self._root and "://" not in self._root else [""]
        return list(dict.fromkeys(os.path.abspath(os.path.join(folder, against)) for folder in folders))

    def sha256(self, against: str) -> str:
        """Of the items: of a file's bytes, or a task's records."""
        return digest(self.rows(against), 64) if against.startswith(_TASK) else \
            file_sha256(self._file(against))

    def set(self, against: str, fields: Sequence[str]) -> EvaluationSet:
        """The items with their texts."""
        return EvaluationSet.from_rows(self.name(against), self.rows(against), fields)

    def name(self, against: str) -> str:
        """How the set is called: as the task, or as the file without its endings; with as much of its place before
        that as tells it from the others that `tell_apart` was given ("gpt4/answers", "koala/answers")."""
        return self._names.get(against) or _called(self.place(against))[0]

    def tell_apart(self, against: Iterable[str]) -> None:
        """Gives every set of a build a name that no other has."""
        called = {place: _called(place) for place in map(self.place, against)}
        taken = collections.Counter(name for names in called.values() for name in names)
        for one in against:
            names = called[self.place(one)]
            self._names[one] = next((name for name in names if taken[name] == 1), names[-1])


def _called(place: str) -> list[str]:
    """What the set at that place may be called, the shortest first: its file without endings behind more and more of
    the folders that it lies in, then the same with its endings, if it has any."""
    if place.startswith(_TASK):
        return [place.removeprefix(_TASK)]
    path = pathlib.PurePath(place)
    folders = path.parts[1:-1]
    return ["/".join((*folders[at:], name)) for name in dict.fromkeys((name_of(path), path.name))
            for at in range(len(folders), -1, -1)]


@dataclasses.dataclass
class Findings:
    """What these rules found, for the card and the dataset's folder."""
    evaluations: Evaluations = dataclasses.field(default_factory=Evaluations)
    overlaps: dict[str, Any] = dataclasses.field(default_factory=dict)      # evaluation set -> counts
    report: dict[str, Any] = dataclasses.field(default_factory=dict)        # evaluation set -> rows, items and scores
    diversity: dict[str, Any] = dataclasses.field(default_factory=dict)
    held_out: dict[str, Any] = dataclasses.field(default_factory=dict)      # prompt set -> counts
    too_near: dict[str, Any] = dataclasses.field(default_factory=dict)      # prompt set -> which, and to what
    prompts: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)      # prompt set -> the others
    _removed: set[str] = dataclasses.field(default_factory=set)             # names of rows that `overlap` took out
    _steps: dict[str, list[bool]] = dataclasses.field(default_factory=dict)     # evaluation set -> `remove`, by rule

    def add(self, report: dict[str, Any], remove: bool) -> None:
        """Takes what one more rule `overlap` found, beside what earlier ones did, of the same sets perhaps. A match is
        "removed" when its row is out of the dataset, whichever rule took it out."""
        self._removed |= {match["row"] for found in report.values() for match in found["matches"]} if remove else set()
        for name, found in report.items():
            self.report[name] = _joined(self.report[name], found) if name in self.report else found
            self._steps.setdefault(name, []).append(remove)
        for name, found in self.report.items():
            for match in found["matches"]:
                if match["row"] in self._removed:
                    match["removed"] = True
            counts = {key: found[key] for key in found if key != "matches"}
            self.overlaps[name] = counts | self._fate(found["matches"], all(self._steps[name]))

    @staticmethod
    def _fate(matches: list[dict[str, Any]], always: bool) -> dict[str, Any]:
        """Whether all that was found is out; where only some of it is, how many rows are."""
        out = {match["row"] for match in matches if "removed" in match}
        left = {match["row"] for match in matches} - out
        return {"removed": always or bool(out and not left)} | ({"rows_removed": len(out)} if out and left else {})


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two reports on one evaluation set as one: every match of either, counted anew."""
    matches = {(match["row"], match["item"]): match for match in first["matches"]}
    for match in second["matches"]:
        known = matches.setdefault((match["row"], match["item"]), match)
        known["rules"] = known["rules"] | match["rules"]

    def counts(some: list[dict[str, Any]]) -> dict[str, int]:
        return {"items_found": len({m["item"] for m in some}), "rows_found": len({m["row"] for m in some})}
    found = list(matches.values())
    rules = {rule: {**count, **counts([match for match in found if rule in match["rules"]])}
             for rule, count in (first["rules"] | second["rules"]).items()}
    return {"items": second["items"], **counts(found), "rules": rules, "matches": found}


def evaluation_hashes(steps: Iterable[Step], evaluations: Evaluations) -> list[str]:
    """Of the contents of the evaluation sets that the steps look for. Raises UserError for what would stop them."""
    asked = [step for step in steps if "against" in step.options]
    evaluations.tell_apart([path for step in asked for path in step.options["against"]])
    prompts = [path for step in asked if step.name == "held-out" for path in step.options["against"]]
    for name, against in [("held-out", prompts), *((step.name, step.options["against"]) for step in asked)]:
        places = [evaluations.place(path) for path in against]
        twice = [path for i, path in enumerate(against) if places[i] in places[:i]]
        if twice:
            raise UserError(f"clean: rule '{name}': against names '{twice[0]}' twice; name it once")
    for step in asked:
        _overlaps(step.options, evaluations)
    return [evaluations.sha256(path) for step in asked for path in step.options["against"]]


class _Conversation(NamedTuple):
    """What is judged: one conversation, with the rows that became of it."""
    dataset: str
    id: str
    text: str
    rows: list[Row]


def takes_rows(step: Step) -> bool:
    """Whether a rule leaves rows out; the others only look at what the dataset holds in the end."""
    return step.name in _TAKE or bool(step.options.get("remove"))


def take_out(rows: Iterable[Row], text: int, rule: int, step: Step, tally: Tally,
             findings: Findings) -> Iterator[Row]:
    """The rows that the build's rule number `rule` leaves in, judged by their text number `text`. Needs all of them in
    memory. Pieces of one conversation that was split later have one text, and one fate."""
    conversations = _conversations(rows, text)
    out = _TAKE.get(step.name, _overlap)(conversations, step.options, findings)
    for i, conversation in enumerate(conversations):
        for row in conversation.rows:
            if i in out:
                tally.leave_out(rule, row, conversation.text, out[i])
            else:
                yield row


def look_at(rows: Iterable[Row], text: int, rule: int, step: Step, tally: Tally, findings: Findings) -> None:
    """Lets a rule that takes none see the rows of the dataset, each conversation once, however often it is in it."""
    conversations = _conversations(rows, text)
    tally.seen_by(rule, len(conversations))
    _LOOK[step.name](conversations, step.options, findings)


def _conversations(rows: Iterable[Row], text: int) -> list[_Conversation]:
    pieces: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        pieces.setdefault((row.file, row.line, row.texts[text].holder), []).append(row)
    return [_Conversation(own[0].dataset, key[2], own[0].texts[text].value.decode(), own)
            for key, own in pieces.items()]


def _near(conversations: list[_Conversation], options: dict[str, Any], findings: Findings) -> dict[int, str]:
    """Those that are like an earlier one, each with a word on it."""
    firsts = near_duplicates((conversation.text for conversation in conversations), **options).tolist()
    return {i: f"like '{conversations[first].id}', {conversations[first].rows[0].file}:"
               f"{conversations[first].rows[0].line}" for i, first in enumerate(firsts) if first >= 0}


def _overlap(conversations: list[_Conversation], options: dict[str, Any], findings: Findings) -> dict[int, str]:
    """Those that hold evaluation items, if they are to be removed; the findings tell of all."""
    overlap, remove = _overlaps(options, findings.evaluations), options.get("remove", False)
    matches = overlap.match(conversation.text for conversation in conversations)
    report = overlap.report(matches, [f"{conversation.dataset}/{conversation.id}" for conversation in conversations])
    findings.add(report, remove)
    return {match.row: f"holds '{match.item}' of {match.evaluation}" for match in matches} if remove else {}


def _overlaps(options: dict[str, Any], evaluations: Evaluations) -> Overlap:
    sets = [evaluations.set(path, options.get("fields", ())) for path in options["against"]]
    return Overlap(sets, options.get("rules", ("13-gram", "near")))


def _diversity(conversations: list[_Conversation], options: dict[str, Any], findings: Findings) -> None:
    """The mean BLEU of a query to its nearest other."""
    if len(conversations) > 1:
        found = query_diversity([conversation.text for conversation in conversations], **options)
        findings.diversity = {"bleu": found.mean, "error": found.error, "queries": found.queries,
                              "sampled": found.sampled}


def _held_out(conversations: list[_Conversation], options: dict[str, Any], findings: Findings) -> None:
    """Which prompts may be asked."""
    most = options.get("most", 0.2)
    queries = [conversation.text for conversation in conversations]
    for path in options["against"]:
        rows, name = findings.evaluations.rows(path), findings.evaluations.name(path)
        prompts = EvaluationSet.from_rows(name, rows, options.get("fields", ())).items
        scores, nearest = held_out_nearness(list(prompts.values()), queries)
        findings.prompts[name] = [{"id": prompt, **row} for prompt, row, score in zip(prompts, rows, scores)
                                  if score <= most]
        findings.too_near[name] = [
            {"prompt": prompt, "bleu": round(float(score), 4), "text": text,
             "query": f"{conversations[at].dataset}/{conversations[at].id}", "query_text": conversations[at].text}
            for (prompt, text), score, at in zip(prompts.items(), scores, nearest) if score > most]
        findings.held_out[name] = {"prompts": len(rows), "too_near": len(findings.too_near[name]), "most": most,
                                   "mean_bleu": round(float(scores.mean()), 4)}


_TAKE: dict[str, Callable[[list[_Conversation], dict[str, Any], Findings], dict[int, str]]] = {
    "near-query": _near, "near-dialogue": _near}
_LOOK: dict[str, Callable[[list[_Conversation], dict[str, Any], Findings], Any]] = {
    "overlap": _overlap, "diversity": _diversity, "held-out": _held_out}
