"""ROUGE-L against everything so far, without comparing with everything.

F = 2 LCS / (m + n), of m and n words (runs of a-z and 0-9 in lower-case text, as the package rouge_score takes them).
Two texts share at least as many words as their LCS has, and an inverted index counts the shared words of a new text
with all texts at once, in numpy. Only texts that share enough for an F above the limit are compared in full, by a
bit-parallel LCS (Crochemore et al. 2001).
"""
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

_WORD = re.compile("[a-z0-9]+")


def words(text: str) -> list[str]:
    """The words that ROUGE counts.

    >>> words("Don't list 3 Items!")
    ['don', 't', 'list', '3', 'items']
    """
    return _WORD.findall(text.lower())


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """ROUGE-L's F of two lists of words, 0 to 1."""
    return 2 * lcs(one, other) / (len(one) + len(other)) if one and other else 0.0


def lcs(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence: one bit for each word of `one`, one step for each of `other`."""
    places: dict[str, int] = defaultdict(int)
    for i, word in enumerate(one):
        places[word] |= 1 << i
    full = (1 << len(one)) - 1
    row = full                          # a 0 where the LCS grows
    for word in other:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(one) - row.bit_count()


class SimilarTexts:
    """Texts, asked whether a new one is too similar to any of them."""

    def __init__(self, limit: float):
        """`limit`: a text is too similar whose ROUGE-L is above it."""
        self.limit = limit
        self._texts: list[list[str]] = []
        self._lengths = array("i")
        self._holding: dict[tuple[str, int], array] = defaultdict(lambda: array("i"))   # (word, k-th of it) -> texts

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Takes a text in."""
        made = words(text)
        for key in _numbered(made):
            self._holding[key].append(len(self._texts))
        self._texts.append(made)
        self._lengths.append(len(made))

    def similar(self, text: str) -> int | None:
        """The number of a text that `text` is too similar to, of several the one that shares most words; else None."""
        new = words(text)
        shared = self._shared(new)
        lengths = np.frombuffer(self._lengths, np.int32)[:len(shared)]
        enough = np.flatnonzero(2 * shared > self.limit * (lengths + len(new)))     # as LCS <= shared words
        for number in enough[np.argsort(-shared[enough], kind="stable")].tolist():
            if rouge_l(new, self._texts[number]) > self.limit:
                return number
        return None

    def _shared(self, new: list[str]) -> np.ndarray:
        """[texts, up to the last that shares any] How many words each text shares with `new`."""
        held = [self._holding[key] for key in _numbered(new) if key in self._holding]
        return np.bincount(np.concatenate([np.frombuffer(texts, np.int32) for texts in held] or [[]]).astype(np.int64))


def _numbered(made: list[str]) -> list[tuple[str, int]]:
    """Each word with how often it came before, so that a list with repeats becomes a set.

    >>> _numbered(["to", "be", "to"])
    [('to', 0), ('be', 0), ('to', 1)]
    """
    seen: Counter[str] = Counter()
    keys = []
    for word in made:
        keys.append((word, seen[word]))
        seen[word] += 1
    return keys
