"""Rules in a row over one conversation, with what each did: what a worker of `build` runs before it tokenizes."""
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from easylm_imitation.data.rules import RULES, Count, Rule, check_like, check_options, excerpt
from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Conversation
from easylm_imitation.schema import UserError, arguments, defaults, named


@dataclasses.dataclass(frozen=True)
class Step:
    """One rule with its options, as a config names it."""
    name: str
    options: dict[str, Any]
    rule: Rule

    @property
    def said(self) -> dict[str, Any]:
        """The options but for places: files by their names alone."""
        return {key: [pathlib.PurePath(path).name for path in value] if key == "against" else value
                for key, value in self.options.items()}

    def result(self, conversation: Conversation, count: Count) -> Any:
        """What the rule says of a conversation. Raises Drop."""
        more = (count,) if self.rule.kind == "split" else ()
        return self.rule.apply(conversation, *more, **self.options)


class Change(NamedTuple):
    """What a step made of a conversation that it left in."""
    step: int
    before: str
    after: str
    added: int = 0      # conversations beyond one
    cut: int = 0        # turns that none of what it made holds


class Key(NamedTuple):
    """What is compared with all others at a step, and the conversation that has it."""
    step: int
    value: bytes        # a hash of the text; the text itself where likeness counts
    holder: str


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """A conversation that went through all steps, or the reason why it did not. Steps `first` to `last` saw it; of the
    pieces of a split conversation, each tells what came after the split, and the first what came before too."""
    conversation: Conversation | None
    first: int = 0
    last: int = -1
    reason: str = ""
    detail: str = ""
    changes: tuple[Change, ...] = ()
    keys: tuple[Key, ...] = ()


def steps_of(rules: Iterable[str | dict[str, Any]]) -> tuple[Step, ...]:
    """The steps that a config's `clean` names. Raises UserError for an unknown rule or option, and for a value that
    makes no sense."""
    steps = []
    for entry in rules:
        options = {"rule": entry} if isinstance(entry, str) else dict(entry)
        name = options.pop("rule", None)
        if not isinstance(name, str):
            raise UserError(f"clean: {entry} names no rule; write a name, or {{'rule': name, ...}}")
        rule = named(name, RULES, "rule")
        where = f"clean: rule '{name}'"
        given = arguments(rule.apply, options, where)
        check_options(given, defaults(rule.apply), where)
        check_like(given, rule.alone, where)
        steps.append(Step(name, given, rule))
    return tuple(steps)


def named_tasks(rules: Iterable[str | dict[str, Any]]) -> list[str]:
    """The evaluation tasks that a config's `clean` names. Raises UserError as `steps_of` does."""
    named = (path for step in steps_of(rules) for path in step.options.get("against", ()))
    return [path.removeprefix("task:") for path in named if path.startswith("task:")]


def whole_steps(steps: tuple[Step, ...]) -> tuple[tuple[int, Step], ...]:
    """The steps, with their numbers, that need all conversations at once: texts are taken at their place among the
    others, and compared when these are through."""
    return tuple((i, step) for i, step in enumerate(steps) if step.rule.kind == "whole")


def cleaned(conversation: Conversation, steps: tuple[Step, ...], count: Count) -> Iterator[Cleaned]:
    """What the steps make of a conversation: itself, its pieces, or nothing with a reason."""
    return _from(0, 0, conversation, steps, count, (), ())


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _cut(conversation: Conversation, pieces: list[Conversation]) -> int:
    """How many turns with something in them stand in none of the pieces; joined turns stand there."""
    turns = [m.content for m in conversation.messages if m.role != "system"]
    made = [m.content for piece in pieces for m in piece.messages if m.role != "system"]
    if len(made) == len(turns):     # in other words perhaps
        return 0
    held = "\0".join(made)
    return sum(bool(turn.strip()) and turn not in held for turn in turns)


def _from(at: int, first: int, conversation: Conversation, steps: tuple[Step, ...], count: Count,
          changes: tuple[Change, ...], keys: tuple[Key, ...]) -> Iterator[Cleaned]:
    for i in range(at, len(steps)):
        try:
            made = steps[i].result(conversation, count)
        except Drop as drop:
            yield Cleaned(None, first, i, steps[i].name, drop.detail, changes, keys)
            return
        if steps[i].rule.kind in ("same", "whole"):
            value = made.encode() if steps[i].rule.kind == "whole" else _hash(made)
            keys += (Key(i, value, conversation.id),)
            continue
        pieces = made if isinstance(made, list) else [made]
        if pieces != [conversation]:
            before, after = excerpt(conversation), " | ".join(map(excerpt, pieces))
            changes += (Change(i, before, after, len(pieces) - 1, _cut(conversation, pieces)),)
        if len(pieces) > 1:
            yield from _from(i + 1, first, pieces[0], steps, count, changes, keys)
            for piece in pieces[1:]:
                yield from _from(i + 1, i + 1, piece, steps, count, (), keys)
            return
        conversation = pieces[0]
    yield Cleaned(conversation, first, len(steps) - 1, changes=changes, keys=keys)
