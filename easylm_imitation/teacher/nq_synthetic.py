"""The recipe `nq-synthetic`, the paper's local imitation (section 3, appendix A): questions and answers in the manner
of Natural Questions, both the teacher's own. Each request shows 5 of 10 seed pairs, drawn anew; duplicates are dropped.
"""
import dataclasses
from collections.abc import Sequence
from typing import Literal

from easylm_imitation.records import LedgerEntry, Message
from easylm_imitation.teacher.inputs import Pair
from easylm_imitation.teacher.labelled import sections
from easylm_imitation.teacher.recipe import Ask, Growing, GrowingConfig, draws, free, whole_lines

# The request, as the paper prints it in its table 4.
PROMPT = ("I want you to generate a series of questions and answers. I want the answers to be concise, just a few "
          "words. The questions should be lowercased and centered around Wikipedia-like entities. For example,")


@dataclasses.dataclass(frozen=True)
class NqConfig(GrowingConfig):
    """The paper's protocol. `seeds` are used when no file of pairs is given."""
    recipe: Literal["nq-synthetic"] = "nq-synthetic"
    dataset: str = free("nq-synthetic")
    rows: int = free(6000)
    seeds: tuple[Pair, ...] = ()
    shots: int = 5                                      # seed pairs in a request
    distinct: Literal["pair", "question"] = "pair"      # what must not come twice

    def __post_init__(self):
        super().__post_init__()
        if self.shots < 1:
            raise ValueError(f"shots={self.shots} must be at least 1")


class NqSynthetic(Growing):
    """Questions and answers from `seeds`; the pool of seeds does not grow."""

    def __init__(self, config: NqConfig, seeds: Sequence[Pair]):
        super().__init__(config, per_answer=10)
        self.seeds = seeds
        self._seen = {self._identity(pair) for pair in seeds}

    def make(self, number: int) -> Ask:
        """The prompt with its own draw of the seeds."""
        shown = draws(self.config.seed, number).sample(list(self.seeds), self.config.shots)
        text = "\n\n".join([PROMPT, *(f"Q: {pair.question}\nA: {pair.answer}" for pair in shown)])
        return Ask(str(number), (Message("user", text),), number=number)

    def read(self, ask: Ask, entry: LedgerEntry) -> None:
        """Every pair that is new."""
        found = parse_pairs(whole_lines(entry))
        self.dropped["no pair in the answer"] += not found
        for place, pair in enumerate(found):
            if self._identity(pair) in self._seen:
                self.dropped["duplicate"] += 1
            else:
                self._seen.add(self._identity(pair))
                self.add(ask, place, pair.question, pair.answer)

    def _identity(self, pair: Pair) -> Pair | str:
        return pair if self.config.distinct == "pair" else pair.question


def parse_pairs(text: str) -> list[Pair]:
    """The pairs of a text: `Q: ...` on a line and `A: ...` below it. Further lines after an answer are left out.

    >>> parse_pairs("1. **Q:** who wrote emma\\n   A: Jane Austen\\nQ: unanswered\\nQ: capital of peru?\\nA: Lima")
    [Pair(question='who wrote emma', answer='Jane Austen'), Pair(question='capital of peru?', answer='Lima')]
    """
    found = [(label[:1], content) for label, content in sections(text, "Question", "Answer", "Q", "A")]
    pairs = [Pair(question.strip(" *"), answer.partition("\n")[0].strip(" *"))
             for (first, question), (second, answer) in zip(found, found[1:]) if (first, second) == ("Q", "A")]
    return [pair for pair in pairs if pair.question and pair.answer and "\n" not in pair.question]
