"""Models that give one answer whatever is asked: their score is how often that answer is right, not what they know."""
import collections
from collections.abc import Iterator, Sequence

from easylm_imitation.records import Item
from easylm_imitation.report.compare import benchmark_of
from easylm_imitation.report.pairing import Measured

_MOST = 0.8         # the share of items from which an answer counts as the only one
_FEWEST = 20        # items below which nothing is said
_TARGETS = 10       # right answers that there are at most, where choosing is all that is asked


def one_answer(models: Sequence[Measured]) -> Iterator[str]:
    """A sentence for each benchmark and prompt form in which some models hardly choose."""
    found: dict[tuple[str, str], list[str]] = {}
    for model in models:
        asked: dict[tuple[str, str], list[Item]] = {}
        for task in model.tasks:
            if task.form in ("choices", "generation"):
                asked.setdefault((benchmark_of(task.task), task.prompt), []).extend(task.items)
        for key, items in asked.items():
            if told := _told(items):
                found.setdefault(key, []).append(f"{model.lineage.name} answers {told}")
    for (task, prompt), told in found.items():
        yield (f"{task} ({prompt}): {'; '.join(told)}. A score there is how often that answer happens to be right, and "
               "a change is a change of habit.")


def _told(items: Sequence[Item]) -> str:
    """What is nearly always answered though other answers are right; "" where there is nothing to tell."""
    targets = collections.Counter(item.target for item in items)
    answers = collections.Counter(item.prediction for item in items)
    if len(items) < _FEWEST or not 1 < len(targets) <= _TARGETS or not all(targets) or not all(answers):
        return ""
    (answer, count), = answers.most_common(1)
    if count < _MOST * len(items) or targets.most_common(1)[0][1] >= _MOST * len(items):
        return ""
    return f"{answer} to {count} of {len(items)}"
