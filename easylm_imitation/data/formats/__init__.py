"""Other people's formats, by name. To add one: write a function `record -> rows` in the file of its group (its
keyword-only parameters are the source's `options`), name it in `FORMATS`, give tests/data/test_formats.py a record in
its real schema, and docs/build.md a line."""
import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

from easylm_imitation.data.formats import dialogues, instructions, preferences, tasks
from easylm_imitation.data.formats.base import Cut, Row
from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Conversation

__all__ = ["FORMATS", "Cut", "Format", "Row"]


@dataclasses.dataclass(frozen=True)
class Format:
    """How the records of a file become conversations."""
    rows: Callable[..., Iterable[Row | Conversation | Drop | Cut]]
    columns: tuple[str, ...] = ()   # names of the cells, for files of tab-separated lines
    whole: bool = False             # a file is one JSON object
    skip: str = ""                  # pattern of the names of files to pass over, unless the source says otherwise
    alone: tuple[str, ...] = ()     # options that say nothing beside `like`

    @property
    def shape(self) -> Literal["", "object", "lines"]:
        """What its files are to `iter_records`."""
        return "object" if self.whole else "lines" if self.columns else ""


FORMATS: dict[str, Format] = {
    "conversations": Format(dialogues.conversations),
    "messages": Format(dialogues.messages_of),
    "prompt-completion": Format(instructions.prompt_completion),
    "pairs": Format(instructions.pairs),
    "discord": Format(instructions.pairs),
    "sharegpt": Format(dialogues.sharegpt),
    "hc3": Format(instructions.hc3),
    "alpaca": Format(instructions.alpaca),
    "gpt4-alpaca": Format(instructions.alpaca),
    "code-alpaca": Format(instructions.alpaca),
    "self-instruct": Format(instructions.self_instruct),
    "unnatural": Format(instructions.unnatural),
    "dolly": Format(instructions.dolly),
    "oasst1": Format(dialogues.oasst1),
    "baize": Format(dialogues.baize),
    "superni": Format(tasks.superni, whole=True, skip="*_mmmlu_*"),  # made from MMLU, which people evaluate on
    "flan": Format(tasks.flan),
    "flan-cot": Format(tasks.flan_cot, columns=("question", "answer", "rationale")),
    "gpt4all": Format(instructions.gpt4all),
    "openorca": Format(instructions.openorca),
    "lima": Format(dialogues.lima),
    "halueval": Format(instructions.halueval),
    "koala": Format(preferences.koala),
    "oig": Format(dialogues.oig, alone=("name",)),
    "hh": Format(preferences.hh),
    "webgpt": Format(preferences.webgpt),
    "summaries": Format(preferences.summaries),
}
