"""The server beside this one: its answers are passed on under /beside, so that the chat page can show two models.

The browser speaks with one server only: no second key in a page, no CORS. The address comes from whoever starts the
server, never from a request, and only two routes are passed on. When the browser hangs up, so does this server, and
the other one frees its slot.
"""
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from easylm_imitation.client import Client, ClientConfig, RequestFailed, message_of
from easylm_imitation.schema import UserError
from easylm_imitation.serve.config import BesideConfig
from easylm_imitation.serve.guard import error_body
from easylm_imitation.serve.service import Gone

_ABOUT_SECONDS = 5.0    # what a page waits, at most, to hear what the other server has
_TIMES = httpx.Timeout(30.0, read=600.0)    # a queue over there may be long


class Beside:
    """One other OpenAI-compatible server. Raises UserError for an address or a key that cannot be used."""

    def __init__(self, config: BesideConfig):
        self._config = ClientConfig(config.url, config.model, config.api_key_env, timeout=_ABOUT_SECONDS, attempts=1)
        client = Client(self._config)
        self._base, self._key = client.base, client.key
        self._model = config.model
        self._tls = httpx.create_ssl_context()

    async def about(self) -> dict[str, Any]:
        """The line of `/page/models` on the other model; "error" says why it cannot be used."""
        line = {"name": self._model or "the other model", "route": "beside/v1", "chat": True, "context": None}
        try:
            async with Client(self._config) as client:
                model = await client.model()
                self._model = model.id
                chat = await _has_template(client)
            return {**line, "name": model.id, "chat": chat, "context": model.context, "error": None}
        except (UserError, RequestFailed) as error:
            return {**line, "error": f"It cannot be asked. {error}"}

    async def forward(self, path: str, body: Mapping[str, Any], gone: asyncio.Future) -> Response:
        """The other server's answer to POST /v1/`path`, streamed as it comes. Raises HTTPException(502) when there is
        none, BadField for a body that JSON cannot say, Gone when the client hangs up before it begins."""
        if not self._model:
            await self.about()
        named = {"model": self._model, **body} if self._model else dict(body)
        async with contextlib.AsyncExitStack() as stack:
            http = await stack.enter_async_context(
                httpx.AsyncClient(timeout=_TIMES, headers=self._headers(), verify=self._tls))
            response = await self._send(http, f"{self._base}/{path}", named, gone)
            stack.push_async_callback(response.aclose)
            if not response.is_success or not _is_stream(response):
                return await self._whole(response)
            return _PassedOn(response, stack.pop_all())

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    async def _send(self, http: httpx.AsyncClient, url: str, body: dict[str, Any],
                    gone: asyncio.Future) -> httpx.Response:
        sending = asyncio.ensure_future(http.send(http.build_request("POST", url, json=body), stream=True))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise Gone
            return sending.result()
        except httpx.TransportError:
            raise HTTPException(502, "the server beside this one does not answer; check that it is running") from None
        finally:
            sending.cancel()

    async def _whole(self, response: httpx.Response) -> Response:
        """An answer that is not a stream: a refusal, or the JSON that was asked for."""
        with _as_502():
            await response.aread()
        if response.is_success:
            with contextlib.suppress(ValueError):
                return JSONResponse(response.json())
            raise HTTPException(502, "the server beside this one sent something that is not JSON")
        if response.status_code in (401, 403):      # this server's key, not the caller's
            raise HTTPException(502, "the server beside this one refused this server's key; whoever started this "
                                     f"server should check ${self._config.api_key_env}")
        said = message_of(response, lambda text: text.replace(self._key, "***") if self._key else text)
        status = response.status_code if response.status_code >= 400 else 502   # redirects are not followed
        wait = response.headers.get("Retry-After")
        return JSONResponse(error_body(status, said), status, {"Retry-After": wait} if wait else None)


class _PassedOn(StreamingResponse):
    """A stream of another server; its connection is closed when this one ends, whether or not it ever began."""

    def __init__(self, response: httpx.Response, connection: contextlib.AsyncExitStack):
        super().__init__(_events(response), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._connection = connection

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Sends the events."""
        async with self._connection:
            await super().__call__(scope, receive, send)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except (httpx.TransportError, httpx.DecodingError):
        broken = error_body(502, "the connection to the server beside this one broke")
        yield f"\n\ndata: {json.dumps(broken)}\n\n".encode()


@contextlib.contextmanager
def _as_502() -> Any:
    try:
        yield
    except (httpx.TransportError, httpx.DecodingError):
        raise HTTPException(502, "the connection to the server beside this one broke") from None


async def _has_template(client: Client) -> bool:
    """Whether chats can be asked for; a server that does not say is taken for a chat server."""
    try:
        info = await client.tokenizer_info() or {}
    except (UserError, RequestFailed):
        return True
    return info.get("template", info.get("chat_template", True)) is not None


def _is_stream(response: httpx.Response) -> bool:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"
