"""How much a set of queries repeats itself, and held-out prompts that are too near to it: BLEU to the nearest query.

The False Promise paper (section 3) calls a set diverse by the mean BLEU of each query to its nearest other query: 8 %
for ShareGPT-Mix, 61 % for SuperNI. It and Koala leave out evaluation prompts of more than 20 % to any training query.
Neither names an implementation; this is sacrebleu's sentence BLEU (13a tokens, case kept, effective order, exponential
smoothing; Post 2018), the query as hypothesis. Nothing is approximated: a query's n-grams are looked up in an inverted
index of all others, so its BLEU to all of them comes out at once. What costs too much for all is measured on a sample.
"""
import dataclasses
import html
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from easylm_imitation.data.folding import window_hashes
from easylm_imitation.data.overlap_index import ranges
from easylm_imitation.data.pool import chunks

_ORDERS = 4
_CHUNK = 10_000     # references indexed at a time
_SYMBOLS = re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])")
_STOP_AFTER = re.compile(r"([^0-9])([\.,])")
_STOP_BEFORE = re.compile(r"([\.,])([^0-9])")
_DASH = re.compile(r"([0-9])(-)")


@dataclasses.dataclass(frozen=True)
class Diversity:
    """`mean` of the BLEU of a query to its nearest other query, in [0, 1]; `error` its standard error over the sample;
    `worst` pairs (query, other, BLEU), the most alike first."""
    mean: float
    error: float
    queries: int
    sampled: int
    worst: tuple[tuple[int, int, float], ...] = ()


def query_diversity(queries: Sequence[str], sample: int | None = 1000, seed: int = 0, worst: int = 10) -> Diversity:
    """Measures `sample` queries, drawn by `seed` (None: all of them), each against all others. Raises ValueError for
    fewer than two queries. "a b c d", "a b c d", "x y" gives the mean of 1, 1 and 0."""
    if len(queries) < 2:
        raise ValueError(f"{len(queries)} queries; diversity needs at least two")
    count = len(queries) if sample is None else min(sample, len(queries))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(queries))[:count])
    asked = [queries[i] for i in drawn]
    scores, nearest = BleuIndex(queries, only=asked).nearest(asked, leave_out=drawn)
    order = np.argsort(-scores, kind="stable")[:worst]
    error = float(scores.std(ddof=1) / math.sqrt(count)) if count > 1 else math.inf
    return Diversity(float(scores.mean()), 0.0 if count == len(queries) else error, len(queries), count,
                     tuple((int(drawn[i]), int(nearest[i]), float(scores[i])) for i in order))


def held_out_nearness(prompts: Sequence[str], queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(BLEU of each prompt to its nearest training query, float64 [prompts]; that query's index, -1 where they share no
    word). The paper keeps prompts with at most 0.2."""
    return BleuIndex(queries, only=prompts).nearest(prompts)


class BleuIndex:
    """References by their n-grams, n = 1 to 4, to be asked for the nearest one. Takes some 12 bytes for each n-gram of
    each reference; with `only`, the texts that it will be asked about, for those alone that one of these has too."""

    def __init__(self, references: Iterable[str], only: Sequence[str] | None = None):
        self._numbers: dict[str, int] = {}
        asked = None if only is None else [_ids(tokens_13a(text), self._numbers) for text in only]
        wanted = [None if asked is None else _hashes(asked, n)[1] for n in range(1, _ORDERS + 1)]
        orders: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in wanted]
        sizes: list[int] = []
        for chunk in chunks(references, _CHUNK):
            words = [tokens_13a(text) for text in chunk]
            ids = [_ids(own, self._numbers) if only is None else _known(own, self._numbers) for own in words]
            for n, (found, allowed) in enumerate(zip(orders, wanted), 1):
                owners, hashes = _hashes(ids, n)
                kept = slice(None) if allowed is None else np.isin(hashes, allowed)
                found.append(((owners[kept] + len(sizes)).astype(np.int32), hashes[kept]))
            sizes += map(len, words)
        self._lengths = np.asarray(sizes, np.int64)
        self._orders = [_Grams(*map(np.concatenate, zip(*found)), n) if found else _Grams(
            np.zeros(0, np.int32), np.zeros(0, np.uint64), n) for n, found in enumerate(orders, 1)]

    def nearest(self, hypotheses: Sequence[str], leave_out: Sequence[int] | np.ndarray | None = None
                ) -> tuple[np.ndarray, np.ndarray]:
        """(highest BLEU of each hypothesis to any reference, the first such reference or -1); a hypothesis skips the
        reference numbered `leave_out[i]`, itself."""
        found = [self._nearest(text, None if leave_out is None else int(leave_out[i]))
                 for i, text in enumerate(hypotheses)]
        return np.asarray([score for score, _ in found]), np.asarray([index for _, index in found], np.int64)

    def _nearest(self, text: str, skipped: int | None) -> tuple[float, int]:
        ids = _known(tokens_13a(text), self._numbers)
        matches = np.stack([order.matches(ids, len(self._lengths)) for order in self._orders])
        if skipped is not None:
            matches[:, skipped] = 0
        candidates = np.flatnonzero(matches[0])
        if not len(candidates):
            return 0.0, -1
        scores = _bleu(matches[:, candidates], len(ids), self._lengths[candidates])
        best = int(scores.argmax())
        return float(scores[best]), int(candidates[best])


def _ids(words: list[str], numbers: dict[str, int]) -> np.ndarray:
    """int64 [words]; new words get the next numbers."""
    return np.asarray([numbers.setdefault(word, len(numbers)) for word in words], np.int64)


def _known(words: list[str], numbers: dict[str, int]) -> np.ndarray:
    """int64 [words]; an unknown one is -1, -2, ...: like no other of its text."""
    return np.asarray([numbers.get(word, -1 - i) for i, word in enumerate(words)], np.int64)


def _hashes(texts: list[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """(number of the text, hash) of each n-gram of each text."""
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in texts])]).astype(np.int64)
    places, hashes = window_hashes(np.concatenate([np.zeros(0, np.int64), *texts]), offsets, n)
    return np.searchsorted(offsets, places, "right") - 1, hashes


class _Grams:
    """The n-grams of all references, by hash; and how often each reference has each."""

    def __init__(self, owners: np.ndarray, hashes: np.ndarray, n: int):
        self._n = n
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        new = np.concatenate([np.ones(min(1, len(order)), bool),
                              (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])])
        starts = np.flatnonzero(new)
        self._owners, self._counts = owners[starts], np.diff(starts, append=len(order)).astype(np.int32)
        self._hashes = hashes[starts]

    def matches(self, ids: np.ndarray, references: int) -> np.ndarray:
        """float64 [references]: n-grams of `ids` that each reference has too, clipped to how often."""
        _, hashes = window_hashes(ids, np.asarray([0, len(ids)]), self._n)
        hashes, wanted = np.unique(hashes, return_counts=True)
        first, last = np.searchsorted(self._hashes, hashes), np.searchsorted(self._hashes, hashes, "right")
        held = ranges(first, last - first)
        common = np.minimum(self._counts[held], np.repeat(wanted, last - first))
        return np.bincount(self._owners[held], common, references)


def tokens_13a(text: str) -> list[str]:
    """Tokens of mteval-v13a.pl, as sacrebleu reads it: signs are tokens, a number keeps its points and commas."""
    line = html.unescape(text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " "))
    line = _SYMBOLS.sub(r" \1 ", f" {line} ")
    line = _STOP_BEFORE.sub(r" \1 \2", _STOP_AFTER.sub(r"\1 \2 ", line))
    return _DASH.sub(r"\1 \2 ", line).split()


def _bleu(matches: np.ndarray, length: int, references: np.ndarray) -> np.ndarray:
    """BLEU of a hypothesis of `length` tokens with `matches` [orders, references] clipped n-grams in common.

    Orders longer than the hypothesis do not count; the k-th order without a match counts 1 / (2^k n-grams).
    """
    orders = min(_ORDERS, length)
    totals = length - np.arange(orders)
    common = matches[:orders]
    empty = common == 0
    smoothed = np.where(empty, 0.5 ** np.cumsum(empty, 0), common)
    logs = np.log(smoothed / totals[:, None]).mean(0)
    return np.minimum(1.0, np.exp(np.minimum(0.0, 1 - references / length) + logs))
