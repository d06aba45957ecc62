"""EasyLM's own routes, so that its `LMClient` and the harnesses built on it keep working: the same JSON in and out.

Texts are taken as they are (EasyLM's default: nothing put before or after them), and a prefix and its continuation are
split as in /v1/score. What does not fit the context is a 400 here, where EasyLM cut it off silently.
"""
import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from easylm_imitation.serve.jobs import Update
from easylm_imitation.serve.schemas import LONG, SHORT, BadField, CompletionRequest, Strict, about
from easylm_imitation.serve.scoring import Pair
from easylm_imitation.serve.service import Mailbox, Service

Texts = Annotated[list[str], Field(min_length=1), LONG]
Temperature = Annotated[float, Field(ge=0, le=2)] | None


class LikelihoodRequest(Strict):
    """POST /loglikelihood."""
    text: Texts
    prefix_text: Texts | None = None


class RollingRequest(Strict):
    """POST /loglikelihood-rolling."""
    text: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), LONG]


class GenerateRequest(Strict):
    """POST /generate."""
    prefix_text: Texts
    temperature: Temperature = None


class UntilRequest(Strict):
    """POST /greedy-until. `until`: for each prefix, a text or several that end its answer."""
    prefix_text: Texts
    until: Annotated[list[str | Annotated[list[str], SHORT]], Field(min_length=1), LONG]


class PlainChatRequest(Strict):
    """POST /chat. `context`: what the answer before gave back."""
    prompt: str
    context: str = ""
    temperature: Temperature = None


async def loglikelihood(service: Service, body: LikelihoodRequest, gone: asyncio.Future) -> dict[str, Any]:
    """Sums of log-probabilities, and whether each text is what greedy decoding would say."""
    prefixes = [""] * len(body.text) if body.prefix_text is None else body.prefix_text
    _check_count(service, "text", len(body.text), service.limits.pairs)
    _check_equal("prefix_text", prefixes, body.text)
    with about("text"):
        pairs = await service.encode_pairs(list(zip(prefixes, body.text)))
        scores = await service.score_pairs(pairs, gone)
    return {"prefix_text": prefixes, "text": body.text, "log_likelihood": [score.logprob for score in scores],
            "is_greedy": [score.greedy for score in scores]}


async def loglikelihood_rolling(service: Service, body: RollingRequest, gone: asyncio.Future) -> dict[str, Any]:
    """The same for whole texts of any length: in windows, each of which sees the last token of the one before."""
    _check_count(service, "text", len(body.text), service.limits.pairs)
    with about("text"):
        whole = await service.encode_pairs([("", text) for text in body.text], any_length=True)
        windows = [_windows(pair, service.context) for pair in whole]
        flat = [window for group in windows for window in group]
        _check_count(service, "text", len(flat), service.limits.pairs)
        scores = iter(await service.score_pairs(flat, gone))
    found = [[next(scores) for _ in group] for group in windows]
    return {"text": body.text, "log_likelihood": [sum(score.logprob for score in group) for group in found],
            "is_greedy": [all(score.greedy for score in group) for group in found]}


async def generate(service: Service, body: GenerateRequest, gone: asyncio.Future) -> dict[str, Any]:
    """A sampled continuation of each text, up to the end token or the end of the context."""
    temperature = 1.0 if body.temperature is None else body.temperature
    requests = [CompletionRequest(prompt=text, temperature=temperature) for text in body.prefix_text]
    updates = await _continue(service, requests, gone)
    return {"prefix_text": body.prefix_text, "output_text": [update.text for update in updates],
            "temperature": temperature}


async def greedy_until(service: Service, body: UntilRequest, gone: asyncio.Future) -> dict[str, Any]:
    """A greedy continuation of each text, up to one of its stop texts too."""
    _check_equal("until", body.until, body.prefix_text)
    requests = [CompletionRequest(prompt=text, temperature=0.0, stop=stop)
                for text, stop in zip(body.prefix_text, body.until)]
    updates = await _continue(service, requests, gone)
    return {"prefix_text": body.prefix_text, "until": body.until, "max_length": service.context,
            "output_text": [update.text for update in updates]}


async def plain_chat(service: Service, body: PlainChatRequest, gone: asyncio.Future) -> dict[str, Any]:
    """A sampled continuation of context and prompt; both and the answer are the next context."""
    temperature = 1.0 if body.temperature is None else body.temperature
    context = body.context + body.prompt
    [update] = await _continue(service, [CompletionRequest(prompt=context, temperature=temperature)], gone, "prompt")
    return {"response": update.text, "context": context + update.text, "temperature": temperature}


async def _continue(service: Service, requests: Sequence[CompletionRequest], gone: asyncio.Future,
                    field: str = "prefix_text") -> list[Update]:
    _check_count(service, field, len(requests), min(service.limits.prompts, service.limits.queue))
    mailbox, jobs = Mailbox(), []
    with about(field):
        ids = await service.encode_all([request.prompt for request in requests], 1)
        if [] in ids:
            raise BadField(field, f"{field}: empty; it needs at least one token")
    for one, request in zip(ids, requests):
        service.check_stops(request.stops(), "until")
        room = service.context - len(one) + 1
        jobs += service.answers([one], request, room, mailbox, first=len(jobs))
    return await service.finish(jobs, mailbox, gone)


def _windows(pair: Pair, size: int) -> list[Pair]:
    """A pair cut so that each part fits `size` tokens, with the last token before it as its context."""
    [start], tokens = pair
    cuts = range(0, max(1, len(tokens)), size)
    return [([tokens[at - 1] if at else start], tokens[at:at + size]) for at in cuts]


def _check_count(service: Service, field: str, count: int, most: int) -> None:
    if count > most:
        raise BadField(field, f"{field}: {count} in one request; at most {most}")


def _check_equal(field: str, given: Sequence, texts: Sequence) -> None:
    if len(given) != len(texts):
        raise BadField(field, f"{field}: {len(given)} entries for {len(texts)} texts; there must be as many")
