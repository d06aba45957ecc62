"""What stands before every route: the API key, the size of the body, the refusal of new work while the server drains.

Plain ASGI, because it must see each request before anything reads it.
"""
import contextlib
import hmac
import ipaddress
import json
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException

from easylm_imitation.serve.chat_page import FILES

# A load balancer asks the first two without a key; the others are the chat page's files. None tells of the model.
PUBLIC = ("/health", "/ready", *FILES)
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "invalid_request_error",
          429: "rate_limit_error", 500: "server_error", 502: "server_error", 503: "server_error", 504: "server_error"}

_QUOTED = 400       # characters of a message's either end that are sent
_SOON = (b"retry-after", b"5")
_NAMED = ("a server without a key answers to localhost and numeric addresses only: under a name, any web page could "
          "ask through its reader's browser; use http://127.0.0.1:PORT, or give the server a key")


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    kind = _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": _short(message), "type": kind, "param": param and _short(param), "code": status}}


def _short(text: str) -> str:
    """What was sent may be quoted in it: as much as one reads, and no half of a surrogate pair."""
    if len(text) > 2 * _QUOTED:
        text = f"{text[:_QUOTED]} […] {text[-_QUOTED:]}"
    return text.encode("utf-8", "replace").decode()


class Door:
    """What stands at the address from the start on: until there is an `app`, it says that the server lives."""

    def __init__(self):
        self.app: Callable | None = None

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Passes a request on, or answers it: /health 200, all else 503."""
        if self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in ("/health", "/ready"):
            await _send(send, 200 if scope["path"] == "/health" else 503, {"status": "loading"})
        elif scope["type"] == "http":
            await _refuse(send, 503, "the model is loading; ask again when /ready says 200", _SOON)


class Guard:
    """Wraps an ASGI app. With a key, everything but `PUBLIC` needs `Authorization: Bearer KEY`."""

    def __init__(self, app: Callable, *, api_key: str | None, body_bytes: int):
        self._app = app
        self._key = api_key.encode() if api_key else None
        self._limit = body_bytes
        self.draining = False
        self.running = 0        # requests that were passed on and are not answered in full yet

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answers 400, 401, 403, 413 or 503 by itself; else passes the request on."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        if self.draining and scope["path"] == "/ready":
            await _send(send, 503, {"status": "stopping"})
        elif scope["path"] not in PUBLIC and self._key and not self._knows_key(headers):
            await _refuse(send, 401, "a valid API key is needed: send the header 'Authorization: Bearer KEY'")
        elif scope["path"] not in PUBLIC and not self._key and not _is_own_name(headers.get(b"host", b"")):
            await _refuse(send, 403, _NAMED)
        elif self.draining and scope["method"] == "POST":
            await _refuse(send, 503, "the server is shutting down", _SOON)
        elif scope["method"] == "POST" and scope["query_string"]:
            await _refuse(send, 400, "what stands behind '?' in the address is not read; send it in the body")
        elif _declared(headers) > self._limit:
            await _refuse(send, 413, self._too_large())
        else:
            self.running += 1
            try:
                await self._app(scope, self._counted(receive), send)
            finally:
                self.running -= 1

    def _knows_key(self, headers: dict[bytes, bytes]) -> bool:
        given = headers.get(b"authorization", b"")
        return given[:7].lower() == b"bearer " and hmac.compare_digest(given[7:].strip(), self._key)

    def _counted(self, receive: Callable) -> Callable:
        """A body without a declared length is cut off as soon as it has grown too large."""
        size = 0

        async def counted() -> dict:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise HTTPException(413, self._too_large())
            return message
        return counted

    def _too_large(self) -> str:
        return f"the request body is larger than {self._limit} bytes; send fewer prompts or pairs at a time"


def _is_own_name(host: bytes) -> bool:
    """Whether a Host header is no name that somebody else's DNS could point at this machine (DNS rebinding)."""
    name = host.decode("latin-1").strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return name in ("", "localhost") or name.endswith(".localhost")


def _declared(headers: dict[bytes, bytes]) -> int:
    value = headers.get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


async def _refuse(send: Callable, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    if status == 401:
        headers = (*headers, (b"www-authenticate", b"Bearer"))
    await _send(send, status, error_body(status, message), (b"connection", b"close"), *headers)


async def _send(send: Callable, status: int, content: dict[str, Any], *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps(content).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
