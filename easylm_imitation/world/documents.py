"""Pre-training text: biographies, solved questions in the benchmark's own form, dialogues in one of the two styles.

Each fact is told and asked `passes` times in every corpus that holds it, so two corpora differ in what they know, not
in how often they say it.
"""
import random
from collections.abc import Iterator, Sequence

from easylm_imitation.records import Conversation, Message
from easylm_imitation.world.chat import KINDS, draw_request, plain_answer, teacher_answer
from easylm_imitation.world.config import WorldConfig
from easylm_imitation.world.facts import Fact, Facts, stream

QUESTIONS_A_DOCUMENT = 5
"""Solved questions in one document: as many as an evaluation prompt holds with its default four shots."""


def question_text(question: str, answer: str) -> str:
    """The benchmark's form of one solved question, without a trailing newline."""
    return f"Question: {question}\nAnswer: {answer}"


Table = dict[str, tuple[Fact, ...]]


def write_documents(config: WorldConfig, facts: Facts, table: Table, name: str, strong: bool) -> list[Conversation]:
    """All pre-training documents that know exactly `table`, shuffled; `name` is their dataset and their random stream.

    `strong` picks the style of the dialogues: the teacher's, or the plain one.
    """
    rng = stream(config, f"documents/{name}")
    texts = [*_biographies(config, facts, table, rng), *_questions(config, facts, table, rng)]
    turns: list[tuple[Message, ...]] = [(Message("document", text),) for text in texts]
    turns += [_dialogue(facts, table, rng, strong, i) for i in range(config.chats)]
    rng.shuffle(turns)
    return [Conversation(name, f"{name}_{i}", messages) for i, messages in enumerate(turns)]


def _biographies(config: WorldConfig, facts: Facts, table: Table, rng: random.Random) -> Iterator[str]:
    for _ in range(config.passes):
        for known in table.values():
            if known:
                yield _biography(facts, rng.sample(known, len(known)), rng)


def _biography(facts: Facts, told: Sequence[Fact], rng: random.Random) -> str:
    """The first fact by name, each other one by name or by pronoun."""
    first, *rest = told
    sentences = [rng.choice(facts.attribute(first.attribute).sentences).format(n=first.entity, v=first.value)]
    for fact in rest:
        attribute = facts.attribute(fact.attribute)
        pattern = attribute.pronoun if rng.random() < 0.3 else rng.choice(attribute.sentences)
        sentences.append(pattern.format(n=fact.entity, v=fact.value))
    return " ".join(sentences)


def _questions(config: WorldConfig, facts: Facts, table: Table, rng: random.Random) -> Iterator[str]:
    known = [fact for entity_facts in table.values() for fact in entity_facts]
    asked = [fact for _ in range(config.passes) for fact in rng.sample(known, len(known))]
    for start in range(0, len(asked), QUESTIONS_A_DOCUMENT):
        yield "\n\n".join(question_text(rng.choice(facts.attribute(f.attribute).questions).format(n=f.entity), f.value)
                          for f in asked[start:start + QUESTIONS_A_DOCUMENT])


def _dialogue(facts: Facts, table: Table, rng: random.Random, strong: bool, number: int) -> tuple[Message, ...]:
    request = draw_request(rng, facts, table, facts.entities, KINDS[number % len(KINDS)])
    answer = teacher_answer(request, facts, table, rng) if strong else plain_answer(request, facts, table)
    return Message("user", request.text), Message("assistant", answer)
