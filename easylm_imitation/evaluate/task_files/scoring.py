"""Scoring that task files name with `!function`, where the harness's own metrics are not the published ones."""
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no articles, single spaces.

    >>> normal_answer(" The  U.S. of A.")
    'us of'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def nq_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1.0 when the generated text equals any of the item's answers in normal form."""
    return {"exact_match": float(normal_answer(results[0]) in {normal_answer(gold) for gold in doc["answer"]})}
