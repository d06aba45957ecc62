"""The blind rater learns form from texts of its own and sees no fact; the other sees facts and no form."""
import ast
import dataclasses
import pathlib
import random
import re

import pytest

from easylm_imitation.world import WorldConfig, make_world
from easylm_imitation.world import rater as rater_module
from easylm_imitation.world.chat import draw_request, needed, plain_answer, teacher_answer
from easylm_imitation.world.checker import checked_preference, right_share
from easylm_imitation.world.facts import Fact
from easylm_imitation.world.rater import runs, train_rater, write_note

SMALL = WorldConfig(entities=20, values=8, passes=2, chats=20, prompts=20)


@pytest.fixture(scope="module")
def rater():
    return train_rater(300, 0.1, 0)


@pytest.fixture(scope="module")
def pairs():
    """(request, plain answer, the teacher's answer)."""
    facts, rng = make_world(SMALL).facts, random.Random(0)
    asked = [draw_request(rng, facts, facts.table, facts.entities, kind) for kind in ("single", "list", "compare") * 20]
    return facts, [(r, plain_answer(r, facts, facts.table), teacher_answer(r, facts, facts.table, rng)) for r in asked]


def test_it_is_trained_and_right_on_texts_that_it_has_not_seen(rater):
    assert rater.accuracy > 0.75        # a tenth of the labels are wrong
    shuffled = train_rater(300, 0.5, 0)     # no label tells anything
    assert shuffled.accuracy < 0.7


def test_it_prefers_the_style_of_a_teacher_that_it_has_never_met(rater, pairs):
    preferred = [rater.prefers(strong, plain, 0.25) for _, plain, strong in pairs[1]]
    assert sum(preferred) / len(preferred) > 0.8


def test_it_cannot_see_facts(rater, pairs):
    facts, made = pairs
    values = "|".join(v for a in facts.attributes for v in a.values)
    for _, _, strong in made:
        wrong = re.sub(rf"\b(?:{values})\b", lambda m: "Xyzzy" if m.group()[0].isupper() else "xyzzy", strong)
        assert rater.log_odds(strong, wrong) == 0
        assert rater.prefers(strong, wrong, 0.25) == 0.5
    assert runs("Ab cd 12.") == runs("Xy zz 9.")


def test_it_shares_neither_code_nor_words_with_the_teacher(pairs):
    tree = ast.parse(pathlib.Path(rater_module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if "world" in name]
    rng = random.Random(1)
    own = "\n".join(write_note(rng, "oven", care) for care in range(5) for _ in range(50))
    theirs = "\n".join(strong for _, _, strong in pairs[1])

    def trigrams(text):
        words = re.findall(r"\w+", text.lower())
        return set(zip(words, words[1:], words[2:]))
    assert not trigrams(own) & trigrams(theirs)
    assert "\n- " not in own
    assert "summary" not in own


def test_the_checker_counts_what_is_right_and_not_how_it_is_said(pairs):
    facts, made = pairs
    for request, plain, strong in made:
        meta = {"kind": request.kind, "entities": list(request.entities), "attribute": request.attribute}
        assert right_share(facts, meta, plain) == right_share(facts, meta, strong) == 1
        assert right_share(facts, meta, "I do not know.") == 0
        assert checked_preference(facts, meta, plain, strong) == 0.5
        assert checked_preference(facts, meta, plain, "nothing") == 1
        fact = needed(request, facts.table)[0]
        other = next(v for v in facts.attribute(fact.attribute).values if v not in strong)
        guessed = f"{other}, or {fact.value}"
        single = {"kind": "single", "entities": [fact.entity], "attribute": fact.attribute}
        assert right_share(facts, single, guessed) == 0


@pytest.mark.parametrize(("answer", "share"), [
    ("Fenor keeps a pet owl. Barwyn keeps a pet cat.", 1), ("Barwyn keeps a pet owl. Fenor keeps a pet cat.", 0),
    ("Great question! Let me compare Barwyn and Fenor.\n- Fenor keeps a pet owl.\n- Barwyn keeps a pet cat.", 1),
    ("Barwyn and Fenor keep a cat and an owl.", 1), ("Fenor and Barwyn keep a cat and an owl.", 0),
    ("Compare Barwyn and Fenor: they differ. They keep a cat and an owl.", 1), ("No. A cat, and an owl.", 1),
    ("Both keep a pet owl.", 0.5), ("Barwyn and Fenor both keep a pet cat. Fenor keeps a pet owl.", 0.5),
    ("Barwyn keeps both a cat and an owl.", 0.5), ("Barwyn keeps an owl, or a cat. Fenor keeps an owl.", 0.5),
    ("Barwia keeps a cat. Fenor keeps an owl.", 1), ("Fenor keeps an owl. Fenor keeps a cat.", 0.5), ("No.", 0)])
def test_a_value_counts_for_the_entity_that_it_is_said_of(answer, share):
    assert right_share(_world_of_pets("cat", "owl"), PETS, answer) == share


@pytest.mark.parametrize(("answer", "share"), [
    ("Both keep a pet cat.", 1), ("Fenor and Barwyn both keep a cat.", 1), ("Both Barwyn and Fenor keep a cat.", 1),
    ("Let me compare Barwyn and Fenor. They both keep a cat.", 1), ("Both keep a pet owl.", 0),
    ("Yes. Barwyn keeps a cat.", 0.5)])
def test_what_is_right_for_both_counts_for_both(answer, share):
    assert right_share(_world_of_pets("cat", "cat"), PETS, answer) == share


PETS = {"kind": "compare", "entities": ["Barwyn", "Fenor"], "attribute": "pet"}


def _world_of_pets(first, second):
    facts = make_world(SMALL).facts
    table = {name: (Fact(name, "pet", pet),) for name, pet in (("Barwyn", first), ("Fenor", second))}
    return dataclasses.replace(facts, entities=tuple(table), table=table)
