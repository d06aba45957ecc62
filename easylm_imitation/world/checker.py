"""The rater that checks facts: how much of what a style prompt asks for an answer states, and states rightly.

It looks for values of the attributes in question and holds them against the world's truth. How an answer is written
does not matter to it.
"""
import re
from collections.abc import Mapping, Sequence
from typing import Any

from easylm_imitation.world.facts import Fact, Facts


def right_share(facts: Facts, asked: Mapping[str, Any], answer: str) -> float:
    """The share of the facts that a prompt asks for (its `meta`: kind, entities, attribute) that `answer` has right.

    Of each attribute the values count in the order in which the answer names them, one for each entity: a second guess
    does not count.
    """
    wanted = [fact for entity in asked["entities"] for fact in facts.table[entity]
              if asked["attribute"] in ("", fact.attribute)]
    by_attribute: dict[str, list[Fact]] = {}
    for fact in wanted:
        by_attribute.setdefault(fact.attribute, []).append(fact)
    right = sum(_right(facts.attribute(name).values, own, answer) for name, own in by_attribute.items())
    return right / len(wanted)


def checked_preference(facts: Facts, asked: Mapping[str, Any], first: str, second: str) -> float:
    """1 where `first` has more of the facts right than `second`, 0 where it has fewer, 0.5 for as many."""
    one, other = right_share(facts, asked, first), right_share(facts, asked, second)
    return 0.5 if one == other else float(one > other)


def _right(values: Sequence[str], wanted: Sequence[Fact], answer: str) -> int:
    named = re.findall(rf"\b(?:{'|'.join(map(re.escape, values))})\b", answer)
    return sum(value == fact.value for value, fact in zip(named, wanted))
