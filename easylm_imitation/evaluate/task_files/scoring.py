"""Scoring that task files name with `!function`, where the harness's own metrics are not the published ones."""
import collections
import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ALONE = re.compile(r"(?<![A-Za-z'’])\(?([A-Z])\)?(?![A-Za-z'’])")
_BEGUN = re.compile(r"[\s*]*\(?(?P<letter>[A-Z](?=[).:,*]|\s*$|\s*\n|\s+is\b)|[B-HJ-Z]\b(?!['’]))")
_STATED = re.compile(r"answer\s*(?:is|:)[\s:*]*(?:(?:option|choice)\s+)?[*(]*([A-Z])(?![A-Za-z'’])", re.IGNORECASE)


def normal_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no articles, single spaces.

    >>> normal_answer(" The  U.S. of A.")
    'us of'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def nq_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1.0 when the generated text equals any of the item's answers in normal form."""
    return {"exact_match": float(normal_answer(results[0]) in {normal_answer(gold) for gold in doc["answer"]})}


def squad_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """SQuAD's F1 of words and exact match, the best over the item's answers, both 0 to 1."""
    said = normal_answer(results[0])
    golds = [normal_answer(gold) for gold in doc["answer"]]
    return {"f1": max(_f1(said.split(), gold.split()) for gold in golds), "exact_match": float(said in golds)}


def _f1(said: list[str], gold: list[str]) -> float:
    shared = sum((collections.Counter(said) & collections.Counter(gold)).values())
    return 2 * shared / (len(said) + len(gold)) if shared else 0.0


def true_mass(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """The share of the options' probability that falls to the right ones (`right` of them, which stand first)."""
    highest = max(likelihood for likelihood, _ in results)
    masses = [math.exp(likelihood - highest) for likelihood, _ in results]
    return {"acc": sum(masses[:doc["right"]]) / sum(masses)}


def chosen_letter(text: str, letters: str) -> str:
    """The option that an answer chooses: one it begins with, else one it states, else the last that stands alone; "".

    A lone "A" counts as an article, and "I" as the speaker, unless the text begins with it or puts it in brackets.

    >>> chosen_letter("(B) is right, not A.", "ABCD"), chosen_letter("As I see it, the answer is **C**.", "ABCD")
    ('B', 'C')
    """
    begun = _BEGUN.match(text)
    stated = [s for s in _STATED.findall(text) if s in letters]
    if begun and begun.group("letter") in letters:
        return begun.group("letter")
    if stated:
        return stated[-1]
    alone = [m.group(1) for m in _ALONE.finditer(text) if m.group(1) not in "AI" or set("()") & set(m.group())]
    return next((letter for letter in reversed(alone) if letter in letters), "")


def letter_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1.0 when the text chooses the item's letter (`answer`, of `letters`)."""
    return {"exact_match": float(chosen_letter(results[0], doc["letters"]) == doc["answer"])}


def option_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The same for choices that are asked for in words (`answer_letter`, of `letters`)."""
    return {"exact_match": float(chosen_letter(results[0], doc["letters"]) == doc["answer_letter"])}


def letter_match_published(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """AGIEval's own rule: the first of the capitals A to F in the text."""
    return {"exact_match": float(next((c for c in results[0] if c in "ABCDEF"), "") == doc["answer"])}
