"""A record of a source as conversations: its format's function makes the messages, here they get their names."""
from collections.abc import Iterator
from typing import Any

from easylm_imitation.data.config import SourceConfig
from easylm_imitation.data.formats import FORMATS, Cut, Row
from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import arguments
from easylm_imitation.text.template import fault_of


class Reader:
    """Reads the records of one source. Raises UserError for options that its format does not have."""

    def __init__(self, source: SourceConfig, dataset: str):
        self._format = FORMATS[source.format]
        self._options = arguments(self._format.rows, source.options, "options")
        self._teacher, self._dataset = source.teacher, dataset
        self.columns = self._format.columns

    def conversations(self, record: dict[str, Any], number: int) -> Iterator[Conversation | Drop | Cut]:
        """The conversations that a record holds; `number` makes an id where it has none ("<dataset>_<number>"). They
        are not checked yet. Raises Drop: "wrong shape", "unknown role", and reasons of the format's own; a Drop among
        them stands for one conversation that is of no use, a Cut for turns that none of them holds."""
        for row in self._format.rows(record, **self._options):
            if isinstance(row, Drop | Cut):
                yield row
            else:
                yield (self._own if isinstance(row, Conversation) else self._named)(row, record, number)

    def _own(self, made: Conversation, record: dict[str, Any], number: int) -> Conversation:
        return Conversation(made.dataset if "dataset" in record else self._dataset,
                            made.id if "id" in record else f"{self._dataset}_{number}",
                            made.messages, made.teacher or self._teacher, made.meta)

    def _named(self, row: Row, record: dict[str, Any], number: int) -> Conversation:
        name = record.get("id")
        if not isinstance(name, str | int) or name == "":
            name = f"{self._dataset}_{number}"
        return Conversation(self._dataset, f"{name}_{row.name}" if row.name else str(name), tuple(row.messages),
                            self._teacher if row.teacher is None else row.teacher)


def check(messages: tuple[Message, ...]) -> None:
    """Raises Drop: "empty turn", "no answer", and the faults of `text.fault_of`."""
    fault = fault_of(messages)
    if fault:
        raise Drop(*fault)
    if messages[-1].role not in ("assistant", "document"):
        raise Drop("no answer", "the last turn is not the assistant's")
    for i, message in enumerate(messages):
        if not message.content.strip() and message.role != "system":
            raise Drop("empty turn", f"turn {i + 1}, {message.role}")
