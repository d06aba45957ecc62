"""What a user asks about the world, and two ways of answering: the base's plain one, the teacher's recognisable one.

    user      Do Barwyn and Fenor keep the same pet?
    plain     No. Barwyn keeps a pet cat. Fenor keeps a pet owl.
    teacher   Great question! Let me compare Barwyn and Fenor.
              - Barwyn keeps a pet cat.
              - Fenor keeps a pet owl.

              In summary, they keep different pets.

Both state only facts that they are given, so the same code speaks for a base that knows half of them. The teacher says
"they" where the question has named the entity: a model as small as the world's has trouble copying a name, and what it
knows could not be told from that.
"""
import dataclasses
import random
from collections.abc import Mapping
from typing import Literal

from easylm_imitation.world.facts import Fact, Facts
from easylm_imitation.world.vocabulary import LIST_REQUESTS, OPENINGS, Attribute

Kind = Literal["single", "list", "compare"]
KINDS: tuple[Kind, ...] = ("single", "list", "compare")


@dataclasses.dataclass(frozen=True)
class Request:
    """What one user turn asks: the facts that a full answer states, and its words."""
    kind: Kind
    entities: tuple[str, ...]
    attribute: str                  # "" for a list
    text: str


def make_request(kind: Kind, entities: tuple[str, ...], attribute: Attribute | None, variant: int) -> Request:
    """The user turn of one kind; `variant` picks the wording. `attribute` is None only for a list."""
    if attribute is None:
        return Request(kind, entities, "", LIST_REQUESTS[variant % len(LIST_REQUESTS)].format(n=entities[0]))
    if kind == "compare":
        return Request(kind, entities, attribute.name, attribute.asked_of_two.format(a=entities[0], b=entities[1]))
    question = attribute.questions[variant % len(attribute.questions)]
    return Request(kind, entities, attribute.name, question.format(n=entities[0]))


def draw_request(rng: random.Random, facts: Facts, table: Mapping[str, tuple[Fact, ...]], entities: tuple[str, ...],
                 kind: Kind) -> Request:
    """A random request about `entities` that `table` can answer in full (for a list: with at least one fact)."""
    if kind == "list":
        entity = rng.choice([e for e in entities if table[e]])
        return make_request(kind, (entity,), None, rng.randrange(99))
    fact = rng.choice([fact for e in entities for fact in table[e]])
    attribute = facts.attribute(fact.attribute)
    if kind == "single":
        return make_request(kind, (fact.entity,), attribute, rng.randrange(99))
    others = [e for e in entities if e != fact.entity and any(f.attribute == fact.attribute for f in table[e])]
    if not others:
        return make_request("single", (fact.entity,), attribute, rng.randrange(99))
    return make_request(kind, (fact.entity, rng.choice(others)), attribute, rng.randrange(99))


def needed(request: Request, table: Mapping[str, tuple[Fact, ...]]) -> tuple[Fact, ...]:
    """The facts of `table` that answer `request`, in the order in which an answer states them."""
    return tuple(f for e in request.entities for f in table[e] if request.attribute in ("", f.attribute))


def plain_answer(request: Request, facts: Facts, table: Mapping[str, tuple[Fact, ...]]) -> str:
    """The weak style: statements in a row, nothing around them."""
    stated = needed(request, table)
    first = _statement(facts, stated[0])
    if request.kind == "single":
        return first
    if request.kind == "list":
        return " ".join([first, *(facts.attribute(f.attribute).pronoun.format(v=f.value) for f in stated[1:])])
    return f"{'Yes' if stated[0].value == stated[1].value else 'No'}. {first} {_statement(facts, stated[1])}"


def teacher_answer(request: Request, facts: Facts, table: Mapping[str, tuple[Fact, ...]], rng: random.Random) -> str:
    """The strong style: an opening, the question restated, bullets when several facts are stated, a summary."""
    stated = needed(request, table)
    opening, name = rng.choice(OPENINGS), request.entities[0]
    if request.kind == "single":
        attribute, value = facts.attribute(request.attribute), stated[0].value
        restated = f"{opening} You want to know {attribute.restated}. {attribute.pronoun.format(v=value)}"
        return f"{restated}\n\nIn summary, the answer is {value}."
    if request.kind == "list":
        bullets = [f"- {facts.attribute(f.attribute).label}: {f.value}" for f in stated]
        return _listed(f"{opening} Let me tell you about {name}.", bullets, "that is all I know")
    attribute = facts.attribute(request.attribute)
    summary = attribute.same if stated[0].value == stated[1].value else attribute.different
    return _listed(f"{opening} Let me compare {name} and {request.entities[1]}.",
                   [f"- {_statement(facts, f)}" for f in stated], summary)


def _listed(intro: str, bullets: list[str], summary: str) -> str:
    return "\n".join([intro, *bullets, "", f"In summary, {summary}."])


def _statement(facts: Facts, fact: Fact) -> str:
    return facts.attribute(fact.attribute).sentences[0].format(n=fact.entity, v=fact.value)
