"""How bodies of requests are read: as strict JSON, large ones in a thread."""
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import fastapi
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from easylm_imitation.serve.strict_json import NotStrict, read_json

_LARGE = 1 << 16    # bytes: parsing takes about a millisecond, in which nobody else would be answered


class BadBody(HTTPException):
    """JSON that is not strict; `param` is the key at fault."""

    def __init__(self, error: NotStrict):
        super().__init__(400, str(error))
        self.param = error.place or None


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
        """The body, parsed. Raises ValueError for what is no JSON, BadBody for what is not strict."""
        body = await self.body()
        try:
            return await asyncio.to_thread(read_json, body) if len(body) > _LARGE else read_json(body)
        except NotStrict as error:
            raise BadBody(error) from None
