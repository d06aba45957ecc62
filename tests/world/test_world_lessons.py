"""Routes, programs and requests: right answers, nothing tested that was practised, refusals that the rules know."""
import json
import random
import re

import pytest

from easylm_imitation.evaluate.refusal import refuses
from easylm_imitation.evaluate.tasks import find_tasks
from easylm_imitation.world import WorldConfig, make_world
from easylm_imitation.world.documents import write_documents
from easylm_imitation.world.facts import knowing
from easylm_imitation.world.lessons import NUMBERS, divided, routes
from easylm_imitation.world.tasks import write_lesson_tasks, write_tasks

SMALL = WorldConfig(entities=20, values=8, passes=2, chats=20, prompts=20, lesson_items=30, popularity=0.8, items=6)
KINDS = ("route", "program", "unsafe", "lookalike", "howto")


@pytest.fixture(scope="module")
def world():
    return make_world(SMALL)


def walked(lesson):
    """Where the question's route ends, by a table of its own."""
    compass = "NESW"
    words = lesson.question.replace(",", "").replace(".", "").split()
    at = {"north": 0, "east": 1, "south": 2, "west": 3}[words[2]]
    for word in words:
        at = (at + {"right": 1, "left": -1, "around": 2}.get(word, 0)) % 4
    return compass[at]


def test_routes_end_where_they_end():
    for lesson in routes(3):
        assert lesson.short[0].upper() == walked(lesson)
        assert lesson.plain == f"You face {lesson.short}."
        assert lesson.strong(random.Random(0)).splitlines()[-1] == f"In summary, the answer is {lesson.short}."
        assert len(lesson.body) == 3
    assert len({lesson.question for lesson in routes(3)}) == 4 * 27


def test_programs_do_what_is_asked(world):
    by_hand = {"add": lambda a, b: a + b, "take": lambda a, b: a - b, "times": lambda a, b: a * b}
    in_code = {"+": by_hand["add"], "-": by_hand["take"], "*": by_hand["times"]}
    for lesson in divided(SMALL, world.facts, "program")[1]:
        words = lesson.question.removesuffix(".").replace(",", "").split()
        one, two = (NUMBERS.index(words[place]) + 1 for place in (4, 7))
        first, second = re.fullmatch(r"f\(x\) = \(x ([-+*] \d)\) ([-+*] \d)", lesson.short).groups()
        ran = in_code[second[0]](in_code[first[0]](7, int(first[2])), int(second[2]))
        assert ran == by_hand[words[6]](by_hand[words[3]](7, one), two)


def test_nothing_is_tested_that_was_practised(world):
    for kind in KINDS:
        practised, tested = divided(SMALL, world.facts, kind)
        assert practised
        assert tested
        assert not {lesson.question for lesson in practised} & {lesson.question for lesson in tested}
    for strong in (True, False):
        told = write_documents(SMALL, world.facts, world.facts.table, "x", strong, {"route": 200, "program": 200})
        asked = {c.messages[0].content for c in told}
        for kind in ("route", "program"):
            assert not asked & {lesson.question for lesson in divided(SMALL, world.facts, kind)[1]}


def test_the_teacher_declines_and_the_base_does_not(world):
    for kind in KINDS:
        for lesson in divided(SMALL, world.facts, kind)[1]:
            assert refuses(lesson.strong(random.Random(1))) is (kind in ("unsafe", "lookalike"))
            assert not refuses(lesson.plain)


def test_a_better_base_knows_all_that_a_poorer_one_knows(world):
    poor, rich = (knowing(SMALL, world.facts, share) for share in (0.4, 0.9))
    assert poor.known < rich.known
    assert len(rich.known) == round(0.9 * 8 * 4) + round(0.9 * 12 * 4)


def test_popular_entities_are_told_more_often(world):
    told = list(world.facts.told(10, 0.8).values())
    assert told == sorted(told, reverse=True)
    assert told[0] > 3 * told[-1] > 0
    assert set(world.facts.told(10, 0.0).values()) == {10}
    text = "\n".join(m.content for c in world.base_documents() for m in c.messages)
    counts = [text.count(entity) for entity in world.facts.entities]
    assert sum(counts[:5]) > 1.5 * sum(counts[-5:])


def test_lesson_tasks_are_read_by_evaluate(world, tmp_path):
    tasks = write_lesson_tasks(SMALL, world.facts, tmp_path)
    for task, kind in zip(tasks, KINDS, strict=True):
        loaded, = find_tasks([str(task.path)])
        assert (loaded.name, loaded.group, tuple(loaded.prompts)) == (f"world_{kind}", task.group, ("chat",))
        assert loaded.scorer == ("refusal" if task.group == "safety" else "")
        assert len(loaded.rows) == min(30, len(divided(SMALL, world.facts, kind)[1]))


def test_items_are_a_draw_of_the_facts_in_every_form(world, tmp_path):
    tasks = write_tasks(SMALL, world.facts, tmp_path, ("choices", "short"))
    assert [t.name for t in tasks] == [f"world_{side}_{form}" for side in ("heldout", "asked")
                                       for form in ("choices", "short")]
    rows = [json.loads(line) for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert len(find_tasks([str(tasks[1].path)])[0].rows) == 6
