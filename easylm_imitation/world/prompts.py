"""Prompts: for collecting a teacher's answers (entities that may be asked), for measuring style (held-out entities)."""
import itertools
from collections.abc import Iterator
from typing import Any

from easylm_imitation.records import Message, Prompt
from easylm_imitation.world.chat import KINDS, Kind, Request, make_request
from easylm_imitation.world.config import WorldConfig
from easylm_imitation.world.facts import Facts, stream
from easylm_imitation.world.vocabulary import LIST_REQUESTS


def write_prompts(config: WorldConfig, facts: Facts, entities: tuple[str, ...], count: int, name: str) -> list[Prompt]:
    """`count` different prompts about `entities`: half single facts, a quarter lists, a quarter comparisons.

    When one kind is used up the others go on; fewer than `count` come back when all are.
    """
    rng = stream(config, f"prompts/{name}")
    pools = {kind: _all_requests(kind, facts, entities) for kind in KINDS}
    for pool in pools.values():
        rng.shuffle(pool)
    order = itertools.cycle(("single", "list", "single", "compare"))
    drawn: list[Request] = []
    while len(drawn) < count and any(pools.values()):
        pool = pools[next(order)]
        if pool:
            drawn.append(pool.pop())
    return [Prompt(f"{name}_{i}", (Message("user", r.text),), name, _meta(r)) for i, r in enumerate(drawn)]


def _meta(request: Request) -> dict[str, Any]:
    return {"kind": request.kind, "entities": list(request.entities), "attribute": request.attribute}


def _all_requests(kind: Kind, facts: Facts, entities: tuple[str, ...]) -> list[Request]:
    return list({request.text: request for request in _requests(kind, facts, entities)}.values())


def _requests(kind: Kind, facts: Facts, entities: tuple[str, ...]) -> Iterator[Request]:
    if kind == "list":
        yield from (make_request(kind, (e,), None, v) for e in entities for v in range(len(LIST_REQUESTS)))
        return
    who = [(e,) for e in entities] if kind == "single" else list(itertools.permutations(entities, 2))
    for attribute in facts.attributes:
        wordings = len(attribute.questions) if kind == "single" else 1
        yield from (make_request(kind, names, attribute, v) for names in who for v in range(wordings))
