"""Between HTTP and the scheduler: requests become jobs, results become the objects that OpenAI's clients expect.

It runs in the event loop, but for tokenizing, which other threads do (the tokenizer lets go of the interpreter): one
long text, or many short ones, must not hold up everybody's streams. The engine's thread is reached through `Mailbox`
alone.
"""
import asyncio
import contextlib
import dataclasses
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from easylm_imitation.records import Lineage, Message
from easylm_imitation.schema import UserError
from easylm_imitation.serve.answer import AnswerText, Token
from easylm_imitation.serve.config import ServeConfig
from easylm_imitation.serve.engine import Engine, Sampling
from easylm_imitation.serve.forest import Segment
from easylm_imitation.serve.grammar import Constraint, Grammars
from easylm_imitation.serve.jobs import Answer, Job, Notify, Scoring, Update
from easylm_imitation.serve.sampling import Sampled
from easylm_imitation.serve.scheduler import Scheduler
from easylm_imitation.serve.schemas import GREEDY_BELOW, BadField, ChatRequest, Generation, about
from easylm_imitation.serve.scoring import Pair, Score, check_ids, check_size, pair_segments
from easylm_imitation.serve.tool_calls import CallReader, form_of
from easylm_imitation.text import Template, Tokenizer, chat_jinja, prompt_ids, tool_prompt_ids
from easylm_imitation.text.token_bytes import TokenBytes


class Gone(Exception):
    """The client hung up."""


class Mailbox:
    """News of a request's jobs, brought from the engine's thread into the event loop."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Update | Exception]] = asyncio.Queue()

    def slot(self, index: int) -> Notify:
        """The `notify` of job number `index`."""
        return lambda news: self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, news))

    async def get(self) -> tuple[int, Update]:
        """The next news, as (index, update); raises what a job reports as an exception."""
        index, news = await self._queue.get()
        if isinstance(news, Exception):
            raise news
        return index, news


@dataclasses.dataclass(frozen=True)
class PromptScores:
    """Log-probabilities of an echoed prompt: `tokens` are all but its first, `next` is the likeliest token after it."""
    tokens: tuple[Token, ...]
    next: Token


class Service:
    """What the routes use: the model's identity, its tokenizer, and ways to run jobs."""

    def __init__(self, engine: Engine, scheduler: Scheduler, config: ServeConfig, *, tokenizer: Tokenizer,
                 template: Template | None, lineage: Lineage, stop_ids: Sequence[int], own_name: str | None = None):
        """`own_name`: what the model is called that `lineage` is a rounded form of; requests may say that too."""
        self.engine, self.scheduler, self.config, self.limits = engine, scheduler, config, config.limits
        self.tokenizer, self.template, self.lineage = tokenizer, template, lineage
        self.name, self.own_name = lineage.name, own_name
        self.context = engine.shapes.context
        self.vocab_size = engine.config.vocab_size
        self.started = int(time.time())
        self.closing = False        # nothing that still waits will be finished
        self._stop_ids = frozenset(stop_ids)
        self._texts: dict[int, str] = {}
        self.bytes = TokenBytes(tokenizer)
        self.call_form = form_of(template)
        self._grammars = Grammars(tokenizer, self.vocab_size, stop_ids, self.limits.grammar_characters)

    def stopped_status(self) -> int:
        """The HTTP status of what `Stopped` ended: 503 where the server was told to stop, 500 where it failed."""
        return 503 if self.closing else 500

    def tokenizer_info(self) -> dict[str, Any]:
        """Special tokens, chat template (Jinja) and identity of the tokenizer, as /tokenizer_info answers."""
        tokenizer, template = self.tokenizer, self.template
        ids = {"eos_token": tokenizer.eos_id, "bos_token": tokenizer.bos_id, "pad_token": tokenizer.pad_id}
        named = {name: None if i is None else tokenizer.token(i) for name, i in ids.items()}
        return {**named, "add_bos_token": tokenizer.begins,
                "chat_template": None if template is None else chat_jinja(template, tokenizer),
                "vocab_size": tokenizer.vocab_size, "model_max_length": self.context, "tokenizer_id": tokenizer.id,
                "template": None if template is None else template.id}

    # ---------------------------------------------------------------- requests to jobs

    def encode(self, prompt: str | list[int]) -> list[int]:
        """Ids of a raw prompt: special tokens spelled out in it count, nothing is added. Raises UserError."""
        if isinstance(prompt, str):
            self.check_length(prompt, "prompt")
        ids = self.tokenizer.encode(prompt, parse_special=True) if isinstance(prompt, str) else prompt
        check_ids(ids, self.vocab_size, "prompt")
        return ids

    def check_length(self, text: str, field: str) -> None:
        """Raises UserError for a text that would take too long to tokenize."""
        if len(text) > self.limits.characters:
            raise UserError(f"{field}: {len(text)} characters in one text; at most {self.limits.characters}")

    async def encode_all(self, prompts: Sequence[str | list[int]], max_tokens: int) -> list[list[int]]:
        """`encode` of each; stops at the first that leaves no room for an answer (`check_room`)."""
        def work() -> list[list[int]]:
            made = []
            for prompt in prompts:
                made.append(self.encode(prompt))
                self.check_room(made[-1], max_tokens)
            return made
        return await asyncio.to_thread(work)

    async def encode_pairs(self, pairs: Sequence[tuple[str, str] | Pair], any_length: bool = False) -> list[Pair]:
        """`encode_pair` of each pair of texts; pairs of ids stay as they are. Stops at the first that is too long for
        the context, unless they may be of `any_length`."""
        contexts: dict[str, list[int]] = {}     # the choices of a question share one

        def work() -> list[Pair]:
            made = []
            for i, pair in enumerate(pairs):
                made.append(self.encode_pair(*pair, contexts) if isinstance(pair[0], str) else pair)
                if not any_length:
                    check_size(i, *made[-1], self.context)
            return made
        return await asyncio.to_thread(work)

    async def encode_chat(self, request: ChatRequest) -> list[int]:
        """Ids of a conversation with its generation prompt: the prefix of its training row. Raises UserError."""
        if self.template is None:
            raise UserError("this model came without a chat template, so /v1/chat/completions is not offered; use "
                            "/v1/completions, or give it one with convert --format hf --template NAME")
        self.check_length("".join(message.text() for message in request.messages), "messages")
        if request.offered() or any(message.about_tools() for message in request.messages):
            given = [tool.model_dump(exclude_none=True) for tool in request.offered()]
            plain_messages = [message.plain() for message in request.messages]
            self.check_length(json.dumps([plain_messages, given]), "messages with tools")
            return await asyncio.to_thread(tool_prompt_ids, self.template, self.tokenizer, plain_messages, given)
        messages = [Message("system" if m.role == "developer" else m.role, m.text()) for m in request.messages]
        return await asyncio.to_thread(prompt_ids, self.template, self.tokenizer, messages)

    def encode_pair(self, context: str, continuation: str, contexts: dict[str, list[int]] | None = None) -> Pair:
        """Ids of a text pair, as lm-eval makes them: split after the context's tokens in the encoding of the whole,
        spaces at the end of the context moved over first. A context that is empty then becomes the BOS or EOS token.
        `contexts`: ids of contexts that were met before; a new one is added."""
        kept = context.rstrip()
        context, continuation = kept, context[len(kept):] + continuation
        if not context:
            start = self.tokenizer.eos_id if self.tokenizer.bos_id is None else self.tokenizer.bos_id
            return [start], self.encode(continuation)
        contexts = {} if contexts is None else contexts
        if context not in contexts:
            contexts[context] = self.encode(context)
        before, whole = contexts[context], self.encode(context + continuation)
        return before, whole[len(before):]

    def call_reader(self, request: ChatRequest) -> CallReader:
        """What finds calls of the request's tools in an answer."""
        names = {tool.function.name for tool in request.offered()}
        return CallReader(self.call_form if names else None, names)

    async def constraint(self, request: Generation, lead: str = "") -> Constraint | None:
        """The beginning of the grammar that answers to `request` follow. Raises UserError for one that is none."""
        spec = request.spec()
        if spec is None:
            return None
        with about(spec.field):
            return await asyncio.to_thread(self._grammars.compile, spec, lead)

    def check_room(self, ids: Sequence[int], max_tokens: int) -> None:
        """Raises UserError when prompt and answer do not fit the context (the last token need not be read again)."""
        if len(ids) + max(max_tokens, 1) - 1 > self.context:
            raise UserError(f"the prompt has {len(ids)} tokens and max_tokens is {max_tokens}: together more than this "
                            f"server's context of {self.context}; shorten the prompt, lower max_tokens, or serve the "
                            "model with more (--config.context, of evaluate too)")

    def check_stops(self, stops: Sequence[str], field: str = "stop") -> None:
        """Raises UserError for too many stop strings, empty or long ones."""
        most, longest = self.limits.stops, self.limits.stop_characters
        if len(stops) > most or any(not 0 < len(stop) <= longest for stop in stops):
            raise BadField(field, f"{field}: at most {most} strings of 1 to {longest} characters")
        with about(field):
            for stop in stops:
                self.tokenizer.encode(stop)     # raises for what has no UTF-8 form

    def answers(self, prompts: Sequence[list[int]], request: Generation, max_tokens: int, mailbox: Mailbox, *,
                top: int = 0, stops: Sequence[str] = (), lead: str = "", constraint: Constraint | None = None,
                first: int = 0) -> list[Answer]:
        """Jobs for `n` answers to each prompt, in that order; sample i of a seeded request uses seed + i.
        `first`: how many jobs share the mailbox already.

        Raises UserError for a bias of an id that no token has.
        """
        with about("logit_bias"):
            known = min(self.tokenizer.vocab_size, self.vocab_size)     # the model may have padding beyond
            check_ids([token for token, _ in request.biases()], known, "logit_bias")
        seed = secrets.randbits(63) if request.seed is None else request.seed
        ends = self._stop_ids | self._special_stops(request.stops())
        count = request.n or 1
        jobs = []
        for prompt in prompts:
            for i in range(count):
                text = AnswerText(self.tokenizer, (*request.stops(), *stops), lead)
                jobs.append(Answer(prompt, max_tokens, _sampling(request, seed + i), text,
                                   mailbox.slot(first + len(jobs)), stop_ids=ends, top=top,
                                   stream=bool(request.stream),
                                   constraint=None if constraint is None else constraint.copy()))
        return jobs

    def _special_stops(self, stops: Sequence[str]) -> frozenset[int]:
        """Stop strings that spell a special token, which never shows in the text: they stop by id."""
        parsed = [self.tokenizer.encode(stop, parse_special=True) for stop in stops]
        literal = [self.tokenizer.encode(stop) for stop in stops]
        return frozenset(ids[0] for ids, plain_ids in zip(parsed, literal) if len(ids) == 1 and ids != plain_ids)

    # ---------------------------------------------------------------- running them

    async def finish(self, jobs: Sequence[Job], mailbox: Mailbox, gone: asyncio.Future) -> list[Update]:
        """Runs jobs to their end; their last updates, in order. Cancels all when one fails or the client is gone."""
        found: list[Update | None] = [None] * len(jobs)

        async def collect() -> None:
            while any(update is None for update in found):
                index, update = await mailbox.get()
                found[index] = update if update.finish else None

        self.scheduler.submit(jobs)
        async with _task(collect()) as collecting:
            try:
                await asyncio.wait({collecting, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not collecting.done():
                    raise Gone
                collecting.result()
            except BaseException:
                self.scheduler.cancel(jobs)
                raise
        return found

    async def score_pairs(self, pairs: Sequence[Pair], gone: asyncio.Future) -> list[Score]:
        """One Score a pair. Raises UserError for pairs that cannot be scored."""
        found: list[Score | None] = [None] * len(pairs)
        segments = await asyncio.to_thread(pair_segments, pairs, self.context, self.vocab_size, found)
        mailbox = Mailbox()
        await self.finish([Scoring(segments, mailbox.slot(0))], mailbox, gone)
        return found

    async def score_prompts(self, prompts: Sequence[list[int]], top: int, gone: asyncio.Future) -> list[PromptScores]:
        """Log-probabilities of every token of each prompt, and the likeliest next token."""
        found: list[PromptScores | None] = [None] * len(prompts)
        mailbox = Mailbox()
        segments = await asyncio.to_thread(
            lambda: [_whole_prompt(ids, top, found, i) for i, ids in enumerate(prompts)])
        await self.finish([Scoring(segments, mailbox.slot(0))], mailbox, gone)
        return found

    # ---------------------------------------------------------------- tokens as text

    def token_text(self, token_id: int) -> str:
        """What stands for a token in log-probabilities: its text, or its spelling where it is half a character."""
        if token_id not in self._texts:
            text = self.tokenizer.decode([token_id], skip_special=False)
            if "\ufffd" in text or not text:
                text = self.tokenizer.token(token_id) if self._exists(token_id) else f"token_id:{token_id}"
            self._texts[token_id] = text
        return self._texts[token_id]

    def offsets(self, ids: Sequence[int], text: str) -> list[int]:
        """How many characters of `text`, which the ids spell, come before each of them; those that share a character
        have one place."""
        sizes = [len(self.token_text(token)) for token in ids]
        if sum(sizes) != len(text):     # some are half a character, or joined with the one before
            stream = self.tokenizer.stream(skip_special=False)
            sizes = [len(stream.push(token)) for token in ids]
        return [0, *itertools.accumulate(sizes[:-1])]

    def top_dict(self, token: Token) -> dict[str, float]:
        """Alternatives by text, the chosen token included. Different tokens with one text keep entries of their own."""
        table: dict[str, float] = {}
        for token_id, logprob in dict([*token.top, (token.id, token.logprob)]).items():
            text = self.token_text(token_id)
            table[f"token_id:{token_id}" if text in table else text] = logprob
        return table

    def is_end(self, token_id: int) -> bool:
        """Whether a token ends every answer of this model."""
        return token_id in self._stop_ids

    def _exists(self, token_id: int) -> bool:
        with contextlib.suppress(UserError):
            return bool(self.tokenizer.token(token_id))
        return False


def _sampling(request: Generation, seed: int) -> Sampling:
    temperature = 1.0 if request.temperature is None else request.temperature
    return Sampling(temperature=temperature if temperature >= GREEDY_BELOW else 0.0, top_k=max(0, request.top_k or 0),
                    top_p=1.0 if request.top_p is None else request.top_p, min_p=request.min_p or 0.0,
                    presence=request.presence_penalty or 0.0, frequency=request.frequency_penalty or 0.0,
                    bias=request.biases(), seed=seed)


def _whole_prompt(ids: list[int], top: int, found: list[PromptScores | None], place: int) -> Segment:
    def done(out: Sampled) -> None:
        best = [tuple(zip(*pair)) for pair in zip(out.top_ids.tolist(), out.top_logprobs.tolist())]
        scored = [Token(token, logprob, row[:top]) for token, logprob, row in zip(ids[1:], out.logprobs.tolist(), best)]
        found[place] = PromptScores(tuple(scored), Token(*best[-1][0], best[-1][:top]))

    points = [*((i, token) for i, token in enumerate(ids[1:])), (len(ids) - 1, 0)]
    return Segment(np.asarray(ids, np.int32), points, done)


@contextlib.asynccontextmanager
async def _task(work: Any) -> AsyncIterator[asyncio.Task]:
    """A task that does not outlive the block."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
