"""What a worker of `build` does: raw records in, cleaned and tokenized examples out. Imports neither jax nor TFDS."""
import os
from collections.abc import Iterator
from typing import NamedTuple

from easylm_imitation.data.clean import Change, Cleaned, Key, cleaned, steps_of
from easylm_imitation.data.config import CleanRule, SourceConfig
from easylm_imitation.data.convert import Reader, check
from easylm_imitation.data.formats import Cut
from easylm_imitation.data.rules import Count, excerpt
from easylm_imitation.data.shards import Example
from easylm_imitation.data.sources import NOTHING, Drop, RawRecord
from easylm_imitation.records import Conversation
from easylm_imitation.schema import UserError
from easylm_imitation.text import Row, Template, Tokenizer, get_template, load_tokenizer, tokenize, tokenize_all


class Outcome(NamedTuple):
    """What became of one conversation of a record (or of the record): an example, its dataset and its teacher, or the
    reason why not. `first` to `last` are the cleaning steps that saw it, of the source's and then the build's."""
    line: int
    example: Example | None = None
    dataset: str = ""
    teacher: str = ""
    reason: str = ""
    detail: str = ""
    first: int = 0
    last: int = -1
    changes: tuple[Change, ...] = ()
    keys: tuple[Key, ...] = ()
    id: str = ""
    cut: int = 0                # turns of the record that its format left out; such an outcome is no conversation
    sample: str = ""            # how it begins, for people, where a cleaning step is to be judged


class Worker:
    """Converts, cleans and tokenizes records."""

    def __init__(self, tokenizer: Tokenizer, template: Template, clean: tuple[CleanRule, ...] = ()):
        self._tokenizer, self._template, self._clean = tokenizer, template, clean
        self._count = Count(self._row_tokens, lambda text: len(tokenizer.encode(text)))

    def outcomes(self, records: list[RawRecord], source: SourceConfig, dataset: str) -> list[list[Outcome]]:
        """For each record, in order, one outcome a conversation."""
        reader, steps = Reader(source, dataset), steps_of((*source.clean, *self._clean))
        judged = [list(self._judged(record, reader, steps)) for record in records]
        kept = [conversation for made in judged for _, conversation in made if conversation is not None]
        rows = iter(tokenize_all(self._template, self._tokenizer, kept))
        return [[outcome if conversation is None else _finished(outcome, next(rows)) for outcome, conversation in made]
                for made in judged]

    def _judged(self, record: RawRecord, reader: Reader, steps: tuple) -> Iterator[tuple[Outcome, Conversation | None]]:
        """The outcomes of a record, those of conversations to tokenize with these."""
        for conversation in _conversations(record, reader):
            if isinstance(conversation, Drop):
                yield Outcome(record.line, reason=conversation.reason, detail=conversation.detail), None
                continue
            if isinstance(conversation, Cut):
                yield Outcome(record.line, cut=conversation.turns), None
                continue
            for result in cleaned(conversation, steps, self._count):
                yield self._result(record.line, conversation, result)

    def _result(self, line: int, read: Conversation, result: Cleaned) -> tuple[Outcome, Conversation | None]:
        conversation = result.conversation or read
        outcome = Outcome(line, None, conversation.dataset, conversation.teacher, result.reason, result.detail,
                          result.first, result.last, result.changes, result.keys, conversation.id,
                          sample=excerpt(conversation) if result.last >= 0 else "")
        if result.conversation is None:
            return outcome, None
        try:
            check(conversation.messages)
        except Drop as drop:
            return outcome._replace(reason=drop.reason, detail=drop.detail), None
        return outcome, conversation

    def _row_tokens(self, messages: tuple) -> int:
        return len(tokenize(self._template, self._tokenizer, Conversation("", "", tuple(messages))).tokens)


def _conversations(record: RawRecord, reader: Reader) -> Iterator[Conversation | Drop | Cut]:
    """The conversations of a record, and what stands for those that it spoils; a fault of the record's own ends it, and
    one that holds none is told."""
    empty = True
    try:
        for found in reader.conversations(record.parse(reader.columns), record.number):
            empty = False
            yield found
    except Drop as drop:
        yield drop
        return
    if empty:
        yield Drop(NOTHING)


def _finished(outcome: Outcome, row: Row | UserError) -> Outcome:
    if isinstance(row, UserError):
        return outcome._replace(reason="not tokenizable", detail=str(row))
    return outcome._replace(example=Example(outcome.id, row.tokens, row.loss_weights))


_worker: Worker | None = None


def start(tokenizer: str, template: str, clean: tuple[CleanRule, ...]) -> None:
    """Readies this process of a pool; `tokenizer` is a folder, `template` a name."""
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"      # each core has a process already
    loaded = load_tokenizer(tokenizer)
    _worker = Worker(loaded, get_template(template, loaded), clean)


def run(records: list[RawRecord], source: SourceConfig, dataset: str) -> list[list[Outcome]]:
    """`Worker.outcomes` in a process that `start` readied."""
    assert _worker is not None, "start() runs first in every process of the pool"
    return _worker.outcomes(records, source, dataset)
