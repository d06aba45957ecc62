"""The recipe `alpaca`: each request shows 3 of the seed tasks and has the teacher write the rest of a list of 20, each
with instruction, input and output; what passes the filters is kept."""
import dataclasses
from collections.abc import Sequence
from typing import Literal

from easylm_imitation.data.formats.encodings import encode
from easylm_imitation.records import LedgerEntry, Message
from easylm_imitation.schema import UserError
from easylm_imitation.teacher.inputs import SeedTask
from easylm_imitation.teacher.instructions import NOT_FOR_TEXT, Instructions, is_nothing
from easylm_imitation.teacher.labelled import sections
from easylm_imitation.teacher.recipe import Ask, Growing, GrowingConfig, cut_off, draws, free

_PROMPT = """Write a list of {total} varied tasks that people might give to a language model which reads and writes \
text and does nothing else. Each task has an instruction, an input and an output.

- Vary the verbs, the kinds of task (open questions, rewriting, classifying, planning, explaining and so on), the \
subjects and the tone; some instructions are questions, some are orders.
- An instruction is one or two sentences of English that the model can follow without pictures, sound or the internet.
- The input holds the concrete material that the instruction works on, at most about 100 words. Where the instruction \
needs none, write <noinput>.
- The output is a good and complete answer to the instruction and its input.

Keep exactly to the form of the first tasks. The list of {total} tasks:
"""


@dataclasses.dataclass(frozen=True)
class AlpacaConfig(GrowingConfig):
    """Alpaca's protocol; its sampling: text-davinci-003, temperature 1, 3,072 tokens."""
    recipe: Literal["alpaca"] = "alpaca"
    dataset: str = free("alpaca")
    rows: int = free(52_000)
    max_tokens: int = 3072
    shots: int = 3                                  # seed tasks in a request
    tasks: int = 20                                 # length of the list, those included
    rouge: float = 0.7                              # highest ROUGE-L with any instruction so far
    blacklist: tuple[str, ...] = NOT_FOR_TEXT

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.shots < self.tasks:
            raise ValueError(f"shots={self.shots} must be at least 1 and below tasks={self.tasks}")


class Alpaca(Growing):
    """Whole tasks, many in an answer."""

    def __init__(self, config: AlpacaConfig, seeds: Sequence[SeedTask]):
        super().__init__(config, per_answer=(config.tasks - config.shots) / 2)
        if len(seeds) < config.shots:
            raise UserError(f"{len(seeds)} seed tasks, but shots={config.shots} are shown in each request")
        self.seeds, self.known = seeds, Instructions(seeds, config.rouge, config.blacklist)

    def make(self, number: int) -> Ask:
        """The request with its own draw of the seeds."""
        draw = draws(self.config.seed, number)
        shown = [_block(i, seed, draw.choice(seed.instances))
                 for i, seed in enumerate(draw.sample(list(self.seeds), self.config.shots), 1)]
        text = _PROMPT.format(total=self.config.tasks) + "\n" + "".join(shown)
        return Ask(str(number), (Message("user", f"{text}###\n{self.config.shots + 1}. Instruction:"),), number=number)

    def read(self, ask: Ask, entry: LedgerEntry) -> None:
        """Every task that passes the filters."""
        for place, task in enumerate(parse_tasks(entry.response or "", cut_off(entry))):
            reason = self._fault(task)
            if reason:
                self.dropped[reason] += 1
            else:
                instruction, given, output = task
                self.add(ask, place, *encode(instruction, given, output, "blank line"), instruction=instruction,
                         input=given)

    def _fault(self, task: tuple[str, str, str] | None) -> str:
        if task is None:
            return "not of the form"
        return self.known.offer(task[0]) if task[2] else "no output"


def _block(number: int, seed: SeedTask, instance: tuple[str, str]) -> str:
    given, output = instance
    instruction = " ".join(seed.instruction.split()).rstrip(":")
    return (f"###\n{number}. Instruction: {instruction}\n{number}. Input:\n{given or '<noinput>'}\n"
            f"{number}. Output:\n{output}\n")


def parse_tasks(text: str, cut_off: bool) -> list[tuple[str, str, str] | None]:
    """(instruction, input, output) of each task, None for one of another form. The request ends with the label of an
    instruction, so the text may go on from there. `cut_off`: the last task is not whole, and left out.

    >>> parse_tasks(" Name a fruit.\\n4. Input:\\n<noinput>\\n4. Output:\\nFig\\n###\\n5. Instruction: S", cut_off=True)
    [('Name a fruit.', '', 'Fig')]
    """
    found = sections(text, "Instruction", "Input", "Output")
    labels = [label for label, _ in found]
    if labels[:1] == [""]:
        found[0] = ("" if labels[1:2] in (["Instruction"], ["#"]) else "Instruction", found[0][1])
    tasks: list[list[tuple[str, str]]] = []
    for label, content in found:
        if label == "Instruction":
            tasks.append([])
        if tasks and label != "#":
            tasks[-1].append((label, content))
    return [_task(task) for task in (tasks[:-1] if cut_off else tasks)]


def _task(parts: list[tuple[str, str]]) -> tuple[str, str, str] | None:
    if [label for label, _ in parts] != ["Instruction", "Input", "Output"]:
        return None
    (_, instruction), (_, given), (_, output) = parts
    return " ".join(instruction.split()), "" if is_nothing(given) else given, output
