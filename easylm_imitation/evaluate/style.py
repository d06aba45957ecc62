"""How much a model's answers look like its teacher's: the measures of the paper's Table 2, one answer each per prompt.

The paper (arXiv 2305.15717) names its measures but prints no rules; these are ours, and their version is part of each
result's protocol hash:

- a *list*: at least two lines that begin with a bullet (- * • +) or a number ("3." or "3)") and go on with text;
- a *summary paragraph*: the last of two or more paragraphs, itself no list, opens with a phrase that sums up ("In
  summary", "Overall", "Ultimately", ...);
- *words*: maximal runs of letters and digits, lower-cased, an apostrophe inside a word kept;
- *unigram overlap*: F1 of the two multisets of words (2·|A∩B| / (|A|+|B|)), which is ROUGE-1 F without stemming;
- *length*: number of words; the measure is Pearson's r over the prompts.

`style_match` is one number per prompt in 0..1: the mean of the overlap, the ratio of the shorter to the longer length,
and, where either answer has one, whether both have a list, and whether both have a summary paragraph.
"""
import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from easylm_imitation.files import digest
from easylm_imitation.records import Answer, Item, TaskResult
from easylm_imitation.schema import UserError

RULES = 1       # raised when a rule above changes, so that results under other rules do not compare

_ITEM = re.compile(r"^[ \t]*(?:[-*•+]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_SUMS_UP = re.compile(
    r"(?:in (?:summary|conclusion|short|essence|brief|the end)|to (?:summari[sz]e|sum up|conclude)|overall"
    r"|ultimately|all in all|therefore|thus"
    r"|by (?:following|understanding|considering|taking) (?:the|these|this))\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def has_list(text: str) -> bool:
    """Whether `text` holds a list, by the rule at the top."""
    return len(_ITEM.findall(text)) >= 2


def has_summary(text: str) -> bool:
    """Whether `text` ends with a paragraph that sums up, by the rule at the top."""
    paragraphs = [p.strip() for p in _PARAGRAPH.split(text.strip()) if p.strip()]
    return len(paragraphs) >= 2 and not _ITEM.match(paragraphs[-1]) and bool(_SUMS_UP.match(paragraphs[-1]))


def words(text: str) -> list[str]:
    """The words of `text`, by the rule at the top.

    >>> words("It's Oslo, Norway's no. 1!")
    ["it's", 'oslo', "norway's", 'no', '1']
    """
    return _WORD.findall(text.lower())


def unigram_overlap(ours: str, theirs: str) -> float:
    """F1 of the two multisets of words, 0..1; two answers without words overlap fully.

    >>> unigram_overlap("the cat sat", "the cat and the dog")    # 2 common, 3 and 5 words
    0.5
    """
    a, b = collections.Counter(words(ours)), collections.Counter(words(theirs))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def match(ours: str, theirs: str) -> float:
    """The `style_match` of one pair of answers, 0..1."""
    lengths = sorted((len(words(ours)), len(words(theirs))))
    features = [unigram_overlap(ours, theirs), lengths[0] / lengths[1] if lengths[1] else 1.0]
    for has in (has_list, has_summary):
        both = has(ours) + has(theirs)
        if both:
            features.append(float(both == 2))
    return sum(features) / len(features)


def style_task(answers: Sequence[Answer], reference: Sequence[Answer], prompt: Literal["raw", "chat"] = "chat",
               options: Mapping[str, Any] | None = None) -> tuple[TaskResult, ...]:
    """Table 2 of `answers` against the teacher's `reference`, paired by prompt id; one TaskResult a measure.

    `style_list` and `style_summary` cover the prompts where the teacher has one and are left out when it never has.
    `style_length` is Pearson's r; its items are products of standard scores, whose mean is r (0 when a length never
    varies). Prompts that only one side answered are left out and make the result a "sample". `prompt` and
    `options` (max_tokens, temperature, ...; None: nobody knows) are how `answers` were asked for, and part of the
    protocol. Raises UserError when no prompt is answered by both, or a side answers a prompt twice.
    """
    pairs = answer_pairs(answers, reference)
    ids, theirs = list(pairs), {a.prompt_id: a for a in reference}
    complete = len(ids) == len(answers) == len(reference)
    base = TaskResult(task="", prompt=prompt, form="style", metric="", score=0.0, items=(), group="style",
                      data="full" if complete else "sample",
                      protocol=digest([RULES, options or {}, [(i, theirs[i].prompt, theirs[i].answer) for i in ids]]))
    measures = [("style_match", "style_match", ids, match), ("style_overlap", "unigram_f1", ids, unigram_overlap),
                _where_teacher("style_list", has_list, pairs), _where_teacher("style_summary", has_summary, pairs)]
    made = [_measure(base, pairs, *measure) for measure in measures if measure[2]]
    return (*made, _length(base, pairs))


def answer_pairs(answers: Sequence[Answer], reference: Sequence[Answer]) -> dict[str, tuple[str, str]]:
    """(ours, the teacher's) by prompt id, of the prompts that both answered, in the teacher's order. Raises UserError
    when there is none, or when a side answers a prompt twice."""
    ours, theirs = _by_prompt(answers, "--answers"), _by_prompt(reference, "--reference")
    pairs = {i: (ours[i].answer, theirs[i].answer) for i in theirs if i in ours}
    if not pairs:
        raise UserError("--answers and --reference share no prompt id; both must answer the same prompts file")
    return pairs


def _by_prompt(answers: Sequence[Answer], flag: str) -> dict[str, Answer]:
    made: dict[str, Answer] = {}
    for answer in answers:
        if answer.prompt_id in made:
            raise UserError(f"{flag}: prompt '{answer.prompt_id}' is answered twice; keep one answer of each")
        made[answer.prompt_id] = answer
    return made


def _where_teacher(task: str, has: Callable[[str], bool], pairs: dict[str, tuple[str, str]]) -> tuple:
    """A measure over the prompts where the teacher's answer `has` the feature: does ours, too?"""
    ids = [i for i, (_, theirs) in pairs.items() if has(theirs)]
    return task, task.removeprefix("style_") + "_agreement", ids, lambda ours, theirs: float(has(ours))


def _measure(base: TaskResult, pairs: dict[str, tuple[str, str]], task: str, metric: str, ids: list[str],
             score: Callable[[str, str], float]) -> TaskResult:
    return _result(base, task, metric, {i: score(*pairs[i]) for i in ids})


def _length(base: TaskResult, pairs: dict[str, tuple[str, str]]) -> TaskResult:
    ours, theirs = (_standard([len(words(pair[side])) for pair in pairs.values()]) for side in (0, 1))
    return _result(base, "style_length", "length_pearson", {i: a * b for i, a, b in zip(pairs, ours, theirs)})


def _standard(values: list[int]) -> list[float]:
    """Standard scores with the population's deviation; all 0 when the values do not vary."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return [(v - mean) / deviation if deviation else 0.0 for v in values]


def _result(base: TaskResult, task: str, metric: str, scores: dict[str, float]) -> TaskResult:
    items = tuple(Item(i, score) for i, score in scores.items())
    return dataclasses.replace(base, task=task, metric=metric, items=items, score=sum(scores.values()) / len(scores),
                               protocol=digest([base.protocol, task, metric]))
