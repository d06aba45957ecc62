"""The recipe `answers`: each prompt is answered by the teacher, n times if wanted, and becomes a conversation.

    prompts.jsonl ─► requests ─► OUT.ledger.jsonl (journal, first) ─► OUT (conversations, at the end, in prompt order)

The same command continues where a killed one stopped: what stands in the ledger is not asked again. An answer serves
only the request that it answers: a changed prompt, model or sampling setting under the same --out is an error.
"""
import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from easylm_imitation import console
from easylm_imitation.client import Client, ClientConfig, Reply, RequestFailed, for_each, with_client
from easylm_imitation.journal import Journal
from easylm_imitation.records import (
    Conversation,
    LedgerEntry,
    Message,
    Prompt,
    digest,
    read_json,
    read_prompts,
    write_json,
    write_jsonl,
)
from easylm_imitation.schema import UserError
from easylm_imitation.teacher.spending import Spending


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """How the teacher is asked, what of its answers is kept, and what it may cost."""
    dataset: str = "answers"                # name of the dataset, for prompts that name none
    model: str = ""                         # the endpoint's model; "" when it serves one
    samples: int = 1                        # answers to each prompt
    temperature: float = 0.7
    top_p: float | None = None
    max_tokens: int = 1024                  # of one answer
    stop: tuple[str, ...] = ()
    seed: int | None = None                 # of the first sample; the k-th gets seed + k
    system: str = ""                        # system message for prompts that have none
    keep_system: bool = False               # whether that message becomes part of the conversation
    empty: Literal["drop", "keep"] = "drop"         # answers without text
    truncated: Literal["drop", "keep"] = "drop"     # answers cut off by max_tokens
    price_in: float = 0.0                   # US dollars per million prompt tokens
    price_out: float = 0.0                  # US dollars per million tokens of answers
    budget_tokens: int | None = None        # ceiling over the whole ledger, prompts and answers together
    budget_cost: float | None = None        # ceiling in US dollars, likewise
    concurrency: int = 8
    timeout: float = 120.0                  # seconds for one attempt
    attempts: int = 6                       # of one request
    give_up_after: int = 20                 # prompts that fail in a row
    api_key_env: str = "OPENAI_API_KEY"

    def __post_init__(self):
        for name in ("samples", "max_tokens", "give_up_after"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples={self.samples} with temperature=0 pays for equal answers; raise the temperature")
        if self.budget_cost is not None and not (self.price_in or self.price_out):
            raise ValueError("budget_cost needs price_in and price_out, in dollars per million tokens")


@dataclasses.dataclass(frozen=True)
class CollectResult:
    """What a collection did. Counts are of (prompt, sample) pairs; tokens and cost are of the whole ledger."""
    out: str
    teacher: str
    wanted: int
    asked: int                      # answered in this run
    reused: int                     # answered in earlier runs
    failed: int
    unasked: int                    # left out because the budget was used up
    kept: int                       # conversations written
    dropped: dict[str, int]         # reason -> answers not kept
    prompt_tokens: int
    completion_tokens: int
    cost: float                     # US dollars


def collect_answers(config: CollectConfig, url: str, prompts: str | os.PathLike,
                    out: str | os.PathLike) -> CollectResult:
    """Asks the model at `url` each prompt of the file `prompts` and writes conversations to `out`.

    Beside `out` stand `<out>.ledger.jsonl` and `<out>.config.json`. Raises UserError before any request for a bad line
    in the prompts or a ledger of another collection, and later for an endpoint that refuses or is gone, or when no
    answer can be kept; what was answered by then stays in the ledger.
    """
    asked = read_prompts(prompts)
    client_config = ClientConfig(url, config.model, config.api_key_env, config.concurrency, config.timeout,
                                 config.attempts)
    paths = _paths(out)
    _refuse_foreign_output(*paths[:2])
    return with_client(client_config, lambda client: _collect(config, client, asked, *paths))


async def _collect(config: CollectConfig, client: Client, prompts: list[Prompt], out: pathlib.Path,
                   ledger_path: pathlib.Path, config_path: pathlib.Path) -> CollectResult:
    served = await client.model()
    config = dataclasses.replace(config, model=served.id)
    jobs = [_job(config, prompt, sample) for prompt in prompts for sample in range(config.samples)]
    with Journal(LedgerEntry, ledger_path) as ledger:
        answers = _answers(ledger)
        _check_same_collection(config, config_path, jobs, answers)
        write_json(config_path, config)
        missing = [job for job in jobs if job.key not in answers]
        collection = _Collection(config, client, ledger)
        await collection.run(missing)
        answers, reused, spent = _answers(ledger), len(jobs) - len(missing), collection.spending
    teacher = served.lineage.label if served.lineage else served.id
    dropped: Counter[str] = Counter()
    conversations = list(_conversations(config, jobs, answers, teacher, dropped))
    answered = sum(job.key in answers for job in jobs)
    result = CollectResult(
        str(out), teacher, len(jobs), answered - reused, reused, collection.failed,
        len(jobs) - answered - collection.failed, len(conversations), dict(dropped), spent.prompt_tokens,
        spent.completion_tokens, round(spent.cost, 6))
    _show(result)
    if not conversations:
        raise UserError(f"--out {out} is not written: no answer to keep; the last lines of {ledger_path} say why")
    write_jsonl(out, conversations)
    return result


def _answers(ledger: Journal[LedgerEntry]) -> dict[tuple[str, int], LedgerEntry]:
    """The successful entry of each (prompt id, sample)."""
    return {(e.prompt_id, e.sample): e for e in ledger.entries if e.status == "ok"}


@dataclasses.dataclass(frozen=True)
class _Job:
    """One answer that is wanted: the request, and the hash that ties the answer to it."""
    prompt: Prompt
    sample: int
    messages: tuple[Message, ...]
    options: dict[str, Any]
    request: str

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.id, self.sample

    @property
    def characters(self) -> int:
        return sum(len(m.content) for m in self.messages)


def _job(config: CollectConfig, prompt: Prompt, sample: int) -> _Job:
    own_system = prompt.messages[0].role == "system"
    system = (Message("system", config.system),) if config.system and not own_system else ()
    messages = system + prompt.messages
    options = {"max_tokens": config.max_tokens, "temperature": config.temperature, "top_p": config.top_p,
               "stop": list(config.stop) or None, "seed": None if config.seed is None else config.seed + sample}
    return _Job(prompt, sample, messages, options, digest([messages, config.model, options]))


class _Collection:
    """The requests of one run: spends, journals, counts failures, and stops when going on makes no sense."""

    def __init__(self, config: CollectConfig, client: Client, ledger: Journal[LedgerEntry]):
        self.config, self.client, self.ledger = config, client, ledger
        self.failed = self._failed_in_a_row = 0
        self._out_of_budget = False
        self.spending = Spending(price_in=config.price_in, price_out=config.price_out,
                                 tokens=config.budget_tokens, cost=config.budget_cost)
        for entry in ledger.entries:
            self.spending.add(entry)

    async def run(self, jobs: list[_Job]) -> None:
        """Asks all `jobs`, or as many as the budget allows."""
        with console.progress("asking the teacher", total=len(jobs)) as advance:
            async def work(job: _Job) -> None:
                await self._answer(job)
                advance(note=f"${self.spending.cost:.2f}" if self.spending.cost else "")
            await for_each(self._while_affordable(jobs), work, self.config.concurrency)

    def _while_affordable(self, jobs: list[_Job]) -> Iterator[_Job]:
        for job in jobs:
            if self._out_of_budget:
                return
            yield job

    async def _answer(self, job: _Job) -> None:
        if not await self.spending.hold(job.key, job.characters, self.config.max_tokens):
            self._out_of_budget = True
            return
        try:
            entry = await self._ask(job)
            self.ledger.append(entry)
            self.spending.add(entry)
        finally:
            await self.spending.release(job.key)
        self._watch(entry)

    async def _ask(self, job: _Job) -> LedgerEntry:
        try:
            reply = await self.client.chat(job.messages, **job.options)
        except RequestFailed as error:
            return LedgerEntry(*job.key, "failed", self.config.model, error=str(error), request=job.request)
        used = self._usage(reply)
        return LedgerEntry(*job.key, "ok", reply.model, *used, self.spending.price(*used), reply.seconds,
                           reply.finish_reason, response=reply.text, request=job.request)

    def _usage(self, reply: Reply) -> tuple[int, int]:
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            if self.spending.limited:
                raise UserError(f"{self.client.base} reports no token usage, so a budget cannot be kept; "
                                "leave budget_tokens and budget_cost out")
            return 0, 0
        return reply.prompt_tokens, reply.completion_tokens

    def _watch(self, entry: LedgerEntry) -> None:
        if entry.status == "ok":
            self._failed_in_a_row = 0
            return
        self.failed += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.config.give_up_after:
            raise UserError(f"{self._failed_in_a_row} prompts in a row failed, the last ('{entry.prompt_id}') with: "
                            f"{entry.error}. What was answered is kept; the same command continues")


def _conversations(config: CollectConfig, jobs: list[_Job], answers: dict[tuple[str, int], LedgerEntry], teacher: str,
                   dropped: Counter[str]) -> Iterator[Conversation]:
    """The answers in the order of the prompts; counts in `dropped` what the config does not keep."""
    for job in jobs:
        entry = answers.get(job.key)
        if entry is None:
            continue
        reason = _reason_to_drop(config, entry)
        if reason:
            dropped[reason] += 1
            continue
        asked = job.messages if config.keep_system else job.prompt.messages
        name = job.prompt.id if config.samples == 1 else f"{job.prompt.id}_{job.sample}"
        yield Conversation(job.prompt.dataset or config.dataset, name, (*asked, Message("assistant", entry.response)),
                           teacher, {**job.prompt.meta, "finish_reason": entry.finish_reason})


def _reason_to_drop(config: CollectConfig, entry: LedgerEntry) -> str:
    if config.empty == "drop" and not (entry.response or "").strip():
        return "empty"
    return "truncated" if config.truncated == "drop" and entry.finish_reason == "length" else ""


def _paths(out: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    out = pathlib.Path(out)
    return out, out.with_name(out.name + ".ledger.jsonl"), out.with_name(out.name + ".config.json")


def _refuse_foreign_output(out: pathlib.Path, ledger: pathlib.Path) -> None:
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file")
    if out.exists() and not ledger.exists():
        raise UserError(f"--out {out} exists but no {ledger.name} beside it: not collected here; choose another name")


def _check_same_collection(config: CollectConfig, path: pathlib.Path, jobs: list[_Job],
                           answers: dict[tuple[str, int], LedgerEntry]) -> None:
    """UserError when the ledger holds an answer to another request under the same prompt id; names what differs."""
    other = next((j for j in jobs if j.key in answers and answers[j.key].request != j.request), None)
    if other is None:
        return
    before = read_json(CollectConfig, path) if path.exists() else config
    asked = ("model", "system", "temperature", "top_p", "max_tokens", "stop", "seed")
    changed = next((name for name in asked if getattr(before, name) != getattr(config, name)), None)
    what = (f"'{changed}' was {getattr(before, changed)!r} and is {getattr(config, changed)!r}" if changed
            else f"the text of prompt '{other.prompt.id}' has changed")
    raise UserError(f"the ledger beside {path} holds answers to other requests: {what}; choose another --out, or undo "
                    "the change")


def _show(result: CollectResult) -> None:
    counts = [("answered now", result.asked), ("answered before", result.reused), ("failed", result.failed),
              ("left out: budget used up", result.unasked),
              *((f"dropped: {why}", n) for why, n in result.dropped.items()),
              ("conversations", result.kept), ("prompt tokens", result.prompt_tokens),
              ("answer tokens", result.completion_tokens), ("cost in $", f"{result.cost:.4f}")]
    console.table(f"{result.teacher} → {result.out}", ["", "count"], [[name, n] for name, n in counts])
    if result.failed:
        console.say("the same command asks the failed prompts again")
