"""What a build counts on its way, and what it shows of the records that it left out."""
import collections
import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from easylm_imitation import console
from easylm_imitation.data.clean import Step, steps_of
from easylm_imitation.data.config import BuildConfig
from easylm_imitation.data.files import SourceFiles
from easylm_imitation.data.mixture import Row
from easylm_imitation.data.shards import Example
from easylm_imitation.data.sources import NOTHING
from easylm_imitation.data.work import Outcome
from easylm_imitation.records import RuleCount, Sample, SourceCount
from easylm_imitation.schema import plain

_SHOWN = 10     # dropped records named on screen
_SAMPLES = 3    # of what a rule changed or dropped, kept in the card


@dataclasses.dataclass
class _Rule:
    """What one cleaning step did so far."""
    step: Step
    dataset: str        # whose conversations it compares with each other; "" for all
    number: int         # among the rules of its list
    seen: int = 0
    changed: int = 0
    dropped: int = 0
    added: int = 0
    cut: int = 0
    samples: list[Sample] = dataclasses.field(default_factory=list)

    @property
    def scope(self) -> tuple[str, int, str]:
        """What it compares conversations within: all that the same rule of the same dataset sees."""
        return self.dataset, self.number, self.step.name

    def show(self, sample: Sample) -> None:
        if len(self.samples) < _SAMPLES:
            self.samples.append(sample)


@dataclasses.dataclass
class _Source:
    """What became of one source so far."""
    read: int = 0
    added: int = 0
    undrawn: int = 0
    cut: int = 0        # turns, by the format and by rules
    passed: int = 0     # cleaning, that is
    kept: int = 0
    copies: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Tally:
    """Counts of a build, filled in as outcomes pass."""

    def __init__(self, config: BuildConfig, datasets: list[str]):
        self._config, self._datasets = config, datasets
        everywhere = [_Rule(step, "", i) for i, step in enumerate(steps_of(config.clean))]
        self._own = [[_Rule(step, name, i) for i, step in enumerate(steps_of(source.clean))]
                     for source, name in zip(config.sources, datasets)]
        self._steps = [[*own, *everywhere] for own in self._own]    # of each source, as its outcomes number them
        self._everywhere = everywhere
        self._sources = [_Source() for _ in datasets]
        self._firsts: dict[tuple[Any, bytes], tuple[str, int, str]] = {}    # (scope, key) -> which one stays
        self._gone: set[tuple[Any, str, int, str]] = set()                  # (scope, conversation) that does not
        self._names: dict[tuple[str, str], tuple[str, int, bytes]] = {}     # (dataset, id) -> file, line, contents
        self._renamed = 0
        self.dropped: list[dict[str, Any]] = []
        self.teachers: list[set[str]] = [set() for _ in datasets]    # of the rows of each source
        self._written: list[set[str]] = [set() for _ in datasets]   # names of datasets that rows of each source have
        self._said = 0

    def judged(self, source: int, file: str, record: int, outcome: Outcome) -> Row | None:
        """The row of an outcome of a file's record of that number, or None when it is dropped, here at the latest: for
        repeating another conversation."""
        if outcome.cut:
            self._sources[source].cut += outcome.cut
            return None
        dropped = self._repeats(source, file, outcome)
        if dropped is None:     # a further piece of a conversation that was dropped whole
            return None
        outcome, rules = dropped, self._steps[source]
        count = self._sources[source]
        count.read += outcome.first == 0    # further pieces begin later
        for rule in rules[outcome.first:outcome.last + 1]:
            rule.seen += 1
        for change in outcome.changes:
            rules[change.step].changed += 1
            rules[change.step].added += change.added
            rules[change.step].cut += change.cut
            count.added += change.added
            count.cut += change.cut
            rules[change.step].show(Sample(outcome.id, change.before, change.after))
        outcome = self._unlike_others(file, outcome)
        if outcome.example is None:
            self._drop(source, file, outcome)
            return None
        texts = tuple(key for key in outcome.keys if rules[key.step].step.rule.kind == "whole")
        count.passed += 1
        return Row(outcome.example, source, outcome.dataset, outcome.teacher, file, outcome.line, texts,
                   record=record)

    def undrawn(self, source: int, records: int) -> None:
        """Notes how many records of a source are not read, as others were drawn."""
        self._sources[source].undrawn = records

    def leave_out(self, number: int, row: Row, text: str, detail: str) -> None:
        """Notes that a row is left out by the build's rule `number`, which judged its text."""
        rule = self._everywhere[number]
        rule.dropped += 1
        rule.show(Sample(row.example.id, text[:200], "", detail))
        self._sources[row.source].passed -= 1
        self._sources[row.source].dropped[rule.step.name] += 1
        self.dropped.append({"file": row.file, "line": row.line, "reason": rule.step.name, "detail": detail})

    def seen_by(self, number: int, conversations: int) -> None:
        """Notes how many conversations the build's rule `number` looked at, where those are not all that came by."""
        self._everywhere[number].seen = conversations

    def write(self, row: Row, loss_tokens: int) -> None:
        """Notes a row that goes into the shards."""
        count = self._sources[row.source]
        count.kept += row.copy == 0
        count.copies += row.copy > 0
        count.tokens += row.tokens
        count.loss_tokens += loss_tokens
        self.teachers[row.source] |= {row.teacher} - {""}
        self._written[row.source].add(row.dataset)

    def datasets(self) -> list[str]:
        """Of each source: as the config says, else what its rows all call it, else as its file."""
        return [next(iter(names)) if len(names) == 1 and not source.dataset else own
                for source, names, own in zip(self._config.sources, self._written, self._datasets)]

    def sources(self, files: list[SourceFiles]) -> tuple[SourceCount, ...]:
        """Of each source, for the card."""
        return tuple(
            SourceCount(source.path, name, found.sha256, count.read, count.kept, dict(sorted(count.dropped.items())),
                        count.added, count.passed - count.kept, count.copies, count.tokens, count.loss_tokens,
                        len(found.names), source.licence, source.origin, count.cut,
                        count.undrawn)
            for source, name, found, count in zip(self._config.sources, self.datasets(), files, self._sources))

    def rules(self) -> tuple[RuleCount, ...]:
        """Of each rule, for the card."""
        return tuple(RuleCount(rule.step.name, plain(rule.step.said), rule.dataset, rule.seen, rule.changed,
                               rule.dropped, rule.added, tuple(rule.samples), rule.cut)
                     for rules in (*self._own, self._everywhere) for rule in rules)

    def reasons(self) -> dict[str, int]:
        """How many were left out, by reason."""
        return dict(sorted(collections.Counter(entry["reason"] for entry in self.dropped).items()))

    def nothing(self) -> str:
        """Why no row is left."""
        said = [f"{count} {reason}" for reason, count in self.reasons().items()]
        passed = sum(source.passed for source in self._sources)
        if passed:
            said.append(f"of {passed} conversations sample, weight and budget take none")
        return ", ".join(said) or "no records"

    def show(self) -> None:
        """Says how many more were left out than were named, and how many have another id than in their file."""
        if self._renamed:
            many = "conversations had the id of another one" if self._renamed > 1 else "conversation had another's id"
            console.say(f"{self._renamed} {many}, with other contents: named after the file now, FILESTEM/ID")
        if len(self.dropped) > self._said:
            console.say(f"... {len(self.dropped) - self._said} more dropped; dropped.jsonl of the dataset names all")

    def _repeats(self, source: int, file: str, outcome: Outcome) -> Outcome | None:
        """The outcome; dropped when an earlier conversation has one of its keys; None when that was noted already."""
        for key in outcome.keys:
            rule = self._steps[source][key.step]
            holder = file, outcome.line, key.holder
            if rule.step.rule.kind != "same":
                continue
            first = self._firsts.setdefault((rule.scope, key.value), holder)
            if first == holder:
                continue
            if (rule.scope, *holder) in self._gone:
                return None
            self._gone.add((rule.scope, *holder))
            return outcome._replace(
                example=None, reason=rule.step.name, detail=f"as '{first[2]}', {first[0]}:{first[1]}",
                last=key.step, changes=tuple(change for change in outcome.changes if change.step < key.step))
        return outcome

    def _unlike_others(self, file: str, outcome: Outcome) -> Outcome:
        """The outcome. Where its dataset has a conversation of that id already, it is dropped if the contents are the
        same, else named after its file: "FILESTEM/ID", then "FILESTEM/ID/2" and so on."""
        if outcome.example is None:
            return outcome
        contents = _contents(outcome.example)
        for name in _names(outcome.example.id, file):
            first = self._names.get((outcome.dataset, name))
            if first is None:
                break
            if first[2] == contents:
                return outcome._replace(example=None, reason="duplicate id",
                                        detail=f"'{name}' was there before, {first[0]}:{first[1]}")
        self._names[outcome.dataset, name] = file, outcome.line, contents
        self._renamed += name != outcome.example.id
        return outcome._replace(id=name, example=outcome.example._replace(id=name))

    def _drop(self, source: int, file: str, outcome: Outcome) -> None:
        """Notes a conversation that is left out; names the first few on screen, but for what rules took out."""
        rules = self._steps[source]
        self._sources[source].dropped[outcome.reason] += 1
        if outcome.reason == NOTHING:
            return
        self.dropped.append({"file": file, "line": outcome.line, "reason": outcome.reason, "detail": outcome.detail})
        if outcome.last >= 0 and rules[outcome.last].step.name == outcome.reason:
            rules[outcome.last].dropped += 1
            rules[outcome.last].show(Sample(outcome.id, outcome.sample, "", outcome.detail))
        elif self._said < _SHOWN:
            self._said += 1
            detail = f" ({outcome.detail})" if outcome.detail else ""
            console.say(f"{file}:{outcome.line}: dropped, {outcome.reason}{detail}")


def _names(name: str, file: str) -> Iterator[str]:
    """The ids that a conversation of `file` may have, best first."""
    yield name
    own = f"{pathlib.PurePath(file).name.split('.')[0]}/{name}"
    yield own
    yield from (f"{own}/{i}" for i in itertools.count(2))


def _contents(example: Example) -> bytes:
    """A hash of what is learned from a conversation."""
    weights = np.asarray(example.loss_weights, "<f4").tobytes()
    return hashlib.blake2b(np.asarray(example.tokens, "<i4").tobytes() + weights, digest_size=16).digest()
