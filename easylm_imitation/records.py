"""The schema of every file that passes between verbs, with a golden example of each in record_examples.py.

    prompts.jsonl ─ collect ─► conversations.jsonl + ledger.jsonl ─ build ─► DATA/card.json + shards
    DATA ─ train ─► RUN/{config.json, lineage.json, metrics.jsonl, ...} ─ evaluate ─► results.json ─► report

One JSON object a line in `.jsonl`, one object in `.json`; files.py writes and reads them.
"""
import dataclasses
import importlib.metadata
import os
from typing import Any, Literal

from easylm_imitation.files import iter_jsonl
from easylm_imitation.schema import UserError, build


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn. `document` is text without a speaker (pre-training text); it stands alone in its conversation."""
    role: Literal["system", "user", "assistant", "document"]
    content: str


@dataclasses.dataclass(frozen=True)
class Conversation:
    """One training example, and one line of a conversations file. Unknown keys of a line are kept in `meta`.

    Roles: an optional first `system`, then user and assistant in turn; or one `document` alone.
    `teacher` names the model that wrote the assistant turns; "" when people or programs did.
    """
    dataset: str
    id: str
    messages: tuple[Message, ...]
    teacher: str = ""
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One question for a teacher or a student: a line of a prompts file. The last message is the user's."""
    id: str
    messages: tuple[Message, ...]
    dataset: str = ""
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """One attempt to have one prompt answered, written as soon as the response is there; no key or header enters it."""
    prompt_id: str
    sample: int                     # 0-based, of n samples of the prompt
    status: Literal["ok", "failed", "spoiled"]      # spoiled: an attempt's answer, paid and unreadable (`response`)
    model: str                      # what the endpoint says answered
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0               # US dollars, from the config's prices
    seconds: float = 0.0
    finish_reason: str = ""
    error: str = ""
    response: str | None = None     # the text, None when failed; of a spoiled one the body
    request: str = ""               # hash of what was asked: messages, model and sampling; an answer serves that alone
    attempt: int = 0                # 0-based, of the tries at one answer whose earlier ones were no use
    time: str = ""                  # UTC, ISO 8601: when it was written


@dataclasses.dataclass(frozen=True)
class CollectionCard:
    """`<out>.card.json`: what `collect` asked whom, when, under which terms, and what came of it and was paid."""
    recipe: str
    dataset: str
    teachers: tuple[str, ...]       # as in the conversations
    terms: str                      # a note on what the teacher's terms say about training on its outputs
    first: str                      # UTC, ISO 8601: of the ledger's entries
    last: str
    rows: int
    wanted: int
    dropped: dict[str, int]         # reason -> count
    requests: int                   # answered ones
    failures: int                   # of the ledger
    prompt_tokens: int
    completion_tokens: int
    cost: float                     # US dollars
    others: dict[str, float]        # what others report to have paid, US dollars
    config: str                     # hash of the resolved config
    input: str = ""                 # SHA-256 of the input file; "" without one
    lineages: tuple["Lineage", ...] = ()    # of the teachers that offer one
    code: str = ""
    uncounted: int = 0              # answers whose usage the endpoint did not report: tokens and cost are too low


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Where a set of weights comes from. Written beside every model; copied into every result that it produced.

    `id` names the weights; `base` is the id of the model whose ability imitation is measured against (its own id for a
    model that never saw a teacher), `init` the id of the initial weights ("" when fresh).
    """
    id: str
    name: str
    base: str
    base_name: str
    init: str = ""
    teachers: tuple[str, ...] = ()  # who wrote the training data's assistant turns: labels or names
    data_card: str = ""             # hash of the data card trained on
    tokens: int = 0                 # training tokens seen, padding excluded, this run
    template: str = ""              # name@hash
    tokenizer: str = ""             # hash
    seed: int | None = None
    step: int | None = None
    code: str = ""                  # version of this package
    mixed: str = ""                 # hash of the data card of what was mixed in, such as pre-training text

    @property
    def label(self) -> str:
        """`name@id`: how training data say which weights answered; a name alone could mean another model."""
        return f"{self.name}@{self.id}"


@dataclasses.dataclass(frozen=True)
class SourceCount:
    """What `build` did with one source, in conversations. read + added = kept + left + the sum of dropped; its rows in
    the dataset are kept + copies. A record that cannot be read counts as one conversation."""
    path: str
    dataset: str
    sha256: str                     # of the file; of several files, a hash over theirs
    read: int
    kept: int
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)   # reason -> count
    added: int = 0                  # by splitting long ones
    left: int = 0                   # out of the mixture by its sizes, caps and budget
    copies: int = 0                 # rows beyond each conversation's first, by weight
    tokens: int = 0                 # of its rows
    loss_tokens: int = 0
    files: int = 1
    licence: str = ""
    origin: str = ""                # where the files are to be had
    cut_turns: int = 0              # of its conversations, by its format or by rules: no row holds them
    undrawn: int = 0                # records that were not read: a sample was drawn before


@dataclasses.dataclass(frozen=True)
class Sample:
    """A conversation that a cleaning rule met: how it began before and after, "" when the rule dropped it."""
    id: str
    before: str
    after: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class RuleCount:
    """What one cleaning rule did. seen + added = left in + dropped."""
    rule: str
    options: dict[str, Any]
    dataset: str                    # the source that it was for; "" for all of them
    seen: int
    changed: int
    dropped: int
    added: int                      # by splitting
    samples: tuple[Sample, ...] = ()    # the first few that it changed or dropped
    cut_turns: int = 0              # of conversations that it left in


@dataclasses.dataclass(frozen=True)
class Taught:
    """Who wrote answers of a dataset, when they were asked for and under which terms; "" where nobody noted it."""
    dataset: str
    teacher: str
    first: str = ""                 # UTC, ISO 8601
    last: str = ""
    terms: str = ""


@dataclasses.dataclass(frozen=True)
class DataCard:
    """DATA/card.json: what is in a built dataset. `hash` covers the shards and this card, but for paths and `code`."""
    name: str
    hash: str
    sources: tuple[SourceCount, ...]
    conversations: int
    tokens: int
    loss_tokens: int
    longest: int                    # tokens of the longest conversation
    tokenizer: str                  # hash
    template: str                   # name@hash
    teachers: tuple[str, ...] = ()
    seed: int | None = None         # of the conversations' order; None: as in the sources
    code: str = ""
    rules: tuple[RuleCount, ...] = ()   # what cleaning did, in the rules' order
    budget: int | None = None       # tokens that the dataset was to stay within
    overlaps: dict[str, Any] = dataclasses.field(default_factory=dict)      # evaluation set -> what was found of it
    diversity: dict[str, Any] = dataclasses.field(default_factory=dict)     # mean BLEU of a query to its nearest other
    held_out: dict[str, Any] = dataclasses.field(default_factory=dict)      # prompt set -> how many are too near to ask
    taught: tuple[Taught, ...] = ()     # what is known of the teachers
    index: dict[str, str] = dataclasses.field(default_factory=dict)     # file beside the shards -> its SHA-256
    records: str = ""               # hash of the rows alone: two builds that differ in what was looked for share it


@dataclasses.dataclass(frozen=True)
class Answer:
    """A model's answer to one prompt: a line of an answers file."""
    prompt_id: str
    prompt: str                     # the last user message
    answer: str
    model: str                      # name
    dataset: str = ""
    finish_reason: str = ""
    request: str = ""               # hash of all the messages that were asked; "" in answers that others recorded


@dataclasses.dataclass(frozen=True)
class Item:
    """One scored item of a task. Items pair across models by (task, id)."""
    id: str
    score: float                    # of the task's own metric, higher is better
    prediction: str = ""
    target: str = ""


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task under one prompt form. `choices` are log-likelihoods; models compare only in equal `protocol`s."""
    task: str
    prompt: Literal["raw", "chat"]
    form: Literal["choices", "generation", "style", "preference"]
    metric: str
    score: float
    items: tuple[Item, ...]
    shots: int = 0
    protocol: str = ""              # hash of task file, data, shots, prompt form, metric and how answers were asked for
    data: Literal["full", "sample", "published"] = "full"  # published: a teacher's score, without items, from a paper
    group: str = ""                 # "substance", "style", "preference": which side of the verdict it speaks for


@dataclasses.dataclass(frozen=True)
class Results:
    """What `evaluate` writes: one model, some tasks. `role` may be given; else report derives it from lineages."""
    model: Lineage
    tasks: tuple[TaskResult, ...]
    role: Literal["", "base", "imitation", "teacher"] = ""
    command: str = ""
    date: str = ""                  # UTC, ISO 8601
    code: str = ""
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)


def code_version() -> str:
    """Version of this package, as installed."""
    return importlib.metadata.version("easylm_imitation")


def conversation_from(mapping: dict[str, Any], where: str) -> Conversation:
    """A Conversation from one parsed line; keys beyond the schema are moved into `meta`. Raises UserError."""
    return build(Conversation, _extras_to_meta(Conversation, mapping), where)


def prompt_from(mapping: dict[str, Any], where: str) -> Prompt:
    """A Prompt from one parsed line; `{"id", "prompt": text}` is short for a single user message. Raises UserError."""
    if "prompt" not in mapping and "messages" not in mapping:
        raise UserError(f"{where}: the key 'prompt' is missing (or 'messages', for more than one message); a line "
                        'looks like {"id": "p0", "prompt": "Where is Oslo?"}')
    if "prompt" in mapping and "messages" not in mapping:
        mapping = {**mapping, "messages": [{"role": "user", "content": mapping["prompt"]}]}
        del mapping["prompt"]
    prompt = build(Prompt, _extras_to_meta(Prompt, mapping), where)
    if not prompt.messages or prompt.messages[-1].role != "user":
        raise UserError(f"{where}: prompt '{prompt.id}' must end with a user message")
    return prompt


def read_prompts(path: str | os.PathLike) -> list[Prompt]:
    """A whole prompts file. UserError with file and line for a bad line, an empty message or an id that comes twice."""
    prompts: dict[str, Prompt] = {}
    for number, mapping in iter_jsonl(path):
        prompt = prompt_from(mapping, f"{path}:{number}")
        if prompt.id in prompts:
            raise UserError(f"{path}:{number}: the id '{prompt.id}' was there before; ids must differ")
        if not all(message.content.strip() for message in prompt.messages):
            raise UserError(f"{path}:{number}: prompt '{prompt.id}' has an empty message")
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f'{path}: no prompts in it; a line looks like {{"id": "p0", "prompt": "Where is Oslo?"}}')
    return list(prompts.values())


def _extras_to_meta(cls: type, mapping: dict[str, Any]) -> dict[str, Any]:
    known = {f.name for f in dataclasses.fields(cls)}
    extras = {k: v for k, v in mapping.items() if k not in known}
    if not extras:
        return mapping
    kept = {k: v for k, v in mapping.items() if k in known}
    meta = mapping.get("meta", {})
    return {**kept, "meta": {**extras, **meta} if isinstance(meta, dict) else meta}     # build refuses what is no dict
