"""What exists, what the base has read, and that nothing leaks to where it must not be."""
import json
import re

import pytest

from easylm_imitation.files import read_jsonl
from easylm_imitation.records import Conversation, Prompt
from easylm_imitation.schema import UserError, build
from easylm_imitation.world import WorldConfig, make_world
from easylm_imitation.world.vocabulary import ATTRIBUTES, HEADS, TAILS

SMALL = WorldConfig(entities=20, values=8, passes=2, chats=60, prompts=60, style_prompts=12)


@pytest.fixture(scope="module")
def world():
    return make_world(SMALL)


def text_of(conversations):
    return "\n".join(message.content for c in conversations for message in c.messages)


def stated(text, table):
    """Ids of the facts of `table` that `text` states or answers: name and value in one sentence, or in one Q/A."""
    found = set()
    for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z])(?!Answer)|\n(?!Answer)", text):
        for row in table.values():
            found |= {f.id for f in row if f.entity in sentence and re.search(rf"\b{f.value}\b", sentence)}
    return found


def test_a_seed_is_a_world(world, tmp_path):
    world.write(tmp_path / "a")
    make_world(SMALL).write(tmp_path / "b")
    make_world(WorldConfig(**{**vars(SMALL), "seed": 1})).write(tmp_path / "c")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 5 + 3 + 6
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a/world.json").read_bytes() != (tmp_path / "c/world.json").read_bytes()


def test_one_size_changed_leaves_the_other_draws_alone(world):
    more = make_world(WorldConfig(**{**vars(SMALL), "prompts": 10, "chats": 10, "style_prompts": 5, "passes": 1}))
    assert more.facts == world.facts
    assert more.collection_prompts() == world.collection_prompts()[:10]


def test_shares_are_exact_on_both_sides(world):
    facts = world.facts
    assert len(facts.entities) == len(set(facts.entities)) == 20
    assert len(facts.held_out) == 8
    for names in (facts.untouched, facts.asked):
        known = sum(f.id in facts.known for e in names for f in facts.table[e])
        assert known == len(names) * 4 / 2
    assert set(facts.untouched) | set(facts.asked) == set(facts.entities)


def test_values_of_attributes_never_meet_nor_do_names():
    values = [value for attribute in ATTRIBUTES for value in attribute.values]
    assert len(values) == len(set(values))
    names = {head + tail for head in HEADS for tail in TAILS}
    assert len(names) == len(HEADS) * len(TAILS)
    patterns = " ".join(p for a in ATTRIBUTES for p in (*a.sentences, *a.questions, a.pronoun, a.restated, a.label))
    words = set(re.findall(r"\w+", re.sub(r"\{\w\}", "", patterns)))
    assert not words & set(values)          # else a question would name a value
    assert not names & (words | set(values))


def test_every_sentence_names_the_entity_before_the_value():
    for attribute in ATTRIBUTES:
        assert all(s.index("{n}") < s.index("{v}") for s in attribute.sentences)
        assert all("{v}" not in q and "{n}" in q for q in attribute.questions)


def test_the_base_reads_its_share_and_nothing_else(world):
    text = text_of(world.base_documents())
    found = stated(text, world.facts.table)
    assert found >= world.facts.known       # all of it is told
    unknown = {f.id: f for row in world.facts.table.values() for f in row if f.id not in world.facts.known}
    for sentence in text.split("\n\n"):
        if "Question:" in sentence:         # question and answer on two lines
            leaked = [i for i, f in unknown.items() if f"{f.entity}" in sentence and f"Answer: {f.value}" in sentence
                      and any(q.format(n=f.entity) in sentence for q in world.facts.attribute(f.attribute).questions)]
            assert leaked == []
    patterns = {s.format(n=f.entity, v=f.value) for f in unknown.values()
                for s in world.facts.attribute(f.attribute).sentences}
    assert not [p for p in patterns if p in text]


def test_the_teacher_reads_everything_equally_often(world):
    facts, text = world.facts, text_of(world.teacher_documents())
    for row in facts.table.values():
        for fact in row:
            questions = [q.format(n=fact.entity) for q in facts.attribute(fact.attribute).questions]
            assert sum(text.count(f"Question: {q}\nAnswer: {fact.value}") for q in questions) == SMALL.passes


def test_no_held_out_entity_is_ever_asked_about_while_collecting(world):
    prompts = world.collection_prompts()
    text = "\n".join(p.messages[-1].content for p in prompts)
    assert not [name for name in world.facts.held_out if name in text]
    assert {name for p in prompts for name in p.meta["entities"]} <= set(world.facts.asked)
    assert len({p.messages[-1].content for p in prompts}) == len({p.id for p in prompts}) == len(prompts) == 60
    assert {p.meta["kind"] for p in prompts} == {"single", "list", "compare"}


def test_style_prompts_are_about_held_out_entities_only(world):
    prompts = world.style_prompts()
    assert len(prompts) == 12
    assert {name for p in prompts for name in p.meta["entities"]} <= world.facts.held_out


def test_prompts_run_out_rather_than_repeat():
    tiny = make_world(WorldConfig(entities=4, attributes=1, held_out=0.5, prompts=10**4, values=4))
    asked = [p.messages[-1].content for p in tiny.collection_prompts()]
    assert len(asked) == len(set(asked)) == 2 * 3 + 2 * 3 + 2


def test_styles_are_recognisable_and_true(world):
    facts = world.facts
    strong = [c for c in world.teacher_documents() if c.messages[0].role == "user"]
    weak = [c for c in world.base_documents() if c.messages[0].role == "user"]
    assert len(strong) == len(weak) == SMALL.chats
    for conversation in strong:
        question, answer = (m.content for m in conversation.messages)
        assert re.match(r"(Great question!|Thank you for asking!|I am happy to help!) ", answer)
        assert re.fullmatch(r"In summary, .*\.", answer.split("\n\n")[-1])
        asked = [fact for row in facts.table.values() for fact in row
                 if question in [q.format(n=fact.entity) for q in facts.attribute(fact.attribute).questions]]
        assert ("\n- " in answer) is (not asked)
        assert all(answer.endswith(f"In summary, the answer is {fact.value}.") for fact in asked)
        for name, same in re.findall(r"- (\w+) keeps a pet (\w+)\.", answer):
            assert same == facts.table[name][2].value
    for conversation in weak:
        answer = conversation.messages[1].content
        assert "\n" not in answer
        assert "summary" not in answer
        assert "!" not in answer


def test_files_are_records(world, tmp_path):
    world.write(tmp_path)
    assert read_jsonl(Conversation, tmp_path / "teacher.jsonl") == world.teacher_documents()
    assert read_jsonl(Prompt, tmp_path / "prompts.jsonl") == world.collection_prompts()
    told = json.loads((tmp_path / "world.json").read_text())
    assert build(WorldConfig, told["config"], "world.json") == SMALL
    assert len(told["facts"]) == 80


@pytest.mark.parametrize("wrong", [{"entities": 9999}, {"values": 1}, {"held_out": 0.01}, {"options": 9, "values": 8},
                                   {"attributes": 7}, {"base_coverage": 1.5}])
def test_impossible_worlds_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        build(WorldConfig, wrong, "config.world")


def test_names_are_a_token_or_two_and_share_pieces(world):
    from easylm_imitation.text import train_bpe
    full = make_world(WorldConfig())
    tokenizer = train_bpe(full.tokenizer_texts(), full.config.vocabulary)
    pieces = {name: tuple(tokenizer.encode(" " + name)) for name in full.facts.entities}
    assert {len(p) for p in pieces.values()} <= {1, 2}
    shared = [p for p in pieces.values() if len(p) == 2 and sum(p[0] in q for q in pieces.values()) > 1]
    assert len(shared) > 10
