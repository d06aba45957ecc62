"""What a worker of `build` does: raw records in, tokenized examples out. Imports neither jax nor TFDS."""
import dataclasses

from easylm_imitation.data.config import SourceConfig
from easylm_imitation.data.convert import convert
from easylm_imitation.data.shards import Example
from easylm_imitation.data.sources import Drop, RawRecord
from easylm_imitation.schema import UserError
from easylm_imitation.text import Template, Tokenizer, get_template, load_tokenizer, tokenize


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one record: an example, its dataset and its teacher, or the reason why not."""
    line: int
    example: Example | None = None
    dataset: str = ""
    teacher: str = ""
    reason: str = ""
    detail: str = ""


class Worker:
    """Converts and tokenizes records."""

    def __init__(self, tokenizer: Tokenizer, template: Template):
        self._tokenizer = tokenizer
        self._template = template

    def outcomes(self, records: list[RawRecord], source: SourceConfig, dataset: str) -> list[Outcome]:
        """One outcome a record, in order."""
        return [self._outcome(record, source, dataset) for record in records]

    def _outcome(self, record: RawRecord, source: SourceConfig, dataset: str) -> Outcome:
        try:
            conversation = convert(record.parse(), source, dataset, record.number)
            row = tokenize(self._template, self._tokenizer, conversation)
        except Drop as drop:
            return Outcome(record.line, reason=drop.reason, detail=drop.detail)
        except UserError as error:
            return Outcome(record.line, reason="not tokenizable", detail=str(error))
        example = Example(conversation.id, row.tokens, row.loss_weights)
        return Outcome(record.line, example, conversation.dataset, conversation.teacher)


_worker: Worker | None = None


def start(tokenizer: str, template: str) -> None:
    """Readies this process of a pool; `tokenizer` is a folder, `template` a name."""
    global _worker
    _worker = Worker(load_tokenizer(tokenizer), get_template(template))


def run(records: list[RawRecord], source: SourceConfig, dataset: str) -> list[Outcome]:
    """`Worker.outcomes` in a process that `start` readied."""
    assert _worker is not None, "start() runs first in every process of the pool"
    return _worker.outcomes(records, source, dataset)
