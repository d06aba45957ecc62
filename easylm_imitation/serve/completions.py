"""POST /v1/completions and /v1/chat/completions: from a checked request to a response body or a stream of events."""
import asyncio
import collections
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.responses import StreamingResponse

from easylm_imitation.serve.answer import AnswerText, Token
from easylm_imitation.serve.formats import Envelope, chat_logprobs, completion_logprobs, usage
from easylm_imitation.serve.grammar import Constraint, GrammarFailed
from easylm_imitation.serve.guard import error_body
from easylm_imitation.serve.jobs import Answer, Update
from easylm_imitation.serve.scheduler import Stopped, TooLate
from easylm_imitation.serve.schemas import BadField, ChatRequest, CompletionRequest, Generation, about, prompts
from easylm_imitation.serve.service import Mailbox, PromptScores, Service
from easylm_imitation.serve.tool_calls import CallReader

Body = dict[str, Any]


class EventStream(StreamingResponse):
    """Server-sent events; its jobs are cancelled when it ends early, whether or not it ever began."""

    def __init__(self, service: Service, jobs: Sequence[Answer], events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._service, self._jobs = service, jobs

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._service.scheduler.cancel([job for job in self._jobs if not job.finish])


async def complete(service: Service, request: CompletionRequest, gone: asyncio.Future) -> Body | EventStream:
    """Answers a completion request. Raises UserError for what cannot be done, and what `Service.finish` raises."""
    given = await asyncio.to_thread(prompts, request.prompt)
    _check_completion(service, request, len(given))
    with about("prompt"):
        ids = await service.encode_all(given, _max_tokens(request))
    envelope = Envelope(service, "cmpl", "text_completion", int(time.time()))
    count = request.n or 1
    constraint = await service.constraint(request)
    top = request.logprobs or 0
    scores: list[PromptScores | None] = [None] * len(ids)
    if request.echo and request.logprobs is not None:
        scores = await service.score_prompts(ids, top, gone)
    echoes = await asyncio.to_thread(_echoes, service, request, given, ids, scores)
    if request.stream:
        mailbox, jobs = Mailbox(), []
        if _max_tokens(request):
            jobs = service.answers(ids, request, _max_tokens(request), mailbox, top=top, constraint=constraint)
            service.scheduler.submit(jobs)
        chunks = _text_chunks(service, request, envelope, [echo for echo in echoes for _ in range(count)])
        events = _events(service, request, jobs, mailbox, chunks, _prompt_tokens(ids), len(ids) * count)
        return EventStream(service, jobs, events)
    produced, updates = await _generate(service, request, ids, scores, constraint, gone)
    choices = []
    for i, update in enumerate(updates):
        text, tokens = echoes[i // count]
        tokens = [*tokens, *_behind(text, update.tokens)]
        logprobs = None if request.logprobs is None else completion_logprobs(service, tokens, top)
        choices.append({"index": i, "text": text + update.text, "logprobs": logprobs, "finish_reason": update.finish})
    return envelope.wrap(choices, usage(_prompt_tokens(ids), produced))


Echo = tuple[str, list[Token | int]]     # what an answer begins with: text, and tokens where scores were asked for


def _echoes(service: Service, request: CompletionRequest, given: Sequence[str | list[int]], ids: Sequence[list[int]],
            scores: Sequence[PromptScores | None]) -> list[Echo]:
    """What the answers to each prompt begin with."""
    if not request.echo:
        return [("", [])] * len(ids)
    return [_echo(service, *one) for one in zip(given, ids, scores)]


def _echo(service: Service, prompt: str | list[int], ids: list[int], scores: PromptScores | None) -> Echo:
    text = prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt, skip_special=False)
    if scores is None:
        return text, []
    places = service.offsets(ids, text)[1:]
    return text, [ids[0], *(token._replace(offset=place) for token, place in zip(scores.tokens, places))]


def _behind(text: str, tokens: Sequence[Token]) -> list[Token]:
    """Tokens of an answer, as they stand behind a text."""
    return [token._replace(offset=len(text) + token.offset) for token in tokens]


async def _generate(service: Service, request: CompletionRequest, ids: list[list[int]],
                    scores: list[PromptScores | None], constraint: Constraint | None, gone: asyncio.Future
                    ) -> tuple[int, list[Update]]:
    """How many tokens were generated, and each choice's last update. A scored prompt knows its greedy next token
    already, so the request that lm-eval sends (echo, one greedy token) needs no generation.
    """
    count, max_tokens = request.n or 1, _max_tokens(request)
    if max_tokens == 0:
        return 0, [Update(finish="length")] * (len(ids) * count)
    if scores[0] is not None and max_tokens == 1 and request.plain_greedy:
        updates = [_next_token(service, request, score) for score in scores for _ in range(count)]
        return len(updates), updates
    mailbox = Mailbox()
    jobs = service.answers(ids, request, max_tokens, mailbox, top=request.logprobs or 0, constraint=constraint)
    updates = await service.finish(jobs, mailbox, gone)
    return sum(job.produced for job in jobs), updates


def _next_token(service: Service, request: CompletionRequest, score: PromptScores) -> Update:
    text = AnswerText(service.tokenizer, request.stops())
    stopped = text.push(score.next)
    text.finish()
    end = service.is_end(score.next.id)
    # The token is reported even where it ends the answer: lm-eval drops the last entry of the list, whatever it is.
    return Update("" if end else text.text, [score.next], "stop" if end or stopped else "length")


async def chat(service: Service, request: ChatRequest, gone: asyncio.Future) -> Body | EventStream:
    """Answers a chat request. Raises as `complete` does."""
    _check_common(service, request, 1)
    asked = request.max_completion_tokens or request.max_tokens
    with about("messages"):
        ids = await service.encode_chat(request)
        max_tokens = asked or max(1, service.context - len(ids) + 1)
        service.check_room(ids, max_tokens)
    constraint = await service.constraint(request, service.template.lead)
    envelope = Envelope(service, "chatcmpl", "chat.completion", int(time.time()))
    mailbox = Mailbox()
    jobs = service.answers([ids], request, max_tokens, mailbox, top=request.top_logprobs or 0,
                           stops=service.template.stop_strings, lead=service.template.lead, constraint=constraint)
    if request.stream:
        service.scheduler.submit(jobs)
        chunks = _chat_chunks(service, request, envelope)
        return EventStream(service, jobs, _events(service, request, jobs, mailbox, chunks, len(ids), len(jobs)))
    updates = await service.finish(jobs, mailbox, gone)
    choices = [_chat_choice(service, request, i, update) for i, update in enumerate(updates)]
    return envelope.wrap(choices, usage(len(ids), sum(job.produced for job in jobs)))


def _chat_choice(service: Service, request: ChatRequest, index: int, update: Update) -> Body:
    text, calls = service.call_reader(request).take(update.text, last=True)
    message: Body = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        message["tool_calls"] = [call.body() for call in calls]
    return {"index": index, "message": message,
            "logprobs": chat_logprobs(service, update.tokens) if request.logprobs else None,
            "finish_reason": _finish(update, bool(calls))}


def _finish(update: Update, called: bool) -> str:
    return "tool_calls" if called and update.finish == "stop" else update.finish


def _check_completion(service: Service, request: CompletionRequest, count: int) -> None:
    _check_common(service, request, count)
    if _max_tokens(request) == 0 and not request.echo:
        raise BadField("max_tokens", "max_tokens: 0 makes sense only with echo")


def _check_common(service: Service, request: Generation, count: int) -> None:
    limits, samples = service.limits, request.n or 1
    if count > limits.prompts:
        raise BadField("prompt", f"prompt: {count} prompts in one request; at most {limits.prompts}")
    if samples > limits.samples or samples * count > limits.queue:
        most = f"at most {limits.samples} each, {limits.queue} all"
        raise BadField("n", f"n: {samples} answers to {count} prompts; {most}")
    service.check_stops(request.stops())
    if request.stream_options is not None and not request.stream:
        raise BadField("stream_options", "stream_options: only with stream")


def _max_tokens(request: CompletionRequest) -> int:
    return 16 if request.max_tokens is None else request.max_tokens


def _prompt_tokens(ids: list[list[int]]) -> int:
    return sum(map(len, ids))


Chunks = Callable[[int, Update | None], list[Body]]     # None: the opening


async def _events(service: Service, request: Generation, jobs: Sequence[Answer], mailbox: Mailbox, chunks: Chunks,
                  prompt_tokens: int, choices: int) -> AsyncIterator[str]:
    """The stream: openings, pieces as they come (a comment when nothing comes), ends, usage if asked, [DONE].
    Without jobs, no tokens were asked for."""
    for index in range(choices):
        for body in [*chunks(index, None), *([] if jobs else chunks(index, Update(finish="length")))]:
            yield _event(body)
    left = len(jobs)
    while left:
        try:
            index, update = await asyncio.wait_for(mailbox.get(), service.limits.keepalive_seconds)
        except TimeoutError:
            yield ": still here\n\n"
            continue
        except (Stopped, TooLate, GrammarFailed) as error:
            status = {Stopped: service.stopped_status(), TooLate: 504, GrammarFailed: 400}[type(error)]
            yield _event(error_body(status, str(error), getattr(error, "param", None)))
            break
        for body in chunks(index, update):
            yield _event(body)
        left -= bool(update.finish)
    if request.stream_options is not None and request.stream_options.include_usage and not left:
        produced = sum(job.produced for job in jobs)
        yield _event({**chunks(0, Update())[0], "choices": [], "usage": usage(prompt_tokens, produced)})
    yield "data: [DONE]\n\n"


def _text_chunks(service: Service, request: CompletionRequest, envelope: Envelope,
                 echoes: Sequence[Echo]) -> Chunks:
    """`echoes`: what each choice begins with."""
    def chunk(index: int, text: str, tokens: Sequence[Token | int], finish: str | None) -> list[Body]:
        logprobs = None if request.logprobs is None else completion_logprobs(service, tokens, request.logprobs)
        return [envelope.wrap([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}])]

    def chunks(index: int, update: Update | None) -> list[Body]:
        if update is None:
            return chunk(index, *echoes[index], None) if request.echo else []
        return chunk(index, update.text, _behind(echoes[index][0], update.tokens), update.finish or None)
    return chunks


def _chat_chunks(service: Service, request: ChatRequest, envelope: Envelope) -> Chunks:
    def wrap(index: int, delta: Body, finish: str | None = None, tokens: Sequence[Token] = ()) -> Body:
        logprobs = chat_logprobs(service, tokens) if request.logprobs and tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return envelope.wrap([choice], kind="chat.completion.chunk")

    readers: dict[int, CallReader] = {}
    called: collections.Counter[int] = collections.Counter()    # calls of each choice so far

    def chunks(index: int, update: Update | None) -> list[Body]:
        if update is None:
            return [wrap(index, {"role": "assistant", "content": ""})]
        reader = readers.setdefault(index, service.call_reader(request))
        text, calls = reader.take(update.text, bool(update.finish))
        more = text or not (update.finish or calls) or (request.logprobs and update.tokens)
        pieces = [wrap(index, {"content": text}, tokens=update.tokens)] if more else []
        for call in calls:
            pieces.append(wrap(index, {"tool_calls": [{"index": called[index], **call.body()}]}))
            called[index] += 1
        return [*pieces, wrap(index, {}, _finish(update, reader.called))] if update.finish else pieces
    return chunks


def _event(body: Body) -> str:
    return f"data: {json.dumps(body)}\n\n"     # in ASCII: some clients take U+2028 or U+0085 for the end of a line

