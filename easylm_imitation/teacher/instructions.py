"""Which instructions that a teacher invents are kept: the filters that Self-Instruct and Alpaca published, and ROUGE-L.

Both drop instructions that are short, long, ask for what text cannot do, say "write a program", open with punctuation
or with a character outside ASCII, or resemble one that is there already.
"""
import re
import string
from collections.abc import Sequence

from easylm_imitation.teacher.inputs import SeedTask
from easylm_imitation.teacher.rouge import SimilarTexts

NOT_FOR_TEXT = ("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw",
                "plot", "go to", "video", "audio", "music", "flowchart", "diagram")
"""What a language model can neither see nor make: as whole words a reason to drop an instruction."""
_SHORTEST, _LONGEST = 4, 150    # words


def is_nothing(text: str) -> bool:
    """Whether an input says that there is none."""
    return text.lower().strip("<>()[].* ") in ("", "none", "noinput", "no input", "n/a")


class Instructions:
    """All instructions so far, the seeds first; answers whether a new one may join them."""

    def __init__(self, seeds: Sequence[SeedTask], rouge: float, blacklist: Sequence[str]):
        """`rouge`: the highest ROUGE-L that an instruction may have with any before it."""
        self.invented: list[str] = []       # in the order of their coming
        self._all = SimilarTexts(rouge)
        self._blacklist = re.compile(rf"\b({'|'.join(map(re.escape, blacklist))})\b", re.IGNORECASE)
        self._has_blacklist = bool(blacklist)
        for seed in seeds:
            self._all.add(seed.instruction)

    def offer(self, instruction: str) -> str:
        """Takes the instruction in and returns "", or returns why not."""
        reason = self._fault(instruction) or ("too similar" if self._all.similar(instruction) is not None else "")
        if not reason:
            self._all.add(instruction)
            self.invented.append(instruction)
        return reason

    def _fault(self, text: str) -> str:
        count = len(text.split())
        if count < _SHORTEST or count > _LONGEST:
            return "too short" if count < _SHORTEST else "too long"
        if self._has_blacklist and self._blacklist.search(text):
            return "not for text"
        if text.startswith("Write a program"):      # the answer would be code, or a program's output: unclear
            return "write a program"
        if text[0] in string.punctuation:
            return "opens with punctuation"
        return "" if text[0].isascii() else "opens outside ASCII"
