"""Entities and facts: who exists, what is true, what the base has read, and who is held out of imitation."""
import dataclasses
import random

from easylm_imitation.world.config import WorldConfig
from easylm_imitation.world.vocabulary import ATTRIBUTES, HEADS, TAILS, Attribute


@dataclasses.dataclass(frozen=True)
class Fact:
    """`entity` has `value` for `attribute` (a name in vocabulary.ATTRIBUTES)."""
    entity: str
    attribute: str
    value: str

    @property
    def id(self) -> str:
        """Stable name of the fact, such as `Barwyn.home`; it does not depend on sizes of anything derived."""
        return f"{self.entity}.{self.attribute}"


@dataclasses.dataclass(frozen=True)
class Facts:
    """The world's truth. `known` is the part that the base has read; `held_out` entities never enter imitation data."""
    attributes: tuple[Attribute, ...]
    entities: tuple[str, ...]
    held_out: frozenset[str]
    table: dict[str, tuple[Fact, ...]]      # entity -> one fact an attribute, in the attributes' order
    known: frozenset[str]                   # ids of facts

    @property
    def asked(self) -> tuple[str, ...]:
        """Entities that may be asked about while collecting: those not held out."""
        return tuple(e for e in self.entities if e not in self.held_out)

    @property
    def untouched(self) -> tuple[str, ...]:
        """The held-out entities, in order."""
        return tuple(e for e in self.entities if e in self.held_out)

    def attribute(self, name: str) -> Attribute:
        """The attribute of that name. Raises KeyError."""
        return {a.name: a for a in self.attributes}[name]

    def told(self, passes: int, popularity: float) -> dict[str, int]:
        """How often each entity's facts are told where the mean is `passes`: Zipf over the entities' order, at least
        once."""
        weights = [(rank + 1) ** -popularity for rank in range(len(self.entities))]
        scale = passes * len(weights) / sum(weights)
        return {e: max(1, round(weight * scale)) for e, weight in zip(self.entities, weights)}

    def base_table(self) -> dict[str, tuple[Fact, ...]]:
        """`table` without what the base has not read."""
        return {e: tuple(f for f in facts if f.id in self.known) for e, facts in self.table.items()}


def knowing(config: WorldConfig, facts: Facts, coverage: float) -> Facts:
    """`facts` with that share of them known, the same on both sides; who knows more knows all that others know."""
    known: list[str] = []
    for side, names in (("held out", facts.untouched), ("asked", facts.asked)):
        ids = [fact.id for entity in names for fact in facts.table[entity]]
        stream(config, f"known/{side}").shuffle(ids)
        known += ids[:round(coverage * len(ids))]
    return dataclasses.replace(facts, known=frozenset(known))


def stream(config: WorldConfig, purpose: str) -> random.Random:
    """The random stream of one purpose; streams are independent, so one size changed leaves the others' draws alone."""
    return random.Random(f"world/{config.seed}/{purpose}")


def make_facts(config: WorldConfig) -> Facts:
    """Draws names, values (Zipf), the held-out entities and the base's share; exact shares, not coin flips."""
    names = [head + tail for head in HEADS for tail in TAILS]
    entities = tuple(stream(config, "names").sample(names, config.entities))
    attributes = ATTRIBUTES[:config.attributes]
    table = _draw_values(config, entities, attributes)
    held_out = stream(config, "held out").sample(entities, round(config.held_out * config.entities))
    return Facts(attributes, entities, frozenset(held_out), table, _draw_known(config, table, frozenset(held_out)))


def _draw_values(config: WorldConfig, entities: tuple[str, ...], attributes: tuple[Attribute, ...]) -> dict:
    rng = stream(config, "values")
    weights = value_weights(config)
    columns = []
    for attribute in attributes:
        values = rng.sample(attribute.values, config.values)
        drawn = rng.choices(values, weights, k=len(entities))
        columns.append([Fact(entity, attribute.name, value) for entity, value in zip(entities, drawn)])
    return {entity: tuple(column[i] for column in columns) for i, entity in enumerate(entities)}


def _draw_known(config: WorldConfig, table: dict, held_out: frozenset[str]) -> frozenset[str]:
    """The base reads the same share of held-out and of other entities' facts, so that the two compare."""
    rng = stream(config, "known")
    known: list[str] = []
    for side in (True, False):
        ids = [fact.id for facts in table.values() for fact in facts if (fact.entity in held_out) is side]
        known += rng.sample(ids, round(config.base_coverage * len(ids)))
    return frozenset(known)


def value_weights(config: WorldConfig) -> list[float]:
    """Relative frequencies of an attribute's values, most frequent first: rank ** -zipf."""
    return [(rank + 1) ** -config.zipf for rank in range(config.values)]
