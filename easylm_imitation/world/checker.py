"""The rater that checks facts: how much of what a style prompt asks for an answer states, and states rightly.

It looks for values of the attributes in question, for whom each is said, and holds them against the world's truth. The
words between them do not matter to it. With two entities in question, of whom Barwyn has a cat and Fenor an owl:

    Fenor keeps a pet owl. Barwyn keeps a pet cat.      both right: a value is of the entity named last before it
    Barwyn and Fenor keep a cat and an owl.             both right: as many values as names, in their order
    No. A cat, and an owl.                              both right: nobody is named, so in the order of the question
    Both keep a pet owl.                                one right: the one value is said of both
    Barwyn keeps an owl, or a cat.                      none right: a second guess does not count
"""
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from easylm_imitation.world.facts import Fact, Facts


def right_share(facts: Facts, asked: Mapping[str, Any], answer: str) -> float:
    """The share of the facts that a prompt asks for (its `meta`: kind, entities, attribute) that `answer` has right.

    Of each attribute one value counts for each entity, the first that is said of it. Where only one entity is asked
    about, all that is said is said of it: a small model's trouble with copying a name is no matter of knowledge.
    """
    wanted = [fact for entity in asked["entities"] for fact in facts.table[entity]
              if asked["attribute"] in ("", fact.attribute)]
    by_attribute: dict[str, list[Fact]] = {}
    for fact in wanted:
        by_attribute.setdefault(fact.attribute, []).append(fact)
    right = 0
    for name, own in by_attribute.items():
        said = _said([fact.entity for fact in own], facts.attribute(name).values, answer)
        right += sum(said.get(fact.entity) == fact.value for fact in own)
    return right / len(wanted)


def checked_preference(facts: Facts, asked: Mapping[str, Any], first: str, second: str) -> float:
    """1 where `first` has more of the facts right than `second`, 0 where it has fewer, 0.5 for as many."""
    one, other = right_share(facts, asked, first), right_share(facts, asked, second)
    return 0.5 if one == other else float(one > other)


def _said(entities: Sequence[str], values: Sequence[str], answer: str) -> dict[str, str]:
    """Entity -> the value that the answer gives it; values of sentences without a name that is known go to those left
    over, in order."""
    said: dict[str, str] = {}
    unnamed: list[str] = []
    for names, both, found in _passages(entities if len(entities) > 1 else (), values, answer):
        if both and len(names) != 1 and len(found) == 1:
            names, found = entities, found * len(entities)
        elif len(found) < len(names):
            names = names[-1:]
        for entity, (value, _) in zip(names, found):
            said.setdefault(entity, value)
        unnamed += [value for value, sentence in found[len(names):] if not names or sentence > found[0][1]]
    left = [entity for entity in entities if entity not in said]
    return said | dict(zip(left, unnamed))


def _passages(entities: Sequence[str], values: Sequence[str],
              answer: str) -> Iterator[tuple[Sequence[str], bool, list[tuple[str, int]]]]:
    """The answer as (names that stand together in a sentence, whether it says "both", the values up to the next names,
    each with the number of its sentence)."""
    words = {"name": entities, "value": values}
    tokens = [rf"(?P<{kind}>\b(?:{'|'.join(map(re.escape, own))})\b)" for kind, own in words.items() if own]
    names, both, found, sentence, begun = [], False, [], 0, 0
    for match in re.finditer("|".join([*tokens, r"(?P<both>\b[Bb]oth\b)", r"(?P<end>[.!?\n])"]), answer):
        kind, text = match.lastgroup, match.group()
        if kind in ("name", "both"):
            if found or sentence > begun:
                yield names, both, found
                names, both, found = [], False, []
            begun, both = sentence, both or kind == "both"
            names += [text] if kind == "name" and text not in names else []
        elif kind == "value":
            found.append((text, sentence))
        else:
            sentence += 1
    yield names, both, found
