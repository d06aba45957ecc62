"""Near-duplicates among many texts, short prompts or whole dialogues: MinHash finds candidates, their shingles decide.

Two texts are as alike as the sets of their shingles (runs of five letters of the folded text, signs such as the + of
"5 + 3" among them: data/folding.py): shared
shingles / all shingles, "Jaccard's index". MinHash (Broder 1997) gives each text numbers that two texts share with
just that probability; banding (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, ch. 3) makes candidates of
texts that share a run of them. A candidate is then compared shingle by shingle, so what is called a repetition is one:
exactly up to 1,024 different shingles a text, from the 1,024 of smallest hash beyond.
"""
import functools
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from easylm_imitation.data import folding

SHINGLE = 5             # letters
_SKETCH = 1024          # shingles kept of a text
_MISSED = 0.01          # share of pairs right at the threshold that banding may miss; more alike ones it misses less
_MOST_HASHES = 128
_COMPARED = 64          # candidates compared at once


class Signatures(NamedTuple):
    """What is kept of some texts to find repetitions: about 8 bytes a band and 4 a shingle. Joins with others by
    `first_alike`."""
    bands: np.ndarray       # uint64 [texts, bands]; texts that share one are candidates
    sketches: np.ndarray    # uint32 [shingles]: of each text the different shingles' hashes, ascending
    counts: np.ndarray      # int64 [texts], how many of `sketches` each text has


def near_duplicates(texts: Iterable[str], threshold: float = 0.7, threads: int | None = None) -> np.ndarray:
    """int64 [texts]: the index of the first text that each repeats, or -1 where it repeats none.

    A text repeats an earlier one when their shingles are alike by at least `threshold` and the earlier one is itself no
    repetition: what is kept (-1) are the firsts, and everything else is near something kept. `texts` are read once; the
    result depends on nothing but them and `threshold`, not on batches or threads. "Name a cat.", "name a CAT!", "Why?"
    gives -1 0 -1. Raises ValueError for a threshold outside (0, 1].
    """
    rows, bands = banding(threshold)
    return first_alike(list(folding.in_threads(lambda batch: _sign(batch, rows, bands), texts, threads)), threshold)


def signatures(texts: Sequence[str], threshold: float = 0.7) -> Signatures:
    """Of a batch of texts, for `first_alike` under the same threshold: the half of the work that any worker can do."""
    return _sign(texts, *banding(threshold))


def first_alike(parts: Sequence[Signatures], threshold: float = 0.7) -> np.ndarray:
    """`near_duplicates` of the texts whose signatures `parts` hold, in order."""
    if not parts:
        return np.zeros(0, np.int64)
    held = _Sketches(np.concatenate([part.sketches for part in parts]), np.concatenate([p.counts for p in parts]))
    shared = _shared_buckets(np.concatenate([part.bands for part in parts]))
    first = np.full(len(held.counts), -1, np.int64)
    kept: dict[int, list[int]] = {}     # bucket -> the firsts in it
    for text in np.flatnonzero((shared >= 0).any(1)).tolist():
        buckets = [bucket for bucket in shared[text].tolist() if bucket >= 0]
        candidates = sorted(set().union(*(kept.get(bucket, ()) for bucket in buckets)))
        first[text] = held.first_match(text, candidates, threshold)
        if first[text] < 0:
            for bucket in buckets:
                kept.setdefault(bucket, []).append(text)
    return first


@functools.cache
def banding(threshold: float) -> tuple[int, int]:
    """(rows, bands): with so many bands of so many hashes, 99 % of pairs right at `threshold` become candidates.

    The most rows that 128 hashes allow: the more, the fewer candidates that are none. Raises ValueError.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold}: a share above 0 and at most 1")
    for rows in range(16, 1, -1):
        shared = threshold ** rows
        bands = 1 if shared == 1 else math.ceil(math.log(_MISSED) / math.log1p(-shared))
        if rows * bands <= _MOST_HASHES:
            return rows, bands
    raise ValueError(f"threshold {threshold}: so low that {_MOST_HASHES} hashes miss more than 1 %; take 0.28 or more")


def _sign(texts: Sequence[str], rows: int, bands: int) -> Signatures:
    hashes, offsets = _shingles(texts)
    factors, shifts = _coefficients(rows * bands)
    keys = np.zeros((bands, len(texts)), np.uint64)
    scratch = np.empty_like(hashes)
    for i, (factor, shift) in enumerate(zip(factors, shifts)):
        np.multiply(hashes, factor, out=scratch)
        np.add(scratch, shift, out=scratch)
        smallest = np.minimum.reduceat(scratch, offsets[:-1])
        keys[i // rows] = folding.mix(keys[i // rows] ^ smallest)
    return Signatures(keys.T, *_sketch(hashes, offsets))


def _shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint32 [shingles] hashes, offsets of the texts among them); every text has at least one."""
    codes, offsets = folding.fold(texts, signs=True)
    sizes = np.diff(offsets)
    padded = np.concatenate([[0], np.cumsum(np.maximum(sizes, SHINGLE))])
    letters = np.full(padded[-1], folding.SPACE, np.uint32)
    letters[np.arange(len(codes)) + np.repeat(padded[:-1] - offsets[:-1], sizes)] = codes
    _, hashes = folding.window_hashes(letters, padded, SHINGLE)
    hashes = (hashes >> np.uint64(32)).astype(np.uint32)
    starts = padded - (SHINGLE - 1) * np.arange(len(padded))
    for text in np.flatnonzero(sizes == 0).tolist():    # nothing but signs: these count here, and are all there is
        hashes[starts[text]] = zlib.crc32(texts[text].strip().encode("utf-8", "surrogatepass"))
    return hashes, starts


def _sketch(hashes: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each text's different hashes, ascending, at most _SKETCH of them; and how many."""
    owners = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64), np.diff(offsets))
    keys = np.sort(owners << np.uint64(32) | hashes)
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(offsets) - 1)
    rank = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    return keys[rank < _SKETCH].astype(np.uint32), np.minimum(counts, _SKETCH)


@functools.cache
def _coefficients(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and shifts: x -> factor x + shift permutes the 32-bit numbers. The same in every process."""
    random = np.random.default_rng(20260731)
    factors, shifts = random.integers(0, 2**32, (2, count), np.uint32)
    return factors | np.uint32(1), shifts


def _shared_buckets(bands: np.ndarray) -> np.ndarray:
    """int64 [texts, bands]: a number for each bucket of several texts; -1 for those alone in theirs."""
    numbers = np.full(bands.shape, -1, np.int64)
    known = 0
    for band in range(bands.shape[1]):
        different, place, counts = np.unique(bands[:, band], return_inverse=True, return_counts=True)
        several = counts[place] > 1
        numbers[several, band] = known + place[several]
        known += len(different)
    return numbers


class _Sketches:
    """All texts' sketches, for comparing one text with several."""

    def __init__(self, hashes: np.ndarray, counts: np.ndarray):
        self._hashes = hashes
        self.counts = counts
        self._starts = np.cumsum(counts) - counts

    def first_match(self, text: int, candidates: list[int], threshold: float) -> int:
        """The first of `candidates` that is alike by `threshold` or more, or -1."""
        for at in range(0, len(candidates), _COMPARED):
            some = np.asarray(candidates[at:at + _COMPARED])
            matches = np.flatnonzero(self._alike(text, some) >= threshold)
            if len(matches):
                return int(some[matches[0]])
        return -1

    def _alike(self, text: int, others: np.ndarray) -> np.ndarray:
        """float64 [others]. Where a sketch is cut, both count up to the cut: an even sample of both texts' shingles."""
        mine = self._hashes[self._starts[text]:self._starts[text] + self.counts[text]]
        counts, starts = self.counts[others], self._starts[others]
        owner = np.repeat(np.arange(len(others)), counts)
        theirs = self._hashes[np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)]
        cut = np.where(counts == _SKETCH, self._hashes[starts + counts - 1], np.uint32(2**32 - 1))
        if len(mine) == _SKETCH:
            cut = np.minimum(cut, mine[-1])
        inside = theirs <= cut[owner]
        found = inside & (mine[np.minimum(np.searchsorted(mine, theirs), len(mine) - 1)] == theirs)
        shared = np.bincount(owner[found], minlength=len(others))
        either = np.searchsorted(mine, cut, "right") + np.bincount(owner[inside], minlength=len(others)) - shared
        return shared / either
