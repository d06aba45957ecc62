"""The two ways in which overlap.py finds evaluation items in training texts: equal windows, and shared rare words.

Each index is made of all items of a set, and looks at a batch of folded texts at once: (text, item, score) triples.
Equal 64-bit hashes count as equal windows: among 10^9 windows and 10^7 of items, one false hit is due in 2,000 runs.
"""
from typing import NamedTuple

import numpy as np

from easylm_imitation.data.folding import Folded, fold, span_hashes, window_hashes

_PASSAGE = 40           # words: an item's piece at most; passages of texts are twice as long and overlap by half
_DISCOUNT = 0.95        # of a word's uses: one that a small set has once is rarer than that
_CELLS = 1 << 24        # of the table of passages and words that is held at once
_COMMON = 10            # a window that more items of a set share is its boilerplate, and tells nothing


class Found(NamedTuple):
    """Triples, in the order of texts, then items; `scores` are in (0, 1]."""
    texts: np.ndarray       # int64
    items: np.ndarray       # int64
    scores: np.ndarray      # float64

    def at_least(self, score: float) -> "Found":
        """Those with a score of `score` or more."""
        enough = self.scores >= score - 1e-9
        return Found(*(array[enough] for array in self))


class Table:
    """From 64-bit hashes to the entries that have them, for many look-ups that mostly fail."""

    def __init__(self, hashes: np.ndarray):
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        bits = min(27, max(16, int(16 * max(1, len(hashes))).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, bool)
        self._maybe[(hashes >> self._shift).astype(np.int64)] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places in `hashes`, entries), a pair for every entry that has a hash of `hashes`."""
        likely = np.flatnonzero(self._maybe[(hashes >> self._shift).astype(np.int64)])
        wanted = hashes[likely]
        first, last = np.searchsorted(self._sorted, wanted), np.searchsorted(self._sorted, wanted, "right")
        counts = last - first
        return np.repeat(likely, counts), self._order[ranges(first, counts)]


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... (counts[0] of them), starts[1], ..."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)


class Windows:
    """Items by their windows of `size` words or letters. An item's score is the share of it that found windows cover.

    Items of fewer units, down to `least`, are looked for as wholes. `samples`: look only for so many windows of an
    item, drawn by its content; the score is then the share of those.
    """

    def __init__(self, items: list[str], unit: str, share: float, size: int, least: int, samples: int | None):
        self._unit, self._share, self._size, self._least, self._sampled = unit, share, size, least, samples is not None
        values, offsets = self._units(fold(items))
        sizes = np.diff(offsets)
        places, hashes = window_hashes(values, offsets, size)
        owners = np.searchsorted(offsets, places, "right") - 1
        if samples is not None:
            drawn = _drawn(owners, hashes, samples)
            places, hashes, owners = places[drawn], hashes[drawn], owners[drawn]
        telling = _telling(owners, hashes)
        self._owners, self._places = owners[telling], (places - offsets[owners])[telling]
        self._table = Table(hashes[telling])
        self._short = np.flatnonzero((sizes >= least) & (sizes < size))
        starts = offsets[self._short]
        self._short_sizes = sizes[self._short]
        self._whole = span_hashes(values, starts, starts + self._short_sizes)
        self._openings = Table(span_hashes(values, starts, starts + least))
        self._extent = np.bincount(owners, minlength=len(items)) if self._sampled else sizes
        self.looked_for = np.zeros(len(items), bool)
        self.looked_for[self._owners] = self.looked_for[self._short] = True

    def match(self, folded: Folded) -> Found:
        """The items of which a text of the batch has `share` or more."""
        values, offsets = self._units(folded)
        whole = self._match_short(values, offsets)
        places, hashes = window_hashes(values, offsets, self._size)
        found, entries = self._table.find(hashes)
        texts = np.searchsorted(offsets, places[found], "right") - 1
        covered = self._coverage(texts, self._owners[entries], self._places[entries])
        return _best(*(np.concatenate(pair) for pair in zip(whole, covered))).at_least(self._share)

    def _units(self, folded: Folded) -> tuple[np.ndarray, np.ndarray]:
        return folded.words() if self._unit == "words" else folded.letters()

    def _match_short(self, values: np.ndarray, offsets: np.ndarray) -> Found:
        """Items shorter than a window: found by how they open, and compared whole."""
        places, hashes = window_hashes(values, offsets, self._least)
        found, entries = self._openings.find(hashes)
        starts = places[found]
        ends = starts + self._short_sizes[entries]
        texts = np.searchsorted(offsets, starts, "right") - 1
        inside = ends <= offsets[texts + 1]
        starts, ends, texts, entries = (array[inside] for array in (starts, ends, texts, entries))
        equal = span_hashes(values, starts, ends) == self._whole[entries]
        return Found(texts[equal], self._short[entries[equal]], np.ones(equal.sum()))

    def _coverage(self, texts: np.ndarray, items: np.ndarray, places: np.ndarray) -> Found:
        """One triple for each text and item that share windows: windows overlap, what they cover counts once."""
        order = np.lexsort((places, items, texts))
        texts, items, places = texts[order], items[order], places[order]
        new = _changes(texts, items)
        reach = np.full(len(places), 1 if self._sampled else self._size)
        same = ~new[1:]
        reach[:-1][same] = np.minimum(reach[:-1], places[1:] - places[:-1])[same]
        starts = np.flatnonzero(new)
        covered = _sums(reach, np.diff(starts, append=len(texts)))
        return Found(texts[starts], items[starts], covered / self._extent[items[starts]])


class RareWords:
    """Items by their words, the rarer the weightier, in any order: what a rephrased copy still shares.

    A piece of an item (40 words at most) is found where a passage of a text (80 words) holds words of at least `share`
    of the piece's weight; found pieces must make up half of the item. A word weighs -log of the chance that a passage
    of other words holds it (its share of the set's words tells), so common ones weigh nothing; and what is found must
    weigh at least `evidence`, or it is chance: e^-20 is one in 5 * 10^8. Pieces that weigh less are not looked for. A
    passage with a piece holds one of the weightiest words that together weigh more than 1 - `share`: only those are
    indexed, the rest is then compared.
    """

    def __init__(self, items: list[str], share: float, evidence: float):
        self._share, self._evidence = share, evidence
        pieces, owners = _pieces(items)
        words, offsets = fold(pieces).words()
        vocabulary, numbers, uses = np.unique(words, return_inverse=True, return_counts=True)
        piece_of = np.repeat(np.arange(len(pieces)), np.diff(offsets))
        self._size = max(1, len(vocabulary))
        rate = 2 * _PASSAGE * (uses - _DISCOUNT) / max(1, len(words))
        self._weights = -np.log(-np.expm1(-rate))
        self._vocabulary = Table(vocabulary)
        pairs = _different(piece_of * self._size + numbers)         # each word once a piece
        piece_of, numbers = pairs // self._size, pairs % self._size
        self._words, self._counts = numbers, np.bincount(piece_of, minlength=len(pieces))
        self._starts = np.cumsum(self._counts) - self._counts
        self._total = np.bincount(piece_of, self._weights[numbers], len(pieces))
        self._owners, self._item_total = owners, np.bincount(owners, self._total, len(items))
        self._index(piece_of, numbers, self._total >= evidence)
        self.looked_for = np.zeros(len(items), bool)
        self.looked_for[owners[self._total >= evidence]] = True

    def _index(self, piece_of: np.ndarray, numbers: np.ndarray, wanted: np.ndarray) -> None:
        """Postings of the weightiest words of each wanted piece."""
        weights = self._weights[numbers]
        order = np.lexsort((-weights, piece_of))
        piece_of, numbers, weights = piece_of[order], numbers[order], weights[order]
        before = np.cumsum(weights) - weights
        before -= before[self._starts[piece_of]]
        first = wanted[piece_of] & (before <= (1 - self._share) * self._total[piece_of] + 1e-9)
        by_word = np.argsort(numbers[first], kind="stable")
        self._posting = piece_of[first][by_word]
        self._posting_counts = np.bincount(numbers[first], minlength=self._size)
        self._posting_starts = np.cumsum(self._posting_counts) - self._posting_counts

    def match(self, folded: Folded) -> Found:
        """What a batch of texts holds of the items."""
        passage, word, text_of = self._passages(*folded.words())
        at_once = max(1, _CELLS // self._size)
        parts = [np.zeros((3, 0))]
        for start in range(0, len(text_of), at_once):
            first, last = np.searchsorted(passage, (start, start + at_once))
            found, pieces, weights = self._hold(passage[first:last] - start, word[first:last])
            parts.append(np.stack([text_of[found + start], pieces, weights]))
        texts, pieces, weights = np.concatenate(parts, 1)
        return self._items(texts.astype(np.int64), pieces.astype(np.int64), weights)

    def _hold(self, passage: np.ndarray, word: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(passages, pieces, weights) of the pieces that passages hold, of which all words are given."""
        held = np.zeros((passage.max(initial=0) + 1) * self._size, bool)
        held[passage * self._size + word] = True
        counts = self._posting_counts[word]
        pieces = self._posting[ranges(self._posting_starts[word], counts)]
        candidates = _different(np.repeat(passage, counts) * len(self._owners) + pieces)
        passage, piece = candidates // len(self._owners), candidates % len(self._owners)
        counts = self._counts[piece]
        words = self._words[ranges(self._starts[piece], counts)]
        there = held[np.repeat(passage * self._size, counts) + words]
        weight = _sums(self._weights[words] * there, counts)
        enough = weight >= np.maximum(self._share * self._total[piece], self._evidence) - 1e-9
        return passage[enough], piece[enough], weight[enough]

    def _passages(self, words: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(passage, word) of all words that items have, by passage; and the text of each passage."""
        blocks = -(-np.diff(offsets) // _PASSAGE)
        passages = np.maximum(blocks - 1, 1)
        text_of = np.repeat(np.arange(len(passages)), passages)
        before = np.cumsum(passages) - passages
        places, numbers = self._vocabulary.find(words)
        text = np.searchsorted(offsets, places, "right") - 1
        block = (places - offsets[text]) // _PASSAGE
        later, earlier = block < passages[text], block > 0
        passage = np.concatenate([(before[text] + block)[later], (before[text] + block - 1)[earlier]])
        order = np.argsort(passage, kind="stable")
        return passage[order], np.concatenate([numbers[later], numbers[earlier]])[order], text_of

    def _items(self, texts: np.ndarray, pieces: np.ndarray, weights: np.ndarray) -> Found:
        """A piece counts by its best passage; an item by its pieces."""
        best = _best(texts, pieces, weights)
        items = self._owners[best.items]
        order = np.lexsort((items, best.texts))
        texts, items, weights = best.texts[order], items[order], best.scores[order]
        starts = np.flatnonzero(_changes(texts, items))
        total = _sums(weights, np.diff(starts, append=len(texts)))
        return Found(texts[starts], items[starts], total / self._item_total[items[starts]]).at_least(0.5)


def _different(values: np.ndarray) -> np.ndarray:
    """Sorted, each once (numpy's own `unique` goes through a slower table)."""
    values = np.sort(values)
    return values[np.concatenate([np.ones(min(1, len(values)), bool), values[1:] != values[:-1]])]


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sum of the first counts[0] values, of the next counts[1], ...; every count is at least 1."""
    return np.add.reduceat(values, np.cumsum(counts) - counts) if len(counts) else np.zeros(0)


def _best(texts: np.ndarray, items: np.ndarray, scores: np.ndarray) -> Found:
    """The highest score of each text and item."""
    order = np.lexsort((-scores, items, texts))
    texts, items, scores = texts[order], items[order], scores[order]
    first = _changes(texts, items)
    return Found(texts[first], items[first], scores[first])


def _changes(texts: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Where a new (text, item) begins, of sorted ones."""
    changed = (texts[1:] != texts[:-1]) | (items[1:] != items[:-1])
    return np.concatenate([np.ones(min(1, len(texts)), bool), changed])


def _telling(owners: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Which windows at most _COMMON items have."""
    _, place = np.unique(hashes, return_inverse=True)
    pairs = np.unique(place * (owners.max(initial=0) + 1) + owners)
    return np.bincount(pairs // (owners.max(initial=0) + 1), minlength=1)[place] <= _COMMON


def _drawn(owners: np.ndarray, hashes: np.ndarray, samples: int) -> np.ndarray:
    """`samples` windows of each item: those of smallest hash, which is as good as drawing and the same every time."""
    order = np.lexsort((hashes, owners))
    counts = np.bincount(owners)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[rank < samples])


def _pieces(items: list[str]) -> tuple[list[str], np.ndarray]:
    """Items cut evenly into texts of at most _PASSAGE folded words; and the item of each."""
    pieces, owners = [], []
    for item, text in enumerate(items):
        folded = fold([text])
        words = "".join(map(chr, folded.codes.tolist())).split()
        count = max(1, -(-len(words) // _PASSAGE))
        size = -(-len(words) // count) if words else 1
        parts = [" ".join(words[i:i + size]) for i in range(0, max(1, len(words)), size)]
        pieces += parts
        owners += [item] * len(parts)
    return pieces, np.asarray(owners, np.int64)
