"""How bodies of requests are read: large ones in a thread, and a key that stands twice in an object is refused.

Python's parser would take the last of two equal keys and drop the first without a word.
"""
import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import fastapi
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

_LARGE = 1 << 16    # bytes: parsing takes about a millisecond, in which nobody else would be answered


class Repeated(HTTPException):
    """A key that an object has twice; `param` is its name."""

    def __init__(self, key: str):
        super().__init__(400, f"{key}: stands twice in one object; send it once")
        self.param = key


class BodyRoute(APIRoute):
    """A route whose request reads its body so."""

    def get_route_handler(self) -> Callable[[fastapi.Request], Awaitable[Response]]:
        """FastAPI's own handler, with our request."""
        handle = super().get_route_handler()

        async def handler(request: fastapi.Request) -> Response:
            return await handle(_Request(request.scope, request.receive))
        return handler


class _Request(fastapi.Request):
    async def json(self) -> Any:
        """The body, parsed. Raises ValueError for what is no JSON, Repeated for an object with two equal keys."""
        body = await self.body()
        return await asyncio.to_thread(_parse, body) if len(body) > _LARGE else _parse(body)


def _parse(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise Repeated(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return found
