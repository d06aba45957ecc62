"""Carries out a recipe: asks its requests within the limits, writes every answer to the ledger first, then its rows.

    recipe.next ─► OUT.ledger.jsonl holds it? ─ no ─► ask ─► ledger ─► recipe.take ─► ... ─► OUT, OUT.card.json

The same command continues where a killed one stopped: an answer that stands in the ledger is not asked for again. It
serves only the request that it answers: a changed prompt, model or sampling setting under the same --out is an error.
What order things happen in, and why that makes resuming exact, is said in recipe.py.
"""
import asyncio
import contextlib
import dataclasses
import datetime
import os
import pathlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from easylm_imitation import console
from easylm_imitation.client import Client, ClientConfig, Closing, RequestFailed, ServedModel, Spoiled, in_loop
from easylm_imitation.files import digest, file_sha256, read_object, write_json, write_jsonl
from easylm_imitation.journal import Journal
from easylm_imitation.records import CollectionCard, LedgerEntry, code_version
from easylm_imitation.schema import Incomplete, UserError, plain
from easylm_imitation.teacher.recipe import Ask, AskConfig, Recipe
from easylm_imitation.teacher.spending import OTHERS, Spending, uncounted


@dataclasses.dataclass(frozen=True)
class CollectResult:
    """What a collection did. Tokens and cost are of the whole ledger."""
    out: str
    teacher: str                    # several are joined by " + "
    wanted: int                     # rows
    kept: int                       # rows written
    missing: int                    # wanted and not written: failed, of no use, or never asked for
    unusable: int                   # of those: rows of a list, every answer to which was of no use (`dropped` says why)
    stopped: str                    # "" or why no more was asked: "budget used up", "nothing new"
    asked: int                      # requests answered in this run
    reused: int                     # requests answered in earlier runs
    failed: int                     # requests that failed in this run
    cut_short: int                  # pauses of this run that the server wanted longer than `longest_retry_after`
    dropped: dict[str, int]         # reason -> what was not kept
    prompt_tokens: int
    completion_tokens: int
    cost: float                     # US dollars
    uncounted: int                  # answers of the ledger without usage: tokens and cost are too low
    spoiled: int                    # answers of the ledger that were paid and could not be read


def collect(config: AskConfig, recipe: Recipe, urls: Sequence[str], out: str | os.PathLike,
            inputs: str | os.PathLike | None = None) -> CollectResult:
    """Carries out `recipe` with the teachers at `urls` (one for each of its models, or one for all); writes `out`.

    Beside `out` stand `<out>.ledger.jsonl`, `<out>.config.json` and `<out>.card.json`. Raises UserError before any
    request for a ledger of another collection, and later for an endpoint that refuses or is gone; Incomplete when there
    is no row at all. What was answered by then stays in the ledger.
    """
    if len(urls) not in (1, len(config.models())):
        more = f"; {config.more_models}" if config.more_models else ""
        raise UserError(f"{len(urls)} teachers for a recipe that asks {len(config.models())}; write --teacher A,B, "
                        f"one for each, or one address that serves all{more}")
    urls = list(urls) * (len(config.models()) if len(urls) == 1 else 1)
    _refuse_foreign_output(out)
    return in_loop(_collect(config, recipe, urls, pathlib.Path(out), inputs))


async def _collect(config: AskConfig, recipe: Recipe, urls: Sequence[str], out: pathlib.Path,
                   inputs: str | os.PathLike | None) -> CollectResult:
    async with contextlib.AsyncExitStack() as stack:
        teachers = [await _open_teacher(config, url, model, stack) for url, model in zip(urls, config.models())]
        if len({(teacher.client.base, teacher.model) for teacher in teachers}) < len(teachers):
            raise UserError(f"both teachers are '{teachers[0].model}' of {teachers[0].client.base}; name another model "
                            "for the second, or write --teacher A,B")
        config = config.with_models([teacher.model for teacher in teachers])
        ledger = stack.enter_context(Journal(LedgerEntry, _beside(out, "ledger.jsonl")))
        run = _Run(config, recipe, teachers, ledger)
        run.check_same_collection(_beside(out, "config.json"))
        write_json(_beside(out, "config.json"), config)
        await run.to_the_end()
    rows = [dataclasses.replace(row, teacher=teachers[number].label) for number, row in recipe.rows()]
    labels = sorted({row.teacher for row in rows} or {teacher.label for teacher in teachers})
    unusable = 0 if recipe.failures_stay else recipe.dropped.total()    # else what is dropped is no row that was wanted
    spent = run.spending
    result = CollectResult(
        str(out), " + ".join(labels), recipe.wanted, len(rows), max(0, recipe.wanted - len(rows)), unusable,
        run.stopped, run.asked, run.reused, run.failed, sum(teacher.client.cut_short for teacher in teachers),
        dict(+recipe.dropped), spent.prompt_tokens, spent.completion_tokens, round(spent.cost, 6),
        sum(map(uncounted, ledger.entries)), sum(entry.status == "spoiled" for entry in ledger.entries))
    _show(result)
    if not rows:
        raise Incomplete(f"--out {out} is not written, no answer to keep: {what_is_missing(result)}", plain(result))
    write_jsonl(out, rows)
    write_json(_beside(out, "card.json"), _card(config, result, teachers, ledger.entries, inputs))
    return result


@dataclasses.dataclass(frozen=True)
class _Teacher:
    """Who is asked."""
    client: Client
    served: ServedModel

    @property
    def model(self) -> str:
        """How requests name it."""
        return self.served.id

    @property
    def label(self) -> str:
        """How rows name it: `name@id` of its lineage, or its model id."""
        return self.served.lineage.label if self.served.lineage else self.served.id


async def _open_teacher(config: AskConfig, url: str, model: str, stack: contextlib.AsyncExitStack) -> _Teacher:
    client = await stack.enter_async_context(Client(ClientConfig(
        url, model, config.api_key_env, config.concurrency, config.timeout, config.attempts,
        longest_wait=config.longest_wait, longest_retry_after=config.longest_retry_after,
        requests_per_minute=config.requests_per_minute, tokens_per_minute=config.tokens_per_minute)))
    return _Teacher(client, await client.model())


class _Run:
    """The requests of one run: reuses, spends, journals, counts, and stops when going on makes no sense."""

    def __init__(self, config: AskConfig, recipe: Recipe, teachers: Sequence[_Teacher], ledger: Journal[LedgerEntry]):
        self.config, self.recipe, self.teachers, self.ledger = config, recipe, teachers, ledger
        self.asked = self.reused = self.failed = self._failed_in_a_row = self._nothing_new = 0
        self.stopped = ""
        self.spending = Spending(config.prices(), tokens=config.budget_tokens, cost=config.budget_cost)
        for entry in ledger.entries:
            self.spending.add(entry)
        self._known = {(e.prompt_id, e.sample, e.attempt): e for e in ledger.entries
                       if e.status == "ok" or (recipe.failures_stay and e.status == "failed")}
        self._slots = asyncio.Semaphore(config.concurrency)
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()     # its exception ends the run

    async def to_the_end(self) -> None:
        """Asks until the recipe wants no more, the budget is used up, or nothing new comes. The order of the calls of
        `next` and `take` is the rule of replay: it may depend on nothing but answers."""
        waiting: deque[tuple[Ask, LedgerEntry | asyncio.Task]] = deque()
        tasks: set[asyncio.Task] = set()
        try:
            with console.progress("asking the teacher", total=self.recipe.wanted) as advance:
                while True:
                    while not self.stopped and len(waiting) < self.config.window and (ask := self.recipe.next()):
                        waiting.append((ask, self._answer(ask, tasks)))
                    if not waiting:
                        break
                    ask, answer = waiting.popleft()
                    entry = await self._answered(answer) if isinstance(answer, asyncio.Task) else answer
                    if entry:
                        self._take(ask, entry, advance)
        finally:
            await self._land(tasks)

    async def _answered(self, answer: asyncio.Task) -> LedgerEntry | None:
        await asyncio.wait({answer, self._fatal}, return_when=asyncio.FIRST_COMPLETED)
        return self._fatal.result() if self._fatal.done() else answer.result()

    async def _land(self, tasks: set[asyncio.Task]) -> None:
        """Sends nothing more, and waits for what is on its way, as it may be paid: at most `timeout` seconds, or until
        a second interrupt."""
        for teacher in self.teachers:
            teacher.client.closing = True
        sent = tasks & set().union(*(teacher.client.on_the_way for teacher in self.teachers))
        for task in tasks - sent:
            task.cancel()
        try:
            if sent:
                console.say(f"stopping: {len(sent)} answers are on their way and may be paid, they are waited for; "
                            "interrupt again to give them up")
                await asyncio.wait(sent, timeout=self.config.timeout)
        finally:
            for task in sent:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not self._fatal.cancel():
                self._fatal.exception()     # also when an interrupt came first, or asyncio complains

    def check_same_collection(self, path: pathlib.Path) -> None:
        """UserError when the ledger answers other requests than this collection would ask; names what differs."""
        if not self.ledger.entries:
            return
        if path.exists():
            before, now = (self.config.shaping(settings) for settings in (read_object(path), plain(self.config)))
            for name in sorted(before.keys() & now.keys()):
                if before[name] != now[name]:
                    raise UserError(f"{self.ledger.path} holds answers to other requests: '{name}' was "
                                    f"{before[name]!r} and is {now[name]!r}; choose another --out, or undo the change")
        for ask in self.recipe.foreseen():
            self._known_answer(ask)

    def _known_answer(self, ask: Ask) -> LedgerEntry | None:
        entry = self._known.get(ask.key)
        if entry and entry.request != self._hash(ask):
            raise UserError(f"{self.ledger.path} holds answers to other requests: the text of prompt '{ask.id}' has "
                            "changed; choose another --out, or undo the change")
        return entry

    def _answer(self, ask: Ask, tasks: set[asyncio.Task]) -> LedgerEntry | asyncio.Task:
        """The entry that the ledger holds, or a task that asks: its result is None when the budget is used up."""
        entry = self._known_answer(ask)
        if entry is None:
            task = asyncio.create_task(self._ask_or_end(ask))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task
        self.reused += entry.status == "ok"
        return entry

    async def _ask_or_end(self, ask: Ask) -> LedgerEntry | None:
        try:
            return await self._ask_within_limits(ask)
        except Closing:
            return None
        except Exception as error:
            for teacher in self.teachers:
                teacher.client.closing = True
            if not self._fatal.done():
                self._fatal.set_exception(error)
            return None

    async def _ask_within_limits(self, ask: Ask) -> LedgerEntry | None:
        async with self._slots:
            if self.stopped or not await self._hold(ask):
                return None
            try:
                entry, counted = await self._ask(ask)
                self.ledger.append(entry)       # before any check: it is paid
                self.spending.add(entry)
            finally:
                await self.spending.release(ask.key)
        if not counted and self.spending.limited:
            raise UserError(f"{self.teachers[ask.teacher].client.base} reports no token usage, so a budget cannot be "
                            "kept; leave budget_tokens and budget_cost out. What was answered is kept")
        self._watch(entry)
        return entry

    async def _hold(self, ask: Ask) -> bool:
        fits = await self.spending.hold(ask.key, ask.teacher, ask.prompt_tokens, self._options(ask)["max_tokens"])
        self.stopped = self.stopped or ("" if fits else "budget used up")
        return fits

    async def _ask(self, ask: Ask) -> tuple[LedgerEntry, bool]:
        """What came of it, and whether its tokens are known."""
        teacher, now = self.teachers[ask.teacher], datetime.datetime.now(datetime.UTC)
        name = {"request": self._hash(ask), "attempt": ask.attempt, "time": f"{now:%Y-%m-%dT%H:%M:%SZ}"}

        async def spoiled(answer: Spoiled) -> None:
            used = answer.prompt_tokens, answer.completion_tokens
            entry = LedgerEntry(*ask.key[:2], "spoiled", teacher.model, *used, self.spending.price(ask.teacher, *used),
                                error=answer.why, response=answer.body, **name)
            self.ledger.append(entry)
            self.spending.add(entry)
            await self.spending.release(ask.key)    # the next attempt may cost as much again, above what this one did
            if not await self._hold(ask):
                raise Closing

        options = self._options(ask) | {"spoiled": spoiled}
        asking = (teacher.client.chat(ask.messages, **options) if self.config.api == "chat"
                  else teacher.client.complete(ask.messages[0].content, **options))
        try:
            reply = await asking
        except RequestFailed as error:
            return LedgerEntry(*ask.key[:2], "failed", teacher.model, error=str(error), **name), True
        counted = None not in (reply.prompt_tokens, reply.completion_tokens)
        used = reply.prompt_tokens or 0, reply.completion_tokens or 0
        return LedgerEntry(*ask.key[:2], "ok", reply.model, *used, self.spending.price(ask.teacher, *used),
                           reply.seconds, reply.finish_reason, response=reply.text, **name), counted

    def _options(self, ask: Ask) -> dict[str, Any]:
        config = self.config
        return {"max_tokens": ask.max_tokens or config.max_tokens, "temperature": config.temperature,
                "top_p": config.top_p, "stop": list(config.stop) or None,
                "seed": None if config.seed is None else config.seed + ask.number}

    def _hash(self, ask: Ask) -> str:
        """Ties an answer to its request."""
        other = [] if self.config.api == "chat" else [self.config.api]
        return digest([ask.messages, self.teachers[ask.teacher].model, self._options(ask), *other])

    def _watch(self, entry: LedgerEntry) -> None:
        if entry.status == "ok":
            self.asked += 1
            self._failed_in_a_row = 0
            return
        self.failed += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.config.give_up_after:
            raise UserError(f"{self._failed_in_a_row} requests in a row failed, the last ('{entry.prompt_id}') with: "
                            f"{entry.error}. What was answered is kept; the same command continues")

    def _take(self, ask: Ask, entry: LedgerEntry, advance: Any) -> None:
        before = self.recipe.made
        self.recipe.take(ask, entry)
        made, cost = self.recipe.made, self.spending.cost
        if entry.status == "ok":
            self._nothing_new = 0 if made > before else self._nothing_new + 1
        # Rows may take three steps (self-instruct), each of which fills a window before the next begins.
        if self._nothing_new >= self.config.give_up_after + 3 * self.config.window:
            self.stopped = self.stopped or "nothing new"
        expected = f" of about ${cost * self.recipe.wanted / made:.2f}" if made else ""
        advance(made - before, note=f"${cost:.2f}{expected}" if cost else "")


def _beside(out: str | os.PathLike, name: str) -> pathlib.Path:
    out = pathlib.Path(out)
    return out.with_name(f"{out.name}.{name}")


def _refuse_foreign_output(out: str | os.PathLike) -> None:
    out, ledger = pathlib.Path(out), _beside(out, "ledger.jsonl")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file")
    if out.exists() and not ledger.exists():
        raise UserError(f"--out {out} exists but no {ledger.name} beside it: not collected here; choose another name")


def _card(config: AskConfig, result: CollectResult, teachers: Sequence[_Teacher], entries: Sequence[LedgerEntry],
          inputs: str | os.PathLike | None) -> CollectionCard:
    times = sorted(entry.time for entry in entries if entry.time) or [""]
    answered, failed = (sum(entry.status == status for entry in entries) for status in ("ok", "failed"))
    terms = config.terms or ("not noted: before you train on these rows or hand them on, look up what the teacher's "
                             "provider, or the licence of its weights, allows to do with its outputs")
    return CollectionCard(
        config.recipe, config.dataset, tuple(teacher.label for teacher in teachers), terms, times[0], times[-1],
        result.kept, result.wanted, result.dropped, answered, failed, result.prompt_tokens,
        result.completion_tokens, result.cost, OTHERS, digest(config), file_sha256(inputs) if inputs else "",
        tuple(teacher.served.lineage for teacher in teachers if teacher.served.lineage), code_version(),
        result.uncounted)


def _show(result: CollectResult) -> None:
    counts = [("requests answered now", result.asked), ("answered before", result.reused), ("failed", result.failed),
              *([("pauses cut to longest_retry_after", result.cut_short)] if result.cut_short else []),
              *((f"dropped: {why}", n) for why, n in result.dropped.items()),
              ("rows", f"{result.kept} of {result.wanted}"), ("prompt tokens", result.prompt_tokens),
              ("answer tokens", result.completion_tokens), ("cost in $", f"{result.cost:.4f}")]
    if result.cost:
        counts += [(f"  {who}: $", f"{paid:,.0f}") for who, paid in OTHERS.items()]
    console.table(f"{result.teacher} → {result.out}", ["", "count"], [[name, n] for name, n in counts])
    if result.spoiled:
        console.say(f"{result.spoiled} answers were paid and could not be read; the ledger holds them as 'spoiled'")
    if result.uncounted:
        console.say(f"{result.uncounted} answers without usage: tokens and cost are too low")


_KEPT_BY = {"empty": "empty=keep", "filtered": "filtered=keep", "truncated": "truncated=keep",
            "refusal": "refusals=keep"}


def what_is_missing(result: CollectResult) -> str:
    """How many rows, why, and how to go on; one line."""
    why = [_of_no_use(result)] if result.unusable else []
    if result.stopped == "budget used up":
        why.append("the budget is used up; with a larger budget_tokens or budget_cost the same command goes on")
    elif result.stopped == "nothing new":
        why.append("the last answers brought nothing new; with other seeds or settings under another --out, or a "
                   "larger give_up_after, there may be more")
    elif result.missing > result.unusable:
        why.append(f"{result.failed} requests failed in this run; the same command goes on (the ledger says why they "
                   "failed)")
    dropped = f" (dropped so far: {_reasons(result)})" if result.dropped and not result.unusable else ""
    return f"{result.missing} of {result.wanted} rows are missing: {'; and '.join(why)}{dropped}"


def _reasons(result: CollectResult) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in result.dropped.items())


def _of_no_use(result: CollectResult) -> str:
    kept_by = [_KEPT_BY[reason] for reason in result.dropped if reason in _KEPT_BY]
    keep = f"; {', '.join(kept_by)} would keep such answers, without asking again" if kept_by else ""
    return (f"for {result.unusable} every answer was of no use and dropped, as the settings say ({_reasons(result)}); "
            f"a larger tries (with a temperature above 0) asks for these anew{keep}")
