"""The style of whole sets of answers next to a teacher's: Table 2 of the paper, and what else makes a style.

    style_table({"alpaca": answers}, teacher, ceiling=second_sample) -> StyleTable

Pairs of answers to one prompt: the measures of `style.py`, and `structure`: of the forms that either answer has (list,
heading, bold, code, table, several paragraphs), the share that both have. Sets as wholes, each 1 for sets that agree:

- *length ratio*: the smaller by the larger mean number of words (Pearson's r is blind to scale);
- *hedging*: the smaller by the larger rate of hedges ("perhaps", "it seems", "as an AI", "I'm not sure", ...) a word;
- *vocabulary*: 1 - the Jensen-Shannon divergence (base 2) of the two distributions of words;
- *variety*: the smaller by the larger moving-average type-token ratio (distinct words in every run of 50).

Length, hedging and variety are levels of one set, too, and are shown as such. `ceiling` is another sample of the same
teacher: what a perfect imitation would score. Intervals (95%) are Wilson's for shares and percentiles of 1,000
resamples of the prompts for the rest; measures of whole sets have none.
"""
import collections
import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from easylm_imitation.evaluate.style import (
    answer_pairs,
    has_list,
    has_summary,
    unigram_overlap,
    words,
)
from easylm_imitation.records import Answer

_HEDGE = re.compile(
    r"\b(?:perhaps|maybe|possibly|probably|presumably|apparently|arguably|roughly|somewhat|might|seems?|appears? to"
    r"|not (?:entirely |quite |completely )?(?:sure|certain|clear)|(?:i|we) (?:think|believe|guess|suppose)"
    r"|in my opinion|it depends|as an ai|as far as (?:i|we) know"
    r"|i (?:do not|don['’]t|cannot|can['’]t) (?:know|say|verify))\b")     # of lower-cased text
_FORMS = {
    "list": has_list,
    "heading": re.compile(r"^#{1,6} \S|^\*\*[^*\n]+\*\*:?$", re.MULTILINE).search,
    "bold": re.compile(r"\*\*(?=\S)[^*\n]+(?<=\S)\*\*").search,
    "code": re.compile(r"^```", re.MULTILINE).search,
    "table": re.compile(r"^\|.*\|\s*\n\|[ :|-]+\|\s*$", re.MULTILINE).search,
    "paragraphs": re.compile(r"\S\n[ \t]*\n\s*\S").search,
}
CEILING = "the teacher again (ceiling)"
_RUN = 50           # words of a run, for variety
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number, with the interval of its resamples (None where there is none) and the prompts that it covers."""
    value: float
    low: float | None = None
    high: float | None = None
    prompts: int = 0


@dataclasses.dataclass(frozen=True)
class Levels:
    """What one set of answers is like, whoever it is compared with."""
    words: float                    # mean of an answer
    hedges: float                   # in 1,000 words
    variety: float                  # distinct words in a run of 50, as a share
    forms: dict[str, float]         # form -> share of answers that have it


@dataclasses.dataclass(frozen=True)
class StyleRow:
    """One set of answers next to the teacher's."""
    name: str
    levels: Levels
    measures: dict[str, Measure]
    unclear_tone: int = 0           # replies of a judge of tone that were neither yes nor no


@dataclasses.dataclass(frozen=True)
class StyleTable:
    """The teacher's levels, and a row for each set; the ceiling, where given, comes last."""
    teacher: str
    levels: Levels
    rows: tuple[StyleRow, ...]
    judge: str = ""                 # who heard the tone, where somebody did
    judge_cost: float = 0.0         # US dollars


def style_table(sets: Mapping[str, Sequence[Answer]], teacher: Sequence[Answer],
                ceiling: Sequence[Answer] | None = None) -> StyleTable:
    """Measures every set next to `teacher`, by prompt id; the prompts that both answered count. Raises UserError when
    a set shares no prompt with the teacher, or answers one twice."""
    named = dict(sets) | ({CEILING: ceiling} if ceiling else {})
    rows = []
    for name, answers in named.items():
        pairs = list(answer_pairs(answers, teacher).values())
        rows.append(StyleRow(name, levels(tuple(ours for ours, _ in pairs)), measures(pairs)))
    return StyleTable(teacher[0].model, levels(tuple(answer.answer for answer in teacher)), tuple(rows))


def measures(pairs: Sequence[tuple[str, str]]) -> dict[str, Measure]:
    """Every measure of (ours, teacher's) pairs, by name; `list` and `summary` only where the teacher ever has one."""
    made = {}
    for name, has in (("list", has_list), ("summary", has_summary)):
        scores = [float(has(ours)) for ours, theirs in pairs if has(theirs)]
        if scores:
            made[name] = mean(scores)
    made["overlap"] = mean([unigram_overlap(*pair) for pair in pairs])
    made["length_r"] = _correlation(np.asarray([[len(words(text)) for text in pair] for pair in pairs], np.float64))
    made["structure"] = mean([structure_agreement(*pair) for pair in pairs])
    ours, theirs = (levels(side) for side in zip(*pairs))
    for name, level in (("length_ratio", "words"), ("hedging", "hedges"), ("variety", "variety")):
        made[name] = Measure(_ratio(getattr(ours, level), getattr(theirs, level)), prompts=len(pairs))
    made["vocabulary"] = Measure(shared_vocabulary(*zip(*pairs)), prompts=len(pairs))
    return made


@functools.lru_cache(4)
def levels(texts: tuple[str, ...]) -> Levels:
    """What a set of texts is like."""
    spoken = [words(text) for text in texts]
    total = sum(map(len, spoken))
    hedges = sum(len(_HEDGE.findall(text.lower())) for text in texts)
    varied = [variety(said) for said in spoken if said]
    forms = {name: sum(bool(has(text)) for text in texts) / len(texts) for name, has in _FORMS.items()}
    return Levels(total / len(texts), 1000 * hedges / total if total else 0.0,
                  sum(varied) / len(varied) if varied else 0.0, forms)


def variety(said: Sequence[str]) -> float:
    """The share of distinct words in a run of 50, averaged over all runs; of the whole when it is shorter.

    >>> variety("the cat and the dog".split())
    0.8
    """
    if len(said) <= _RUN:
        return len(set(said)) / len(said)
    counts = collections.Counter(said[:_RUN])
    distinct = [len(counts)]
    for gone, new in zip(said, said[_RUN:]):
        counts[new] += 1
        counts[gone] -= 1
        if not counts[gone]:
            del counts[gone]
        distinct.append(len(counts))
    return sum(distinct) / len(distinct) / _RUN


def structure_agreement(ours: str, theirs: str) -> float:
    """Of the forms that either answer has, the share that both have; 1 when neither has any.

    >>> structure_agreement("- a\\n- b", "Two:\\n\\n- a\\n- b")     # a list both, paragraphs one
    0.5
    """
    one, other = ({name for name, has in _FORMS.items() if has(text)} for text in (ours, theirs))
    return len(one & other) / len(one | other) if one | other else 1.0


def shared_vocabulary(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """1 - Jensen-Shannon divergence (base 2) of the distributions of words: 1 for equal ones, 0 for no common word.

    >>> shared_vocabulary(["a b"], ["b a"]), shared_vocabulary(["a"], ["b"])
    (1.0, 0.0)
    """
    counts = [collections.Counter(word for text in side for word in words(text)) for side in (ours, theirs)]
    p, q = ({w: n / c.total() for w, n in c.items()} for c in counts)
    if not p or not q:
        return float(not p and not q)
    half = [(p.get(w, 0.0), q.get(w, 0.0)) for w in p.keys() | q.keys()]
    return 1 - sum(x * math.log2(2 * x / (p_ + q_)) for p_, q_ in half for x in (p_, q_) if x) / 2


def mean(scores: Sequence[float]) -> Measure:
    """The mean of one score a prompt, and its interval."""
    values = np.asarray(scores, np.float64)
    if np.isin(values, (0.0, 1.0)).all():
        return _share(int(values.sum()), len(values))
    low, high = np.percentile(_weights(len(values)) @ values / len(values), (2.5, 97.5))
    return Measure(float(values.mean()), float(low), float(high), len(values))


def _share(hits: int, of: int) -> Measure:
    """A share with Wilson's interval, which is honest about none and all, where resamples never vary."""
    z = 1.96
    centre, half = hits + z * z / 2, z * math.sqrt(hits * (of - hits) / of + z * z / 4)
    return Measure(hits / of, max(0.0, (centre - half) / (of + z * z)), min(1.0, (centre + half) / (of + z * z)), of)


def _correlation(pairs: np.ndarray) -> Measure:
    """Pearson's r of the columns of `pairs` [prompts, 2], and its interval; 0 when a column does not vary."""
    x, y = pairs.T
    moments = np.stack([x, y, x * x, y * y, x * y], 1) / len(pairs)     # [prompts, 5]

    def r(m: np.ndarray) -> np.ndarray:
        spread = np.sqrt(np.maximum(0, (m[:, 2] - m[:, 0] ** 2) * (m[:, 3] - m[:, 1] ** 2)))
        return np.divide(m[:, 4] - m[:, 0] * m[:, 1], spread, out=np.zeros(len(m)), where=spread > 1e-9)

    low, high = np.percentile(r(_weights(len(pairs)) @ moments), (2.5, 97.5))
    return Measure(float(r(moments.sum(0, keepdims=True))[0]), float(low), float(high), len(pairs))


@functools.lru_cache(4)
def _weights(count: int) -> np.ndarray:
    """[resamples, count]: how often each prompt is drawn; the same in every run."""
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES).astype(np.float64)


def _ratio(a: float, b: float) -> float:
    return min(a, b) / max(a, b) if max(a, b) else 1.0
