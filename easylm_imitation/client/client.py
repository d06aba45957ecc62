"""`Client`: requests sent with bounded concurrency and tried again; its errors in plain words."""
import asyncio
import dataclasses
import functools
import os
import random
import ssl
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import httpx

from easylm_imitation import console
from easylm_imitation.client.answers import (
    Reply,
    ServedModel,
    Spoiled,
    content_text,
    first_tokens,
    message_of,
    served_models,
    tokens_used,
    why_unreadable,
    writable,
)
from easylm_imitation.client.loops import in_loop
from easylm_imitation.client.rates import Bucket, prompt_tokens, retry_after
from easylm_imitation.records import Message
from easylm_imitation.schema import UserError, nearest, plain

T = TypeVar("T")
_BUSY = frozenset({408, 409, 425, 429}) | frozenset(range(500, 600))
_SHORTEST_SECRET = 16     # characters; a shorter key is a dummy ("none", "EMPTY"), which answers may hold as a word


@dataclasses.dataclass(frozen=True)
class ClientConfig:
    """Where to ask and how patiently."""
    url: str                                # http://HOST, http://HOST/v1 and .../v1/chat/completions mean the same
    model: str = ""                         # "" asks for the one model that is served
    api_key_env: str = "OPENAI_API_KEY"     # name of the environment variable that holds the key; it may be unset
    concurrency: int = 8                    # requests in flight
    timeout: float = 120.0                  # seconds for one attempt
    attempts: int = 6                       # of one request, the first included
    backoff: float = 0.5                    # seconds before the second attempt; doubles with each
    longest_wait: float = 60.0              # seconds; bounds the back-off, not a server's Retry-After,
    longest_retry_after: float = 300.0      # which this bounds: some servers ask for days, or for ever
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None  # prompts and answers; until it is known, an answer counts as max_tokens

    def __post_init__(self):
        for name in ("concurrency", "timeout", "attempts", "longest_retry_after", "requests_per_minute",
                     "tokens_per_minute"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("backoff", "longest_wait"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")


class RequestFailed(Exception):
    """One request could not be answered: refused as it is, or every attempt failed. Others may still succeed."""

    def __init__(self, message: str, refused: bool):
        super().__init__(message)
        self.refused = refused      # True: the server answered and does not want this request


class Closing(Exception):
    """The request was not sent, or not again, as `Client.closing` was set."""


class _NoRoute(UserError):
    """The address answers, but not to this route or model."""


class _Busy(Exception):
    """An attempt failed in a way that waiting may mend."""

    def __init__(self, message: str, wait: float = 0.0, limited: bool = False, spoiled: Spoiled | None = None):
        super().__init__(message)
        self.wait, self.limited, self.spoiled = wait, limited, spoiled


def base_url(url: str) -> str:
    """The `.../v1` address of an endpoint, from any of the usual ways to write it. Raises UserError for anything else.

    >>> base_url("http://127.0.0.1:8000/"), base_url("https://host/api/v1/chat/completions")
    ('http://127.0.0.1:8000/v1', 'https://host/api/v1')
    """
    parts = urllib.parse.urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"'{url}' is not the address of an endpoint; write http://HOST:PORT or https://HOST/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"the address of {parts.hostname} carries a user, a password or a query; "
                        "leave those out, a key belongs into the environment")
    path = parts.path.rstrip("/")
    for tail in ("/chat/completions", "/completions", "/models"):
        path = path.removesuffix(tail)
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


class Client:
    """An asynchronous context manager; use one for many requests. Not to be shared between event loops."""

    def __init__(self, config: ClientConfig):
        self.config = config
        self.base = base_url(config.url)
        self.key = os.environ.get(config.api_key_env, "").strip()
        if not self.key.isascii() or any(not c.isprintable() for c in self.key):    # else an HTTP error would spell it
            raise UserError(f"the key in {config.api_key_env} holds a line break or another character that no header "
                            "can carry; set it to the key alone")
        self._slots = asyncio.Semaphore(config.concurrency)
        self._resume_at = 0.0       # monotonic time before which nothing is sent: the server asked for a pause
        self._requests = Bucket(config.requests_per_minute) if config.requests_per_minute else None
        self._tokens = Bucket(config.tokens_per_minute) if config.tokens_per_minute else None
        self._http: httpx.AsyncClient | None = None
        self._model = config.model
        self.on_the_way: set[asyncio.Task] = set()      # tasks with a request that was sent and not answered
        self.cut_short = 0          # pauses that the server wanted longer than `longest_retry_after`
        self.closing = False        # when set, nothing more is sent; what is on its way may still come

    async def __aenter__(self) -> "Client":
        """Opens the connection pool."""
        limits = httpx.Limits(max_connections=self.config.concurrency)
        headers = self.headers() if self.key else {}
        self._http = httpx.AsyncClient(timeout=self.config.timeout, limits=limits, headers=headers, verify=_tls())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connections."""
        await self._http.aclose()

    def headers(self) -> dict[str, str]:
        """What carries the key."""
        return {"Authorization": f"Bearer {self.key}"}

    async def post(self, url: str, body: dict[str, Any], read: Callable[[dict], T]) -> T:
        """`read` of the answer to a request of another form, with the patience and the errors of any."""
        async with self._slots:
            return await self._send("POST", url, body, read)

    async def chat(self, messages: Sequence[Message | Mapping[str, str]], *, max_tokens: int, temperature: float = 0.0,
                   spoiled: Callable[[Spoiled], Awaitable[None]] | None = None, **options: Any) -> Reply:
        """One chat completion. `options` are further fields of the request (top_p, stop, seed); None leaves one out.
        `spoiled` is told, and waited for, before the next attempt, of an answer that was paid and cannot be read."""
        body = {"messages": [plain(m) for m in messages], "max_tokens": max_tokens, "temperature": temperature}
        return await self._generate("/chat/completions", body | options,
                                    lambda choice: content_text(choice["message"]["content"]), spoiled)

    async def complete(self, prompt: str | Sequence[int], *, max_tokens: int, temperature: float = 0.0,
                       spoiled: Callable[[Spoiled], Awaitable[None]] | None = None, **options: Any) -> Reply:
        """One raw completion of a text or of token ids; arguments as in `chat`."""
        prompt = prompt if isinstance(prompt, str) else list(prompt)
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature}
        return await self._generate("/completions", body | options, lambda choice: choice["text"], spoiled)

    async def models(self) -> list[ServedModel]:
        """What the endpoint serves. Raises UserError when nothing answers there or the key is wrong."""
        return await self._send("GET", f"{self.base}/models", None, served_models)

    async def tokenizer_info(self) -> dict[str, Any] | None:
        """What /tokenizer_info beside /v1 says (special tokens, chat template); None for a server without it."""
        try:
            return await self._send("GET", f"{self.base.removesuffix('/v1')}/tokenizer_info", None, dict)
        except _NoRoute:
            return None

    async def model(self) -> ServedModel:
        """The model that requests go to: the configured one, or the only one served. Raises UserError when unclear."""
        try:
            served = {m.id: m for m in await self.models()}     # as they are: requests name the model so
        except _NoRoute:
            if not self._model:
                raise
            return ServedModel(self._model)     # some gateways list no models; the first request will tell
        if self._model:
            if self._model not in served:
                raise UserError(self._without_secret(
                    f"{self.base} does not serve '{self._model}'{nearest(self._model, served)}"))
        elif len(served) != 1:
            raise UserError(self._without_secret(
                f"{self.base} serves {len(served)} models; name one ({', '.join(sorted(served)[:20])})"))
        else:
            self._model = next(iter(served))
        return served[self._model]

    async def _generate(self, path: str, body: dict[str, Any], text_of: Callable[[dict], str | None],
                        spoiled: Callable[[Spoiled], Awaitable[None]] | None) -> Reply:
        if not self._model:
            await self.model()
        body = {"model": self._model, **{k: v for k, v in body.items() if v is not None}}
        started = 0.0

        def read(answer: dict) -> Reply:
            choice = answer["choices"][0]
            seconds = round(time.monotonic() - started, 4)
            texts = text_of(choice), choice.get("finish_reason"), answer.get("model") or self._model
            texts = (self._without_secret(writable(text)) for text in texts)
            return Reply(*texts, *tokens_used(answer), seconds, first_tokens(choice))

        async with self._slots:
            started = time.monotonic()
            return await self._send("POST", self.base + path, body, read, spoiled)

    async def _spend(self, body: dict[str, Any]) -> float:
        """Waits for the limits a minute; returns the tokens that the request may cost, 0 where nobody counts."""
        if self._requests:
            await self._requests.take(1)
        if not self._tokens:
            return 0.0
        asked = body["prompt"] if "prompt" in body else "".join(m["content"] for m in body["messages"])
        worst = (prompt_tokens(asked) if isinstance(asked, str) else len(asked)) + body["max_tokens"]
        await self._tokens.take(worst)
        return worst

    def _settle(self, worst: float, reply: Any) -> None:
        if worst and isinstance(reply, Reply) and None not in (reply.prompt_tokens, reply.completion_tokens):
            self._tokens.give_back(worst - reply.prompt_tokens - reply.completion_tokens)

    async def _send(self, method: str, url: str, body: dict | None, read: Callable[[dict], T],
                    spoiled: Callable[[Spoiled], Awaitable[None]] | None = None) -> T:
        attempts = self.config.attempts if method == "POST" else min(3, self.config.attempts)
        for attempt in range(1, attempts + 1):
            worst = await self._spend(body) if body else 0.0
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            if self.closing:
                raise Closing
            try:
                reply = await self._attempt(method, url, body, read)
                self._settle(worst, reply)
                return reply
            except _Busy as busy:
                if busy.spoiled and spoiled:
                    await spoiled(busy.spoiled)
                if self.closing:
                    raise Closing from None
                if attempt == attempts:
                    raise self._gave_up(method, url, busy, attempts) from None
                growing = min(self.config.backoff * 2 ** (attempt - 1), self.config.longest_wait)
                # jitter: requests must not return as one
                wait = max(self._believed(busy.wait), growing * random.uniform(0.5, 1.0))
                if busy.limited:
                    self._resume_at = max(self._resume_at, time.monotonic() + wait)
                await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _believed(self, asked: float) -> float:
        """The seconds of a Retry-After that are waited for; says it at the first, and counts, when they are fewer."""
        longest = self.config.longest_retry_after
        if asked > longest:
            pause = f"a pause of {asked:,.0f} s" if asked < 1e7 else "an endless pause"
            if not self.cut_short:
                console.say(f"{self.base} wants {pause} (Retry-After); it is asked again after {longest:g} "
                            "(longest_retry_after), as after any longer pause that it may want")
            self.cut_short += 1
        return min(asked, longest)

    async def _attempt(self, method: str, url: str, body: dict | None, read: Callable[[dict], T]) -> T:
        self.on_the_way.add(asyncio.current_task())
        try:
            async with asyncio.timeout(self.config.timeout):    # httpx itself bounds only the pause between bytes
                response = await self._http.request(method, url, json=body)
        except (TimeoutError, httpx.TimeoutException):
            raise _Busy(f"no answer within {self.config.timeout:g} s") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Busy(self._clean(str(error) or type(error).__name__)) from None
        finally:
            self.on_the_way.discard(asyncio.current_task())
        if not response.is_success:
            raise self._error(response, url)
        try:
            return read(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            why = why_unreadable(response, error, self._clean)
            raise _Busy(why, spoiled=self._spoiled(response, why)) from None

    def _spoiled(self, response: httpx.Response, why: str) -> Spoiled | None:
        """The answer, where it reports tokens."""
        try:
            used = tokens_used(response.json())
        except (ValueError, AttributeError):    # no JSON, or no object
            return None
        body = self._without_secret(writable(response.text))
        return Spoiled(body, why, used[0] or 0, used[1] or 0) if any(used) else None

    def _error(self, response: httpx.Response, where: str) -> Exception:
        status, said = response.status_code, message_of(response, self._clean)
        if status == 429 and "insufficient_quota" in response.text:
            return UserError(f"{where}: the account's quota is used up ({said}); continue when it is refilled")
        if status in _BUSY:
            return _Busy(f"HTTP {status}: {said}", retry_after(response), limited=status == 429)
        if status in (401, 403):
            cure = "check the key in" if self.key else "put a key into"
            return UserError(f"{where}: access refused (HTTP {status}: {said}); {cure} ${self.config.api_key_env}")
        if status in (404, 405) or response.is_redirect:
            return _NoRoute(f"{where}: no such route or model (HTTP {status}: {said}); check the address and the "
                            f"model's name '{self._model}'")
        return RequestFailed(f"HTTP {status}: {said}", refused=True)

    def _gave_up(self, method: str, url: str, busy: _Busy, attempts: int) -> Exception:
        if method == "GET":
            return UserError(f"{url}: {busy} ({attempts} attempts); is the server up, is this its address?")
        return RequestFailed(f"{busy} ({attempts} attempts)", refused=False)

    def _without_secret(self, answer: str) -> str:
        return self._clean(answer) if len(self.key) >= _SHORTEST_SECRET else answer

    def _clean(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], workers: int) -> None:
    """Runs `work` on each item, at most `workers` at a time, taken in order. The first exception stops the rest."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    tasks = [asyncio.create_task(worker()) for _ in range(workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def with_client(config: ClientConfig, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Runs `work(client)` to its end in a new event loop."""
    async def run() -> T:
        async with Client(config) as client:
            return await work(client)
    return in_loop(run())


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates costs more than a request on loopback."""
    return httpx.create_ssl_context()


