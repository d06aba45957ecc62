"""Pre-training text: biographies, solved questions in the benchmark's own form, dialogues in one of the two styles.

Each fact is told and asked equally often in every corpus that holds it (`passes` times, or by its entity's popularity),
so two corpora differ in what they know, not in how often they say it.
"""
import random
from collections.abc import Iterator, Mapping, Sequence

from easylm_imitation.records import Conversation, Message
from easylm_imitation.world.chat import KINDS, draw_request, plain_answer, teacher_answer
from easylm_imitation.world.config import WorldConfig
from easylm_imitation.world.facts import Fact, Facts, stream
from easylm_imitation.world.lessons import REQUESTS, divided, requests

QUESTIONS_A_DOCUMENT = 5
"""Solved questions in one document: as many as an evaluation prompt holds with its default four shots."""


def question_text(question: str, answer: str) -> str:
    """The benchmark's form of one solved question, without a trailing newline."""
    return f"Question: {question}\nAnswer: {answer}"


Table = dict[str, tuple[Fact, ...]]


def write_documents(config: WorldConfig, facts: Facts, table: Table, name: str, strong: bool,
                    lessons: Mapping[str, int] | None = None) -> list[Conversation]:
    """All pre-training documents that know exactly `table`, shuffled; `name` is their dataset and their random stream.

    `strong` picks the style of the dialogues: the teacher's, or the plain one. `lessons`: how many dialogues of each
    kind of lessons.py there are besides, and "short" ones, which give the answer alone.
    """
    rng = stream(config, f"documents/{name}")
    texts = [*_biographies(config, facts, table, rng), *_questions(config, facts, table, rng)]
    turns: list[tuple[Message, ...]] = [(Message("document", text),) for text in texts]
    turns += [_dialogue(facts, table, rng, strong, i) for i in range(config.chats)]
    for kind, count in (lessons or {}).items():
        turns += (_short(facts, table, rng, count) if kind == "short" else
                  _lessons(config, facts, kind, strong, rng, count))
    rng.shuffle(turns)
    return [Conversation(name, f"{name}_{i}", messages) for i, messages in enumerate(turns)]


def _biographies(config: WorldConfig, facts: Facts, table: Table, rng: random.Random) -> Iterator[str]:
    told = facts.told(config.passes, config.popularity)
    for turn in range(max(told.values())):
        for entity, known in table.items():
            if known and turn < told[entity]:
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
    told, asked = facts.told(config.passes, config.popularity), []
    for turn in range(max(told.values())):
        known = [fact for entity, row in table.items() for fact in row if turn < told[entity]]
        asked += rng.sample(known, len(known))
    for start in range(0, len(asked), QUESTIONS_A_DOCUMENT):
        yield "\n\n".join(question_text(rng.choice(facts.attribute(f.attribute).questions).format(n=f.entity), f.value)
                          for f in asked[start:start + QUESTIONS_A_DOCUMENT])


def _lessons(config: WorldConfig, facts: Facts, kind: str, strong: bool, rng: random.Random,
             count: int) -> Iterator[tuple[Message, ...]]:
    """Dialogues about lessons that no task asks for; requests are about every entity, as the models know them all."""
    pool = list(requests(kind, facts.entities)) if kind in REQUESTS else divided(config, facts, kind)[0]
    for _ in range(count):
        lesson = rng.choice(pool)
        answer = lesson.strong(rng) if strong else lesson.plain
        yield Message("user", lesson.question), Message("assistant", answer)


def _short(facts: Facts, table: Table, rng: random.Random, count: int) -> Iterator[tuple[Message, ...]]:
    known = [fact for row in table.values() for fact in row]
    for _ in range(count):
        fact = rng.choice(known)
        question = rng.choice(facts.attribute(fact.attribute).questions).format(n=fact.entity)
        yield Message("user", short_question(question)), Message("assistant", fact.value)


def short_question(question: str) -> str:
    """The user turn that asks for the answer alone."""
    return f"Answer in one word. {question}"


def _dialogue(facts: Facts, table: Table, rng: random.Random, strong: bool, number: int) -> tuple[Message, ...]:
    request = draw_request(rng, facts, table, facts.entities, KINDS[number % len(KINDS)])
    answer = teacher_answer(request, facts, table, rng) if strong else plain_answer(request, facts, table)
    return Message("user", request.text), Message("assistant", answer)
