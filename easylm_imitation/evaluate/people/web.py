"""The study over HTTP: a static page, the same for everybody, and five calls that a link's secret opens.

    POST /api/join {key, worker}     a link for one more person of the crowd
    GET  /api/study                  title, instructions, question
    POST /api/next                   what to rate next, or the completion code
    GET  /api/items/N                what was shown as N, and what was said of it
    POST /api/items/N {choice, ...}  a rating

An item is known by its number in the rater's own order alone: no answer tells a model, a prompt's id or a side. The
link's secret travels as `Authorization: Bearer`, and in a page's address behind #, which browsers send to nobody.
"""
import json
import pathlib
import socket
import threading
import time
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from easylm_imitation.evaluate.people.config import ACCEPTABLE
from easylm_imitation.evaluate.people.study import Finished, Said, Shown, Study
from easylm_imitation.schema import UserError, build, plain
from easylm_imitation.serve import chat_page
from easylm_imitation.serve.server import bind

_FOLDER = pathlib.Path(__file__).parent / "page"
_CHAT = pathlib.Path(chat_page.__file__).parent / "page"
_FILES = {"/": _FOLDER / "index.html", "/app.js": _FOLDER / "app.js", "/style.css": _FOLDER / "style.css",
          "/markdown.js": _CHAT / "markdown.js", "/marked.js": _CHAT / "marked.js", "/icon.svg": _CHAT / "icon.svg"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_BODY = 4096        # bytes of the largest request that makes sense
_NO_LINK = "This link is not known here. Check that you copied all of it."


class StudyServer:
    """A study that answers at `url` in a thread of this process; a context manager that closes it, not the study."""

    def __init__(self, study: Study, host: str = "127.0.0.1", port: int = 0):
        """Raises UserError for an address that cannot be had."""
        listener = bind(host, port)
        where, port = listener.getsockname()[:2]
        self.url = f"http://[{where}]:{port}" if ":" in where else f"http://{where}:{port}"
        self._listener: socket.socket = listener
        self._server = uvicorn.Server(uvicorn.Config(
            make_app(study), lifespan="off", ws="none", access_log=False, log_level="warning", server_header=False,
            log_config=None, timeout_graceful_shutdown=2))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="study", daemon=True)

    def __enter__(self) -> "StudyServer":
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the HTTP server ended before it was ready; its log says why")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


def make_app(study: Study) -> Starlette:
    """The routes."""
    async def join(request: Request) -> Response:
        given = await _body(request)
        key, worker = given.get("key"), given.get("worker", "")
        if not (isinstance(key, str) and isinstance(worker, str)) or len(worker) > 200:
            raise HTTPException(400, "key and worker must be texts")
        token = await run_in_threadpool(study.join, key, worker)
        if token is None:
            raise HTTPException(403, "This link is not known here, or all places of the study are taken.")
        return _json({"token": token})

    async def about(request: Request) -> Response:
        await _rater(study, request)
        config = study.config
        return _json({"title": config.title, "instructions": config.instructions, "question": config.asked,
                      "choices": config.choices, "acceptable": ACCEPTABLE if config.question == "tulu" else None,
                      "markdown": config.markdown})

    async def following(request: Request) -> Response:
        return _json(_seen(await run_in_threadpool(study.next, await _rater(study, request))))

    async def item(request: Request) -> Response:
        rater, number = await _rater(study, request), request.path_params["number"]
        shown = None if number > 2**31 else await run_in_threadpool(study.item, rater, number)
        if shown is None:
            raise HTTPException(404, "Nothing of this number was shown to you.")
        return _json(_seen(shown))

    async def rate(request: Request) -> Response:
        rater, number = await _rater(study, request), request.path_params["number"]
        try:
            said = build(Said, await _body(request), "the rating")
            known = number <= 2**31 and await run_in_threadpool(study.rate, rater, number, said)
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        if not known:
            raise HTTPException(404, "Nothing of this number was shown to you.")
        return _json({"kept": number})

    routes = [_file(path, file) for path, file in _FILES.items()]
    routes += [Route("/api/join", join, methods=["POST"]), Route("/api/study", about),
               Route("/api/next", following, methods=["POST"]), Route("/api/items/{number:int}", item),
               Route("/api/items/{number:int}", rate, methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _refused})


def _file(path: str, file: pathlib.Path) -> Route:
    content = file.read_bytes()

    async def page_file(request: Request) -> Response:
        return Response(content, headers=chat_page.HEADERS, media_type=_TYPES[file.suffix])
    return Route(path, page_file)


def _seen(shown: Shown | Finished) -> dict[str, Any]:
    """What a rater gets: of fixed form, whoever wrote the answers, and whether it is a check or not."""
    return {"finished": isinstance(shown, Finished), **plain(shown)}


async def _rater(study: Study, request: Request) -> int:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    rater = await run_in_threadpool(study.rater, token.strip()) if kind.lower() == "bearer" else None
    if rater is None:
        raise HTTPException(401, _NO_LINK)
    return rater


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request, which is cut off where it grows too large."""
    read = b""
    async for piece in request.stream():
        read += piece
        if len(read) > _BODY:
            raise HTTPException(413, f"the request is larger than {_BODY} bytes")
    try:
        made = json.loads(read)
    except (ValueError, RecursionError):
        made = None
    if not isinstance(made, dict):
        raise HTTPException(400, "a JSON object is expected")
    return made


def _json(value: Any, status: int = 200) -> Response:
    headers = chat_page.HEADERS | {"Cache-Control": "no-store"}
    return Response(json.dumps(value, ensure_ascii=True), status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code)
    return _json({"error": "The server failed; what you said before is kept."}, 500)
