"""Texts as arrays of folded letters, and hashes of every window of letters or words: what near-duplicates and overlap
compare.

Folding forgets what copies of a text differ in: case, accents, width, punctuation and white space. Everything here
works on a batch of texts at once in numpy, which holds no lock while it works, so batches may go to several threads.
"""
import concurrent.futures
import functools
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from easylm_imitation.data.ahead import in_order

T = TypeVar("T")

SPACE = 32
_NOTHING = 0                    # what combining marks and invisible signs fold to
_TABULATED = 0x20000            # beyond: rare ideographs, which stand for themselves, and signs without letters
_BATCH_LETTERS = 1 << 17        # letters a batch holds: its arrays then stay in a core's cache
_BASE = np.uint64(0x9E3779B97F4A7C15 | 5)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))


class Folded(NamedTuple):
    """A batch of folded texts: words of letters and digits, one space after each.

    "Où est-il?", "…" gives codes of "ou est il ", offsets 0 10 10. An ideograph or kana is a word by itself.
    """
    codes: np.ndarray           # uint32 [letters and spaces], code points
    offsets: np.ndarray         # int64 [texts + 1]; text t is codes[offsets[t]:offsets[t + 1]]

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """(hash of each word: uint64 [words], offsets of the texts among the words: int64 [texts + 1])."""
        ends = np.flatnonzero(self.codes == SPACE)
        starts = np.concatenate([[0], ends + 1])[:len(ends)]
        return span_hashes(self.codes, starts, ends), np.searchsorted(ends, self.offsets)

    def letters(self) -> tuple[np.ndarray, np.ndarray]:
        """(the codes without spaces, offsets of the texts among them)."""
        inside = self.codes != SPACE
        return self.codes[inside], np.concatenate([[0], np.cumsum(inside)])[self.offsets]


def batches(texts: Iterable[str], letters: int = _BATCH_LETTERS) -> Iterator[list[str]]:
    """Lists of texts of about `letters` letters each, in order; a longer text is a batch by itself."""
    batch: list[str] = []
    held = 0
    for text in texts:
        if batch and held + len(text) > letters:
            yield batch
            batch, held = [], 0
        batch.append(text)
        held += len(text) + 1
    if batch:
        yield batch


def fold(texts: Sequence[str], signs: bool = False) -> Folded:
    """Folds a batch of texts. `signs`: those that tell one question from another stay, as words by themselves:
    "5+3", "5 * 3", "C++", "x < -1" (`_operators`)."""
    if not texts:
        return Folded(np.zeros(0, np.uint32), np.zeros(1, np.int64))
    raw = np.frombuffer(("\n".join(texts) + "\n").encode("utf-32-le", "surrogatepass"), np.uint32)
    offsets = np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts])])
    codes = _table()[raw]
    if signs:
        kept = _operators(raw, codes, offsets)
        codes[kept] = raw[kept]
    codes, offsets = _keep(codes, codes != _NOTHING, offsets)
    alone = _stands_alone(codes)
    if signs:       # what is folded holds no other
        alone |= _SIGN[codes]
    if alone.any():
        codes, offsets = _spread(codes, alone, offsets)
    letter = codes != SPACE
    after_letter = np.concatenate([[False], letter[:-1]])
    return Folded(*_keep(codes, letter | after_letter, offsets))


def span_hashes(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """64-bit hashes of the spans values[starts[i]:ends[i]], each a function of its content alone.

    A polynomial modulo 2^64 over mixed values: sums from the batch's start, differences of which are spans.
    """
    powers, inverses = _powers(len(values))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mix(values) * powers[:len(values)], dtype=np.uint64)])
    return mix((sums[ends] - sums[starts]) * inverses[starts])


def window_hashes(values: np.ndarray, offsets: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(places, hashes) of every window of `size` values that lies within one text; `places` are starts in `values`."""
    starts = np.arange(max(0, len(values) - size + 1))
    text_end = np.repeat(offsets[1:], np.diff(offsets))
    starts = starts[starts + size <= text_end[:len(starts)]]
    return starts, span_hashes(values, starts, starts + size)


def mix(values: np.ndarray) -> np.ndarray:
    """Each number well mixed, as uint64 (the finaliser of SplitMix64)."""
    z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _keep(codes: np.ndarray, kept: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return codes[kept], np.concatenate([[0], np.cumsum(kept)])[offsets]


def _stands_alone(codes: np.ndarray) -> np.ndarray:
    """Where a letter of a script without spaces is: kana, ideographs."""
    return ((codes >= 0x3040) & (codes <= 0x9FFF)) | ((codes >= 0xF900) & (codes <= 0xFAFF)) | (codes >= _TABULATED)


_SIGN = np.zeros(0x110000, bool)
_SIGN[[ord(sign) for sign in "+-*/<>=#^%&|~×÷−±≤≥≠"]] = True
_AFTER = [ord(sign) for sign in "+#%"]      # may close a word: C++, C#, 5%
_MINUS = [ord(sign) for sign in "-−"]       # mostly joins words, and means nothing then
_OF_NUMBER = [ord(sign) for sign in "+-−"]     # may open a number: "< -1"
_LONGEST_SIGN = 3


def _operators(raw: np.ndarray, codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Places of signs that stand between two words, close to both or a space from both, or behind one. A minus counts
    before a digit; a number's own, "-1", where its text begins or such a sign is before it: "x < -1". Not what marks
    text up: "**bold**", "# title", "- item", "e-mail", "=====". `codes`: what `raw`, of which each text ends with a
    line break, folds to; `offsets`: of the texts."""
    places = np.flatnonzero(_SIGN[raw])
    if not len(places):
        return places
    begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    sizes = np.diff(begins, append=len(places))
    first, behind = places[begins], places[begins] + sizes
    word = (codes != SPACE) & (codes != _NOTHING)
    begins_text = np.isin(first, offsets)
    of_number = ((sizes == 1) & np.isin(raw[first], _OF_NUMBER) & _is_digit(codes[behind])
                 & (begins_text | (raw[first - 1] == SPACE)))
    next_is_near = np.append((raw[behind[:-1]] == SPACE) & (first[1:] == behind[:-1] + 1), False)
    after = np.minimum(behind + 1 + (next_is_near & np.roll(of_number, -1)), len(raw) - 1)
    touches = word[first - 1], word[behind]
    apart = (raw[first - 1] == SPACE) & word[first - 2], (raw[behind] == SPACE) & word[after]
    right = np.where(touches[1], codes[behind], codes[after])
    minus = np.isin(raw[first], _MINUS)
    between = (touches[0] & touches[1]) | (apart[0] & apart[1])
    kept = (between | (touches[0] & np.isin(raw[first], _AFTER))) & (sizes <= _LONGEST_SIGN)
    kept &= ~minus | _is_digit(right)
    kept |= minus & of_number & (begins_text | np.roll(next_is_near & kept, 1))
    return places[np.repeat(kept, sizes)]


def _is_digit(codes: np.ndarray) -> np.ndarray:
    return (codes >= ord("0")) & (codes <= ord("9"))


def _spread(codes: np.ndarray, alone: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A space before and after each letter that stands alone (superfluous ones vanish later)."""
    counts = 1 + 2 * alone.astype(np.int64)
    ends = np.cumsum(counts)
    spread = np.full(ends[-1], SPACE, np.uint32)
    spread[ends - 1 - alone] = codes
    return spread, np.concatenate([[0], ends])[offsets]


@functools.cache
def _table() -> np.ndarray:
    """uint32 [0x110000]: what each code point folds to; SPACE for what is no letter or digit."""
    table = np.arange(0x110000, dtype=np.uint32)
    table[:_TABULATED] = [_folded(chr(code)) for code in range(_TABULATED)]
    table[0x3FFFF:] = _NOTHING
    return table


def _folded(character: str) -> int:
    kind = unicodedata.category(character)
    if kind in ("Mn", "Me", "Cf"):
        return _NOTHING
    apart = unicodedata.normalize("NFKD", character)
    bare = apart[0] if all(unicodedata.combining(mark) for mark in apart[1:]) else (
        unicodedata.normalize("NFKC", character)[0])
    return ord(bare.casefold()[0]) if bare.isalnum() or kind == "Mc" else SPACE


_held_powers = (np.ones(1, np.uint64), np.ones(1, np.uint64))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers 0 to at least `count` of the polynomial's base, and of its inverse."""
    global _held_powers
    held = _held_powers         # another thread may replace it meanwhile, with arrays as good
    if len(held[0]) <= count:
        size = 1 << (count + 1).bit_length()
        held = tuple(np.concatenate([[np.uint64(1)], np.cumprod(np.full(size, base), dtype=np.uint64)])
                     for base in (_BASE, _INVERSE))
        _held_powers = held
    return held


def in_threads(work: Callable[[list[str]], T], texts: Iterable[str], threads: int | None = None) -> Iterator[T]:
    """`work` of each batch of `texts`, in order, by `threads` (None: one a core); a few batches ahead of the reader."""
    threads = threads or os.cpu_count() or 1
    if threads == 1:
        yield from map(work, batches(texts))
        return
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        yield from in_order(pool, work, batches(texts), ahead=2 * threads + 1)
