"""The recipe `self-instruct`, in the three steps of its paper, all asked of the teacher:

    instructions (8 shown: 6 seeds, 2 invented) ─► is it a classification? ─► instances: label first, or input first

Labels come first for classifications, as a teacher that writes the input first keeps to one label. Instances are asked
for before kinds, and kinds before new instructions. The second and third steps show the same seeds in each request, as
the paper's do: a server computes such a beginning once, and an API may bill it for less.
"""
import dataclasses
import random
import re
from collections import deque
from collections.abc import Sequence
from typing import Literal

from easylm_imitation.data.formats.encodings import encode
from easylm_imitation.records import LedgerEntry, Message
from easylm_imitation.schema import UserError
from easylm_imitation.teacher.inputs import SeedTask
from easylm_imitation.teacher.instructions import NOT_FOR_TEXT, Instructions, is_nothing
from easylm_imitation.teacher.labelled import sections
from easylm_imitation.teacher.recipe import Ask, Growing, GrowingConfig, cut_off, draws, free, whole_lines

_INSTRUCTIONS = """Go on with this list of tasks for a language model. Write {more} more, one on a line with its \
number, each unlike the others in subject and in kind. Write the tasks alone, no answers.
"""
_KIND = """Does a task ask to choose one of a few fixed labels, such as yes or no, a topic, or a mood? Then it is a \
classification. Say Yes or No of the last task.
"""
_LABEL_FIRST = """Each task below is to choose a label. For the last one write examples in the form of the others, one \
for each label: first the label, then an input that it is right for.
"""
_INPUT_FIRST = """Write up to {most} examples for the last task in the form of the others: an input, then the right \
output for it. A task that needs no input has one example, with the output alone.
"""
_NUMBERED = re.compile(r"[\s*#-]*+\d+\s*+[.):][*\s]*+(\S.*)")


@dataclasses.dataclass(frozen=True)
class SelfInstructConfig(GrowingConfig):
    """The protocol of Self-Instruct. `window` shapes the requests here: what is shown depends on what was answered."""
    recipe: Literal["self-instruct"] = "self-instruct"
    dataset: str = free("self-instruct")
    rows: int = free(82_000)                        # instances
    window: int = 16
    temperature: float = 0.7
    seeds_shown: int = 6                            # in a request for instructions
    invented_shown: int = 2                         # as soon as there are so many; seeds until then
    instructions: int = 8                           # wanted of one request
    instances: int = 5                              # at most, of one instruction
    rouge: float = 0.7                              # highest ROUGE-L with any instruction so far
    blacklist: tuple[str, ...] = NOT_FOR_TEXT

    def __post_init__(self):
        super().__post_init__()
        for name in ("seeds_shown", "instructions", "instances"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


class SelfInstruct(Growing):
    """Instructions, their kinds, their instances."""
    builds_on_answers = True

    def __init__(self, config: SelfInstructConfig, seeds: Sequence[SeedTask]):
        super().__init__(config, per_answer=1)
        shown = config.seeds_shown + config.invented_shown
        if len(seeds) < shown:
            raise UserError(f"{len(seeds)} seed tasks, but {shown} instructions are shown in a request; lower "
                            "seeds_shown, or give more")
        if len({seed.is_classification for seed in seeds}) < 2:
            raise UserError("the seed tasks are all of one kind; is_classification must be true of some, false of some")
        self.seeds, self.known = seeds, Instructions(seeds, config.rouge, config.blacklist)
        self._next_steps: deque[tuple[str, str]] = deque()      # (step, instruction)
        draw = draws(config.seed, "shown")
        kinds = self._seeds_of(draw, True, 4) + self._seeds_of(draw, False, 4)
        draw.shuffle(kinds)
        self._kinds, self._labels, self._pairs = kinds, self._seeds_of(draw, True, 3), self._seeds_of(draw, False, 3)

    def make(self, number: int) -> Ask:
        """The next step of an instruction that waits for one, or a request for instructions."""
        step, instruction = self._next_steps.popleft() if self._next_steps else ("instructions", "")
        if step == "instructions":
            text = self._instructions(draws(self.config.seed, number))
        else:
            text = {"kind": self._kind, "labelled": self._labelled, "examples": self._examples}[step](instruction)
        return Ask(str(number), (Message("user", text),), number=number, step=step, about=instruction,
                   max_tokens=8 if step == "kind" else None)

    def _instructions(self, draw: random.Random) -> str:
        invented = self.known.invented
        some = draw.sample(invented, min(self.config.invented_shown, len(invented)))
        count = self.config.seeds_shown + self.config.invented_shown - len(some)
        shown = [seed.instruction for seed in draw.sample(list(self.seeds), count)] + some
        draw.shuffle(shown)
        lines = [f"{i}. {' '.join(text.split())}" for i, text in enumerate(shown, 1)]
        return "\n".join([_INSTRUCTIONS.format(more=self.config.instructions), *lines, f"{len(shown) + 1}."])

    def _kind(self, instruction: str) -> str:
        lines = [f"Task: {seed.instruction}\nClassification: {'Yes' if seed.is_classification else 'No'}\n"
                 for seed in self._kinds]
        return "\n".join([_KIND, *lines, f"Task: {instruction}\nClassification:"])

    def _labelled(self, instruction: str) -> str:
        lines = [f"Task: {seed.instruction}\n" + "".join(f"Label: {output}\nInput: {given}\n"
                 for given, output in seed.instances[:3]) for seed in self._labels]
        return "\n".join([_LABEL_FIRST, *lines, f"Task: {instruction}\nLabel:"])

    def _examples(self, instruction: str) -> str:
        lines = [f"Task: {seed.instruction}\n" + "".join(
            f"Example {i}\n" + (f"Input: {given}\n" if given else "") + f"Output: {output}\n"
            for i, (given, output) in enumerate(seed.instances[:3], 1)) for seed in self._pairs]
        head = _INPUT_FIRST.format(most=self.config.instances)
        return "\n".join([head, *lines, f"Task: {instruction}\nExample 1\n"])

    def _seeds_of(self, draw: random.Random, classification: bool, count: int) -> list[SeedTask]:
        those = [seed for seed in self.seeds if seed.is_classification == classification]
        return draw.sample(those, min(count, len(those)))

    def read(self, ask: Ask, entry: LedgerEntry) -> None:
        """What the step brought: instructions, a kind, or instances."""
        if ask.step == "instructions":
            self._read_instructions(entry)
        elif ask.step == "kind":
            yes = (entry.response or "").strip(" *\n").lower().startswith("yes")
            self._next_steps.appendleft(("labelled" if yes else "examples", ask.about))
        else:
            self._read_instances(ask, entry)

    def _read_instructions(self, entry: LedgerEntry) -> None:
        found = parse_instructions(whole_lines(entry))[:2 * self.config.instructions]
        for instruction in found:
            reason = self.known.offer(instruction)
            if reason:
                self.dropped[reason] += 1
            else:
                self._next_steps.append(("kind", instruction))
        self.dropped["no list in the answer"] += not found

    def _read_instances(self, ask: Ask, entry: LedgerEntry) -> None:
        parse = parse_labelled if ask.step == "labelled" else parse_examples
        found = parse(entry.response or "", cut_off(entry))
        whole = [(given, output) for given, output in found if output and output != given]
        outputs: dict[str, set[str]] = {}
        for given, output in whole:
            outputs.setdefault(given, set()).add(output)
        kept = [pair for pair in dict.fromkeys(whole) if len(outputs[pair[0]]) == 1][:self.config.instances]
        self.dropped["instance is empty, repeats its input, or contradicts another"] += len(found) - len(kept)
        self.dropped["no instance in the answer"] += not found
        for place, (given, output) in enumerate(kept):
            self.add(ask, place, *encode(ask.about, given, output, "blank line"), instruction=ask.about, input=given,
                     classification=ask.step == "labelled")


def parse_instructions(text: str) -> list[str]:
    """The instructions of a numbered list; the request ends with the first number, so the text may go on from there.

    >>> parse_instructions(" Name a fruit.\\n10. **Sort these words.**\\nFine!")
    ['Name a fruit.', 'Sort these words.']
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and not any(_NUMBERED.match(line) for line in lines[:1]) and not lines[0].rstrip().endswith(":"):
        lines[0] = "1. " + lines[0]
    return [match[1].strip(" *") for match in map(_NUMBERED.match, lines) if match]


def parse_examples(text: str, cut_off: bool) -> list[tuple[str, str]]:
    """(input, output) of each example; the request ends with the heading of the first. `cut_off`: the last is left out.

    >>> parse_examples("Input: 2+2\\nOutput: 4\\nExample 2:\\nOutput: none", cut_off=False)
    [('2+2', '4'), ('', 'none')]
    """
    text = re.sub(r"^([ *#]*Example[ *]*\d+)[ *:.]*$", r"\1:", text, flags=re.MULTILINE)
    pairs, given = [], ""
    for label, content in sections(text, "Example", "Input", "Output", "Task"):
        if label == "Task":
            break
        if label == "Output":
            pairs.append((given, content))
        given = content if label == "Input" and not is_nothing(content) else ""
    return pairs[:-1] if cut_off else pairs


def parse_labelled(text: str, cut_off: bool) -> list[tuple[str, str]]:
    """(input, label) of each example; the request ends with the first "Label:".

    >>> parse_labelled(" Happy\\nInput: I won!\\nLabel: Sad\\nI lost.", cut_off=False)
    [('I won!', 'Happy'), ('I lost.', 'Sad')]
    """
    pairs: list[tuple[str, str]] = []
    for label, content in sections(text, "Label", "Input", "Task"):
        if label == "Task":
            break
        if label == "Input" and pairs:
            pairs[-1] = (content, pairs[-1][1])
        elif label in ("", "Label"):
            first, _, rest = content.partition("\n")
            pairs.append((rest.strip(), first.strip(" *")))
    return [(given, label) for given, label in (pairs[:-1] if cut_off else pairs) if given]
