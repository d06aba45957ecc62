"""What every recipe is: a stream of requests, and a reader of their answers. The runner does all the rest.

    recipe.next() ─► the runner: ledger, limits, budget, patience ─► recipe.take(ask, answer) ─► recipe.rows()

**The rule of replay.** The order in which `next` and `take` are called depends on what was answered and never on when:
the runner calls `next` until `window` requests wait for their turn, then takes the answer of the oldest, and so on. A
recipe may use for its next request whatever it has taken, and draws random numbers from `draws(seed, number)` alone. So
a command that is started again makes the same calls, with the answers from the ledger, and thereby the same requests.

Two kinds: `Listed` knows its requests from the start (a prompt each), `Growing` asks on until it has enough rows.
"""
import dataclasses
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from easylm_imitation.client import prompt_tokens
from easylm_imitation.records import Conversation, LedgerEntry, Message


def free(default: Any) -> Any:
    """A setting that shapes no request, so it may change between two parts of one collection."""
    return dataclasses.field(default=default, metadata={"free": True})


def free_settings(config: "AskConfig") -> frozenset[str]:
    """The names of those of this config."""
    return frozenset(field.name for field in dataclasses.fields(config) if field.metadata.get("free"))


@dataclasses.dataclass(frozen=True)
class AskConfig:
    """How a teacher is asked and what that may cost: the settings that all recipes share."""
    dataset: str = free("collected")
    model: str = ""                         # the endpoint's model; "" when it serves one
    api: str = "chat"                       # or "completions": the text of the one message, as it is
    temperature: float = 1.0
    top_p: float | None = None
    max_tokens: int = 1024                  # of one answer
    stop: tuple[str, ...] = ()
    seed: int | None = None                 # request n is sent with seed + n; None sends none
    price_in: float = free(0.0)             # US dollars per million prompt tokens
    price_out: float = free(0.0)            # US dollars per million tokens of answers
    budget_tokens: int | None = free(None)  # ceiling over the whole ledger, prompts and answers together
    budget_cost: float | None = free(None)  # ceiling in US dollars, likewise
    requests_per_minute: float | None = free(None)
    tokens_per_minute: float | None = free(None)
    concurrency: int = free(8)              # requests in flight
    window: int = free(32)                  # requests that may be made before the oldest is answered
    timeout: float = free(120.0)            # seconds for one attempt
    attempts: int = free(6)                 # of one request
    longest_wait: float = free(60.0)        # seconds between two attempts, Retry-After aside
    longest_retry_after: float = free(300.0)    # seconds for which a server's Retry-After is followed, at most
    give_up_after: int = free(20)           # requests that fail in a row; answers without a row, and 3 windows more
    api_key_env: str = free("OPENAI_API_KEY")
    terms: str = free("")                   # note for the card: what the teacher's terms say about its outputs

    def __post_init__(self):
        for name in ("max_tokens", "give_up_after", "window", "concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("timeout", "longest_retry_after", "requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:     # nan too
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("price_in", "price_out", "longest_wait", "budget_tokens", "budget_cost"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        if self.api not in ("chat", "completions"):
            raise ValueError(f"api={self.api!r} is neither 'chat' nor 'completions'")
        if self.budget_cost is not None and not any(map(any, self.prices())):
            raise ValueError("budget_cost needs price_in and price_out, in dollars per million tokens")

    def models(self) -> tuple[str, ...]:
        """The model of each teacher; recipes with two teachers name two."""
        return (self.model,)

    def with_models(self, names: Sequence[str]) -> "AskConfig":
        """The same with the models that are really asked, one for each of `models`."""
        return dataclasses.replace(self, model=names[0])

    def shaping(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Of the settings of a config like this one, as they stand in its file, those that shape requests."""
        return {name: value for name, value in settings.items() if name not in free_settings(self)}

    @property
    def more_models(self) -> str:
        """How this recipe is told to ask more models than `models` names; "" when it has no such setting."""
        return ""

    def prices(self) -> tuple[tuple[float, float], ...]:
        """The prices of each teacher."""
        return ((self.price_in, self.price_out),)


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request. (id, sample, attempt) names it in the ledger and is never used for another."""
    id: str
    messages: tuple[Message, ...]
    sample: int = 0
    attempt: int = 0                # 0-based: another try, when the answer before was of no use
    number: int = 0                 # added to the config's seed
    teacher: int = 0                # which of the teachers
    max_tokens: int | None = None   # instead of the config's
    step: str = ""                  # for the recipe alone: what is asked for
    about: Any = None               # for the recipe alone: what it is about

    @property
    def key(self) -> tuple[str, int, int]:
        """What names it in the ledger."""
        return self.id, self.sample, self.attempt

    @property
    def prompt_tokens(self) -> float:
        """An estimate, on the high side, of all messages."""
        return sum(prompt_tokens(message.content) for message in self.messages)


class Recipe(Protocol):
    """What the runner needs. `failures_stay`: a failed request counts as answered with nothing, also by the next
    command, as later requests may follow from that; else the next command asks it again."""
    wanted: int                     # rows
    made: int                       # rows so far
    dropped: Counter[str]           # reason -> what was not kept
    failures_stay: bool

    def foreseen(self) -> Sequence[Ask]:
        """Requests that are known before any answer."""

    def next(self) -> Ask | None:
        """The next request; None when none is needed before another answer is taken, or none at all."""

    def take(self, ask: Ask, entry: LedgerEntry) -> None:
        """Reads an answer, or a failure."""

    def rows(self) -> Iterator[tuple[int, Conversation]]:
        """(teacher, conversation), in the dataset's order; the runner fills in the teacher's name."""


class Unusable(Exception):
    """An answer that makes no row; the text is the reason that it is counted under."""


def draws(seed: int | None, number: int | str) -> random.Random:
    """Random numbers of one request: the same in every process and version of Python."""
    return random.Random(f"{seed}/{number}")


FILTERED = "content_filter"
"""The finish reason of an answer that the endpoint's filter took, or cut off."""


def cut_off(entry: LedgerEntry) -> bool:
    """Whether the answer breaks off: at `max_tokens`, or by a filter."""
    return entry.finish_reason in ("length", FILTERED)


def whole_lines(entry: LedgerEntry) -> str:
    """The answer without the line in the middle of which it was cut off, if it was."""
    text = entry.response or ""
    return text[:text.rfind("\n") + 1] if cut_off(entry) else text


class Listed:
    """A recipe of requests that are known from the start, one row each. Subclasses say how an answer is read."""
    failures_stay = False

    def __init__(self, asks: Sequence[Ask], tries: int = 1):
        """`tries` at each row: an answer of no use is asked for again, with another number."""
        self.asks, self.wanted, self.tries = asks, len(asks), tries
        self.dropped: Counter[str] = Counter()
        self._rows: dict[tuple[str, int], Conversation] = {}
        self._first, self._again = iter(asks), deque[Ask]()

    @property
    def made(self) -> int:
        """Rows so far."""
        return len(self._rows)

    def read(self, ask: Ask, entry: LedgerEntry) -> Conversation:
        """The row of an answer. Raises Unusable."""
        raise NotImplementedError

    def foreseen(self) -> Sequence[Ask]:
        """All but further tries."""
        return self.asks

    def next(self) -> Ask | None:
        """Further tries first."""
        return self._again.popleft() if self._again else next(self._first, None)

    def take(self, ask: Ask, entry: LedgerEntry) -> None:
        """Keeps the row, or asks again, or counts why not."""
        if entry.status == "failed":
            return
        try:
            self._rows[ask.key[:2]] = self.read(ask, entry)
        except Unusable as why:
            if ask.attempt + 1 < self.tries:
                self._again.append(dataclasses.replace(ask, attempt=ask.attempt + 1, number=ask.number + 1_000_000))
            else:
                self.dropped[str(why)] += 1

    def rows(self) -> Iterator[tuple[int, Conversation]]:
        """In the order of the list."""
        return ((ask.teacher, self._rows[ask.key[:2]]) for ask in self.asks if ask.key[:2] in self._rows)


@dataclasses.dataclass(frozen=True)
class GrowingConfig(AskConfig):
    """What the recipes share that ask until there are enough rows."""
    rows: int = free(1000)

    def __post_init__(self):
        super().__post_init__()
        if self.rows < 1:
            raise ValueError(f"rows={self.rows} must be at least 1")


class Growing:
    """A recipe that asks until `config.rows` rows are there. Subclasses make requests and read answers.

    No more is asked than the rows that are missing seem to need, by what the answers so far brought (`per_answer`
    before the first). Not so where requests build on answers: there the number wanted must not change which request
    follows which answer, or a larger number could not go on from a smaller one. Of rows above it the first are kept.
    """
    failures_stay = True
    builds_on_answers = False

    def __init__(self, config: GrowingConfig, per_answer: float):
        self.config, self.wanted = config, config.rows
        self.dropped: Counter[str] = Counter()
        self._rows: list[Conversation] = []
        self._per_answer, self._asked, self._taken = per_answer, 0, 0

    @property
    def made(self) -> int:
        """Rows so far, at most those wanted."""
        return min(self.wanted, len(self._rows))

    def make(self, number: int) -> Ask:
        """Request `number`, from 0; its id is the number."""
        raise NotImplementedError

    def read(self, ask: Ask, entry: LedgerEntry) -> None:
        """Takes an answer in; rows by `self.add`."""
        raise NotImplementedError

    def foreseen(self) -> Sequence[Ask]:
        """None: they depend on answers."""
        return ()

    def next(self) -> Ask | None:
        """The next request, if those under way will not do."""
        rows, under_way = len(self._rows), self._asked - self._taken
        expected = (rows + self._per_answer) / (self._taken + 1)    # of one answer
        enough = under_way and not self.builds_on_answers and rows + under_way * expected >= self.wanted
        if rows >= self.wanted or enough:
            return None
        self._asked += 1
        return self.make(self._asked - 1)

    def take(self, ask: Ask, entry: LedgerEntry) -> None:
        """Reads an answer; a failure brought nothing."""
        self._taken += 1
        if entry.status == "ok":
            self.read(ask, entry)

    def add(self, ask: Ask, place: int, question: str, answer: str, **meta: Any) -> None:
        """A row: the `place`-th of an answer. Its id leads to the ledger."""
        self._rows.append(Conversation(self.config.dataset, f"{ask.id}_{place}",
                                       (Message("user", question), Message("assistant", answer)), meta=meta))

    def rows(self) -> Iterator[tuple[int, Conversation]]:
        """In the order of the requests."""
        return ((0, row) for row in self._rows[:self.wanted])
