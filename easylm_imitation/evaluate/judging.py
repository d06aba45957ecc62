"""Asks a judge, any OpenAI-compatible endpoint, many questions: resumably, within limits, with its bill.

    judged = ask_judge(JudgeConfig("https://HOST/v1", "gpt-4"), {"p0": question("Does ...?")}, "out.judge.jsonl")
    judged.replies["p0"].text, judged.cost

Every reply stands in the journal before it is used (a LedgerEntry a line), under a hash of what was asked, so the same
call continues where a killed one stopped and pays for nothing twice.
"""
import dataclasses
import datetime
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from easylm_imitation import console
from easylm_imitation.client import Client, ClientConfig, RequestFailed, for_each, with_client
from easylm_imitation.files import digest
from easylm_imitation.journal import Journal
from easylm_imitation.records import LedgerEntry
from easylm_imitation.schema import UserError, plain

_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """Who judges, how patiently it is asked, and what it costs."""
    url: str = ""
    model: str = ""                             # "" asks for the one model that is served
    concurrency: int = 8
    timeout: float = 300.0                      # seconds for one attempt
    attempts: int = 6                           # of one request
    requests_per_minute: float | None = None
    price_in: float = 0.0                       # US dollars per million prompt tokens
    price_out: float = 0.0                      # US dollars per million tokens of replies
    api_key_env: str = "OPENAI_API_KEY"


@dataclasses.dataclass(frozen=True)
class Question:
    """One request to the judge."""
    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    temperature: float = 0.0
    logprobs: bool = False                      # those of the first token's candidates are wanted


@dataclasses.dataclass(frozen=True)
class Said:
    """A reply."""
    text: str
    first_token: dict[str, float] | None = None # token -> log-probability, where they were wanted and given


@dataclasses.dataclass(frozen=True)
class Judged:
    """Replies by question, and the whole journal's bill."""
    replies: dict[str, Said]
    judge: str                                  # the model that was asked
    requests: int
    cost: float                                 # US dollars


def question(text: str) -> Question:
    """A question that a word answers."""
    return Question([{"role": "user", "content": text}], max_tokens=16)


def ask_judge(config: JudgeConfig, questions: Mapping[str, Question], journal: str | os.PathLike) -> Judged:
    """Asks each question once. Raises UserError for an endpoint that refuses or is gone, and, at the end, when some
    questions got no reply; those that did stay in the journal."""
    client = ClientConfig(config.url, config.model, config.api_key_env, config.concurrency, config.timeout,
                          config.attempts, requests_per_minute=config.requests_per_minute)
    return with_client(client, lambda client: _ask_all(client, config, questions, journal))


async def _ask_all(client: Client, config: JudgeConfig, questions: Mapping[str, Question],
                   journal: str | os.PathLike) -> Judged:
    served = await client.model()
    requests = {key: digest([served.id, plain(asked)], 32) for key, asked in questions.items()}
    failed: list[str] = []
    with Journal(LedgerEntry, journal) as book:
        known = {entry.request: entry for entry in book.entries if entry.status == "ok"}
        left = list({requests[key]: key for key in questions if requests[key] not in known}.values())
        with console.progress("asking the judge", total=len(left)) as advance:
            async def work(key: str) -> None:
                entry = await _ask(client, config, key, questions[key], requests[key], served.id)
                book.append(entry)
                known[entry.request] = entry
                if entry.status != "ok":
                    failed.append(f"'{key}' ({entry.error})")
                advance()
            await for_each(left, work, config.concurrency)
        if failed:
            raise UserError(f"{len(failed)} of {len(questions)} questions got no reply, the last {failed[-1]}; "
                            f"the others are kept in {journal}, the same command continues")
        replies = {key: _said(known[requests[key]], asked) for key, asked in questions.items()}
        return Judged(replies, served.id, len(book.entries), round(sum(e.cost for e in book.entries), 6))


async def _ask(client: Client, config: JudgeConfig, key: str, asked: Question, request: str,
               model: str) -> LedgerEntry:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fields: dict[str, Any] = {"prompt_id": key, "sample": 0, "request": request, "time": now}
    more = {"logprobs": True, "top_logprobs": 5} if asked.logprobs else {}
    try:
        reply = await client.chat(asked.messages, max_tokens=asked.max_tokens, temperature=asked.temperature, **more)
    except RequestFailed as error:
        return LedgerEntry(status="failed", model=model, error=str(error), **fields)
    read, written = reply.prompt_tokens or 0, reply.completion_tokens or 0
    cost = (read * config.price_in + written * config.price_out) / 1e6
    said = json.dumps([reply.text, reply.first_token], ensure_ascii=False) if asked.logprobs else reply.text
    return LedgerEntry(status="ok", model=reply.model, prompt_tokens=read, completion_tokens=written, cost=cost,
                       seconds=reply.seconds, finish_reason=reply.finish_reason or "", response=said, **fields)


def _said(entry: LedgerEntry, asked: Question) -> Said:
    return Said(*json.loads(entry.response)) if asked.logprobs else Said(entry.response or "")


def yes_or_no(reply: str) -> bool | None:
    """What a reply says; None when it begins with neither word.

    >>> yes_or_no("Yes, it does."), yes_or_no("**No**"), yes_or_no("Perhaps yes")
    (True, False, None)
    """
    found = _YES_NO.match(reply)
    return found and found[1].lower() == "yes"
