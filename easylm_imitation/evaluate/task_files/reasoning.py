"""Answers at the end of reasoning, of GSM8K and BIG-Bench Hard: by the published rules, and with faults mended."""
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

_COMMA = re.compile(r"(\d),(\d)")
_NUMBER = re.compile(r"(?:(?<![\w.)])-\$?)?(?:\d+(?:\.\d+)?|\.\d+)")     # the minus of "5-3" is none of the 3
_PUBLISHED_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")
_PUBLISHED_ANSWER = re.compile(r"So the answer is (.*?)\.")
_ANSWER = re.compile(r"the answer is:?[ \t]+(.*?)(?:\.(?=\s|$)|\n|$)", re.IGNORECASE)
_OPTION = re.compile(r"\(?([A-R])\)(?!\W*(?:or|and)?\W*[A-R]\))")      # "(A) or (B)" chooses none
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_MARKS = " *`\"'$"


def last_number(text: str) -> float | None:
    """The last number of a text, with its sign, thousands' commas or not; None without one.

    >>> last_number("10 - 12 = -2, or $-1,250.50."), last_number("of 5-3 take")
    (-1250.5, 3.0)
    """
    found = _NUMBER.findall(_without_commas(text))
    return float(found[-1].replace("$", "")) if found else None


def gsm8k_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1.0 when the last number of the text equals the item's answer as a number."""
    said = last_number(results[0])
    return {"exact_match": float(said is not None and said == float(doc["answer"]))}


def gsm8k_match_published(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Tülu's rule. Its faults: an integer loses its minus sign, and "1.5" equals "15"."""
    found = _PUBLISHED_NUMBER.findall(_without_commas(results[0]))
    return {"exact_match": float(_bare(found[-1] if found else results[0]) == _bare(doc["answer"]))}


def bbh_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1.0 when what follows the first "the answer is" (else the whole text) equals the target.

    Case and punctuation do not count, but for items marked `strict`, whose answers are brackets or signed numbers. Of
    an option the letter is enough, and the prompt's own "A:" is no part of an answer: in chat one is "A: (B) two".
    """
    text = results[0].partition("\n\nQ:")[0].strip().removeprefix("A:").strip()
    stated = _ANSWER.search(text)
    said, target = (stated.group(1) if stated else text).strip(_MARKS), doc["target"]
    option = _OPTION.match(said)
    if option and _OPTION.fullmatch(target):
        return {"exact_match": float(option.group(1) == target.strip("()"))}
    normal = _spaced if doc["strict"] else _bare
    return {"exact_match": float(normal(said) == normal(target))}


def bbh_match_published(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Tülu's rule: the text before its first blank line; equal but for case and punctuation."""
    text = results[0].strip().split("\n\n")[0].strip()
    stated = _PUBLISHED_ANSWER.search(text)
    return {"exact_match": float(_bare((stated.group(1) if stated else text).strip()) == _bare(doc["target"]))}


def _without_commas(text: str) -> str:
    return _COMMA.sub(r"\1\2", text)


def _bare(text: str) -> str:
    """Lower case without ASCII punctuation: how the published rules compare."""
    return text.lower().translate(_PUNCTUATION)


def _spaced(text: str) -> str:
    return " ".join(text.removesuffix(".").split())
