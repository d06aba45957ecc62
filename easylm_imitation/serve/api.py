"""The routes. Each is a few lines: check, hand to completions.py or to the service, return the body.

    /v1/completions  /v1/chat/completions  /v1/models      as OpenAI's
    /v1/score                                              log-likelihoods of (context, continuation) pairs
    /tokenize  /detokenize  /tokenizer_info                as vLLM's, which lm-eval's remote tokenizer asks for
    /loglikelihood  /loglikelihood-rolling  /generate  /greedy-until  /chat     as EasyLM's
    /  /page/...                                           the chat page (chat_page.py)
    /beside/v1/...                                         another server's answers, for the page (beside.py)
    /health  /ready  /metrics  /openapi.json
"""
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from easylm_imitation.schema import UserError, plain
from easylm_imitation.serve import easylm, replies
from easylm_imitation.serve.beside import Beside
from easylm_imitation.serve.bodies import BodyRoute
from easylm_imitation.serve.chat_page import add_files
from easylm_imitation.serve.completions import chat, complete
from easylm_imitation.serve.guard import Guard, error_body
from easylm_imitation.serve.metrics import exposition
from easylm_imitation.serve.scheduler import Busy, Stopped, TooLate
from easylm_imitation.serve.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ScoreRequest,
    TokenizeRequest,
    about,
)
from easylm_imitation.serve.schemas import pairs as read_pairs
from easylm_imitation.serve.scoring import check_ids
from easylm_imitation.serve.service import Gone, Service


def make_app(service: Service, api_key: str | None, beside: Beside | None = None) -> tuple[fastapi.FastAPI, Guard]:
    """The application, and the same behind its guard: the guard is what to serve."""
    app = fastapi.FastAPI(title="easylm_imitation", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.route_class = BodyRoute
    _add_generation(app, service)
    _add_easylm(app, service)
    _add_tokens(app, service)
    _add_state(app, service)
    add_files(app)
    _add_page_models(app, service, beside)
    if beside:
        _add_beside(app, beside)
    _add_schema(app)
    _add_errors(app, service)
    return app, Guard(app, api_key=api_key, body_bytes=service.limits.body_bytes)


def _add_generation(app: fastapi.FastAPI, service: Service) -> None:
    @app.post("/v1/completions", **_says(replies.CompletionReply, *_GENERATE, stream=True))
    async def completions(body: CompletionRequest, request: fastapi.Request) -> Response:
        _check_model(service, body.model)
        async with _disconnect(request) as gone:
            return _json(await complete(service, body, gone))

    @app.post("/v1/chat/completions", **_says(replies.ChatReply, *_GENERATE, stream=True))
    async def chat_completions(body: ChatRequest, request: fastapi.Request) -> Response:
        _check_model(service, body.model)
        async with _disconnect(request) as gone:
            return _json(await chat(service, body, gone))

    @app.post("/v1/score", **_says(replies.ScoreReply, *_GENERATE))
    async def score(body: ScoreRequest, request: fastapi.Request) -> Response:
        _check_model(service, body.model)
        given = await asyncio.to_thread(read_pairs, body.pairs, service.limits.pairs)
        async with _disconnect(request) as gone:
            with about("pairs"):
                pairs = await service.encode_pairs(given)
                scores = await service.score_pairs(pairs, gone)
        tokens = sum(len(before) + len(after) for before, after in pairs)
        return _json({"object": "scores", "model": service.name, "scores": [plain(score) for score in scores],
                      "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}})


def _add_easylm(app: fastapi.FastAPI, service: Service) -> None:
    @app.post("/loglikelihood", **_says(replies.LikelihoodReply, *_GENERATE))
    async def loglikelihood(body: easylm.LikelihoodRequest, request: fastapi.Request) -> dict[str, Any]:
        async with _disconnect(request) as gone:
            return await easylm.loglikelihood(service, body, gone)

    @app.post("/loglikelihood-rolling", **_says(replies.RollingReply, *_GENERATE))
    async def loglikelihood_rolling(body: easylm.RollingRequest, request: fastapi.Request) -> dict[str, Any]:
        async with _disconnect(request) as gone:
            return await easylm.loglikelihood_rolling(service, body, gone)

    @app.post("/generate", **_says(replies.GenerateReply, *_GENERATE))
    async def generate(body: easylm.GenerateRequest, request: fastapi.Request) -> dict[str, Any]:
        async with _disconnect(request) as gone:
            return await easylm.generate(service, body, gone)

    @app.post("/greedy-until", **_says(replies.UntilReply, *_GENERATE))
    async def greedy_until(body: easylm.UntilRequest, request: fastapi.Request) -> dict[str, Any]:
        async with _disconnect(request) as gone:
            return await easylm.greedy_until(service, body, gone)

    @app.post("/chat", **_says(replies.PlainChatReply, *_GENERATE))
    async def plain_chat(body: easylm.PlainChatRequest, request: fastapi.Request) -> dict[str, Any]:
        async with _disconnect(request) as gone:
            return await easylm.plain_chat(service, body, gone)


def _add_tokens(app: fastapi.FastAPI, service: Service) -> None:
    tokenizer = service.tokenizer

    @app.post("/tokenize", **_says(replies.TokenizeReply, *_BODY, 404))
    def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        _check_model(service, body.model)
        start = [tokenizer.bos_id] if body.add_special_tokens and tokenizer.begins else []
        with about("prompt"):
            service.check_length(body.prompt, "prompt")
            ids = [*start, *tokenizer.encode(body.prompt, parse_special=True)]
        return {"tokens": ids, "count": len(ids), "max_model_len": service.context}

    @app.post("/detokenize", **_says(replies.DetokenizeReply, *_BODY, 404))
    def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        _check_model(service, body.model)
        with about("tokens"):
            check_ids(body.tokens, tokenizer.vocab_size, "tokens")
        return {"prompt": tokenizer.decode(body.tokens, skip_special=False)}

    @app.get("/tokenizer_info", **_says(replies.TokenizerReply, 401))
    def tokenizer_info() -> dict[str, Any]:
        return service.tokenizer_info()


def _add_state(app: fastapi.FastAPI, service: Service) -> None:
    card = {"id": service.name, "object": "model", "created": service.started, "owned_by": "easylm_imitation",
            "max_model_len": service.context, "lineage": plain(service.lineage)}

    @app.get("/v1/models", **_says(replies.ModelsReply, 401))
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}", **_says(replies.ModelCard, 401, 404))
    def model(name: str) -> dict[str, Any]:
        _check_model(service, name)
        return card

    @app.head("/health", include_in_schema=False)
    @app.get("/health", **_says(replies.StateReply, stopped=replies.StateReply))
    def health() -> JSONResponse:
        return _state(service.scheduler.alive)

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", **_says(replies.StateReply, stopped=replies.StateReply))
    def ready() -> JSONResponse:
        return _state(service.scheduler.alive)

    @app.get("/metrics", response_class=PlainTextResponse, **_says(None, 401))
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(exposition(service.engine, service.scheduler))


def _add_page_models(app: fastapi.FastAPI, service: Service, beside: Beside | None) -> None:
    here = {"name": service.name, "route": "v1", "chat": service.template is not None, "context": service.context,
            "error": None}

    @app.get("/page/models", include_in_schema=False)
    async def page_models() -> dict[str, Any]:
        return {"models": [here, await beside.about()] if beside else [here]}


def _add_beside(app: fastapi.FastAPI, beside: Beside) -> None:
    @app.post("/beside/v1/completions", response_model=None, include_in_schema=False)
    async def completions(body: dict[str, Any], request: fastapi.Request) -> Response:
        async with _disconnect(request) as gone:
            return await beside.forward("completions", body, gone)

    @app.post("/beside/v1/chat/completions", response_model=None, include_in_schema=False)
    async def chat_completions(body: dict[str, Any], request: fastapi.Request) -> Response:
        async with _disconnect(request) as gone:
            return await beside.forward("chat/completions", body, gone)


def _add_schema(app: fastapi.FastAPI) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    def openapi() -> dict[str, Any]:
        return openapi_schema(app)


def openapi_schema(app: fastapi.FastAPI) -> dict[str, Any]:
    """What the routes take and answer. FastAPI's own 422 never comes: what cannot be validated is a 400 here."""
    schema = app.openapi()
    for operation in (one for path in schema["paths"].values() for one in path.values()):
        operation["responses"].pop("422", None)
    return schema


def _says(reply: type[replies.Reply] | None, *errors: int, stream: bool = False,
          stopped: type[replies.Reply] | None = None) -> dict[str, Any]:
    """What a route answers, for the OpenAPI schema alone: the bodies are not checked once more."""
    responses: dict[int | str, dict[str, Any]] = {status: {"model": replies.ErrorReply} for status in errors}
    if reply is not None:
        responses[200] = {"model": reply}
    if stream:
        responses[200]["content"] = {"text/event-stream": {"schema": _EVENT}}
    if stopped is not None:
        responses[503] = {"model": stopped}
    return {"response_model": None, "responses": responses}


_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
_BODY = (400, 401, 413, 415, 503)       # what any route that takes a body may answer
_GENERATE = (*_BODY, 404, 429, 499, 500, 504)


def _add_errors(app: fastapi.FastAPI, service: Service) -> None:
    def refuse(status: int, message: str, headers: dict[str, str] | None = None,
               param: str | None = None) -> JSONResponse:
        return JSONResponse(error_body(status, message, param), status, headers)

    def handler(status: int) -> Callable[..., Awaitable[Response]]:
        async def handle(request: fastapi.Request, error: Exception) -> Response:
            return refuse(status, str(error), param=getattr(error, "param", None))
        return handle

    async def stopped(request: fastapi.Request, error: Stopped) -> Response:
        return refuse(service.stopped_status(), str(error))

    async def busy(request: fastapi.Request, error: Busy) -> Response:
        return refuse(429, "the queue is full; try again", {"Retry-After": str(error.retry_after)})

    async def http(request: fastapi.Request, error: HTTPException) -> Response:
        return refuse(error.status_code, str(error.detail), getattr(error, "headers", None),
                      getattr(error, "param", None))

    async def invalid(request: fastapi.Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "")
        if not _is_json(kind):
            return refuse(415, f"the body must be JSON, with the header 'Content-Type: application/json', not '{kind}'")
        faults = error.errors()[:3]
        return refuse(400, "; ".join(_describe(one) for one in faults), param=_place(faults[0]) or None)

    async def no_text(request: fastapi.Request, error: UnicodeEncodeError) -> Response:
        return refuse(400, "the request holds half of a surrogate pair, which has no UTF-8 form")

    async def failed(request: fastapi.Request, error: Exception) -> Response:
        return refuse(500, f"the server failed ({type(error).__name__}); its log says where")

    app.add_exception_handler(UserError, handler(400))
    app.add_exception_handler(UnicodeEncodeError, no_text)      # from within pydantic, which cannot quote such names
    app.add_exception_handler(Stopped, stopped)
    app.add_exception_handler(Gone, handler(499))
    app.add_exception_handler(TooLate, handler(504))
    app.add_exception_handler(Busy, busy)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, failed)


def _describe(error: dict[str, Any]) -> str:
    return f"{_place(error) or 'body'}: {error['msg']}"


def _place(error: dict[str, Any]) -> str:
    """Dotted path of the field that an error of validation is about; "" for the body as a whole."""
    hidden = ("body", "list[", "tuple[")    # pydantic's own words for the branch of a union
    if error["type"] == "json_invalid":     # its place is a number of characters
        return ""
    parts = [*map(str, error["loc"]), error.get("ctx", {}).get("field", "")]
    return ".".join(part for part in parts if part and not part.startswith(hidden))


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _state(good: bool) -> JSONResponse:
    return JSONResponse({"status": "ok" if good else "stopped"}, 200 if good else 503)


def _json(body: dict[str, Any] | Response) -> Response:
    """A body as it is: FastAPI would first copy every value of it."""
    return body if isinstance(body, Response) else JSONResponse(body)


def _check_model(service: Service, name: str | None) -> None:
    if name not in (None, service.name, service.own_name):
        raise HTTPException(404, f"the model '{name}' is not served here; this server has '{service.name}'")


@contextlib.asynccontextmanager
async def _disconnect(request: fastapi.Request) -> AsyncIterator[asyncio.Task]:
    """A task that is done when the client hangs up (Starlette tells nobody but those who ask)."""
    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(watch())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
