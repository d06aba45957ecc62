"""Tasks whose texts are scored when all are there: programs in the sandbox, toxicity by a classifier (see after.py)."""
from collections.abc import Mapping, Sequence
from typing import Any


def keep_all(texts: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """All samples of each item; the harness's default keeps the first."""
    return [list(samples) for samples in texts]


def scored_later(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """A place for scores that are not known yet, under the names that such tasks give their metric."""
    return dict.fromkeys(("pass@1", "pass@10", "non_toxic", "non_toxicity"), 0.0)
