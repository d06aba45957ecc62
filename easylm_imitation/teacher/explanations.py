"""The recipe `explanations`, as Orca's: queries in the manner of FLAN, each under a system message drawn for it, so
that the teacher explains itself. Two teachers make a curriculum: the cheaper one answers all queries, then the better
one a subset, and the dataset keeps that order. The system message is part of the conversation.
"""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from easylm_imitation.records import Conversation, LedgerEntry, Message, Prompt
from easylm_imitation.schema import UserError
from easylm_imitation.teacher.answers import ListedConfig
from easylm_imitation.teacher.recipe import Ask, Listed, draws, free


@dataclasses.dataclass(frozen=True)
class SystemMessage:
    """`kinds`: the queries that it suits, by their `meta["kind"]`; none means all. "" is no message at all."""
    text: str
    kinds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Better:
    """The second teacher."""
    queries: int = 0                # answered by it too: a random subset; 0 leaves it out
    model: str = ""
    price_in: float = 0.0           # US dollars per million tokens
    price_out: float = 0.0


@dataclasses.dataclass(frozen=True)
class ExplanationsConfig(ListedConfig):
    """Orca's protocol; the first teacher's model and prices are those that all recipes have."""
    recipe: Literal["explanations"] = "explanations"
    dataset: str = free("explanations")
    systems: tuple[SystemMessage, ...] = (SystemMessage(""),)
    better: Better = free(Better())

    def __post_init__(self):
        super().__post_init__()
        if not self.systems:
            raise ValueError("systems is empty; name at least one system message")
        if self.better.model and not self.better.queries:
            raise ValueError(f"better.model='{self.better.model}' would never be asked, as better.queries is 0; set "
                             "better.queries to how many of the queries it answers too")
        if self.api != "chat":
            raise ValueError(f"api={self.api!r} has no system messages; use 'chat'")

    def models(self) -> tuple[str, ...]:
        """One model, or two."""
        return (self.model, self.better.model) if self.better.queries else (self.model,)

    def with_models(self, names: Sequence[str]) -> "ExplanationsConfig":
        """The second teacher's too, if it is asked."""
        config = super().with_models(names)
        if self.better.queries:
            config = dataclasses.replace(config, better=dataclasses.replace(self.better, model=names[1]))
        return config

    def shaping(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """With the second teacher's model, where one is named; how much it is asked may change."""
        second = settings.get("better", {}).get("model")
        return super().shaping(settings) | ({"better.model": second} if second else {})

    @property
    def more_models(self) -> str:
        """The setting that has a second teacher asked, while it is not set."""
        return "" if self.better.queries else "set better.queries to how many queries the second answers too"

    def prices(self) -> tuple[tuple[float, float], ...]:
        """In the order of the models."""
        return ((self.price_in, self.price_out), (self.better.price_in, self.better.price_out))


class Explanations(Listed):
    """All queries to the first teacher, in their order; then some to the second, in their order."""

    def __init__(self, config: ExplanationsConfig, queries: Sequence[Prompt]):
        if config.better.queries > len(queries):
            raise UserError(f"better.queries={config.better.queries}, but there are {len(queries)} queries")
        self.config = config
        # By a rank of its own for each query: a larger subset contains the smaller one.
        ranked = sorted(range(len(queries)), key=lambda i: draws(config.seed, f"better/{queries[i].id}").random())
        chosen = ranked[:config.better.queries]
        stages = [(0, query) for query in queries] + [(1, queries[i]) for i in sorted(chosen)]
        super().__init__([self._ask(stage, query) for stage, query in stages], config.tries)

    def _ask(self, stage: int, query: Prompt) -> Ask:
        kind = query.meta.get("kind", "")
        suited = [s for s in self.config.systems if not s.kinds or kind in s.kinds]
        if not suited:
            raise UserError(f"no system message suits query '{query.id}' of the kind '{kind}'; add one without kinds")
        own = query.messages[0].role == "system"
        text = "" if own else draws(self.config.seed, query.id).choice(suited).text     # alike for both teachers
        messages = ((Message("system", text),) if text else ()) + query.messages
        return Ask(query.id, messages, sample=stage, number=stage, teacher=stage, about=query)

    def read(self, ask: Ask, entry: LedgerEntry) -> Conversation:
        """⟨system message, query, explanation⟩."""
        return Conversation(self.config.dataset, f"{ask.id}_{ask.teacher + 1}",
                            (*ask.messages, Message("assistant", self.config.useful(entry))),
                            meta={**ask.about.meta, "stage": ask.teacher + 1})
