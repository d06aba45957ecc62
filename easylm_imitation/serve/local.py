"""`LocalModel`: what the routes do, in this process and without a socket.

    with LocalModel(open_model("RUN")) as model:
        model.score([("The sky is", " blue"), ("The sky is", " green")])

A call is a request: it is checked by the routes' schemas, goes through the same service, scheduler and pool, and gives
the same numbers to the last bit.
"""
import asyncio
import concurrent.futures
import dataclasses
import json
import math
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import pydantic

from easylm_imitation.schema import UserError, named
from easylm_imitation.serve.completions import chat, complete
from easylm_imitation.serve.config import ServeConfig
from easylm_imitation.serve.schemas import ChatRequest, CompletionRequest
from easylm_imitation.serve.scoring import Pair, Score
from easylm_imitation.serve.server import make_service
from easylm_imitation.weights import LoadedModel

Result = TypeVar("Result")
# The limits on what a request may ask for are there for strangers.
_ASKED = ("queue", "prompts", "samples", "stops", "stop_characters", "pairs", "characters", "grammar_characters")
_NO_LIMIT = {**dict.fromkeys(_ASKED, 2**31), "request_seconds": math.inf}


class LocalModel:
    """A model that answers in this process, to any of its threads; a context manager that lets go of the device."""

    def __init__(self, loaded: LoadedModel, config: ServeConfig | None = None):
        """Compiles what this process has not compiled before. Raises UserError as `open_server` does."""
        config = config or ServeConfig()
        config = dataclasses.replace(config, limits=dataclasses.replace(config.limits, **_NO_LIMIT))
        self.service, _ = make_service(loaded, config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._thread.start()
        self.service.scheduler.start()

    def score(self, pairs: Sequence[tuple[str, str] | Pair]) -> list[tuple[float, bool]]:
        """Of (context, continuation) pairs, texts or ids: (log-probability of the continuation, whether each of its
        tokens was the likeliest). All pairs of a call are packed together, so give as many as there are.

        Raises UserError as /v1/score answers 400.
        """
        return [(score.logprob, score.greedy) for score in self._ask(self._score(pairs))]

    def generate(self, prompts: Sequence[str | list[int]], **fields: Any) -> list[str]:
        """The text of every answer, `n` to a prompt in a row; `fields` as in a body of /v1/completions.

        Raises UserError for what the route would answer 400.
        """
        body = self._ask(self._complete({**fields, "prompt": list(prompts)}))
        return [choice["text"] for choice in body["choices"]]

    def chat(self, conversations: Sequence[Sequence[Mapping[str, str]]], **fields: Any) -> list[str]:
        """The same for conversations, with `fields` as in a body of /v1/chat/completions."""
        bodies = self._ask(self._chat([{**fields, "messages": list(messages)} for messages in conversations]))
        return [choice["message"]["content"] for body in bodies for choice in body["choices"]]

    def post(self, route: str, body: dict[str, Any]) -> concurrent.futures.Future[dict[str, Any]]:
        """The body that the server would answer to `body`, to come; of /v1/completions or /v1/chat/completions.

        Raises UserError, at once or by the future, for what the route would answer 400.
        """
        kind, answer = named(route, _ROUTES, "route of a model in this process")
        request = _checked(kind, json.loads(json.dumps(body)))      # as it would arrive: tuples are lists
        return asyncio.run_coroutine_threadsafe(self._answer(answer, request), self._loop)

    def close(self) -> None:
        """Fails what runs, and frees the device's memory. May be called twice."""
        self.service.scheduler.close()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> "LocalModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _answer(self, answer: Callable[..., Coroutine], request: CompletionRequest | ChatRequest
                      ) -> dict[str, Any]:
        return await answer(self.service, request, _nobody_leaves())

    async def _score(self, pairs: Sequence[tuple[str, str] | Pair]) -> list[Score]:
        return await self.service.score_pairs(await self.service.encode_pairs(pairs), _nobody_leaves())

    async def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._answer(complete, _checked(CompletionRequest, body))

    async def _chat(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        requests = [_checked(ChatRequest, body) for body in bodies]
        return await asyncio.gather(*(self._answer(chat, request) for request in requests))


_ROUTES = {"/v1/completions": (CompletionRequest, complete), "/v1/chat/completions": (ChatRequest, chat)}


def _nobody_leaves() -> asyncio.Future:
    """What a route watches to learn that its client has hung up."""
    return asyncio.get_running_loop().create_future()


def _checked(kind: type[CompletionRequest] | type[ChatRequest], body: dict[str, Any]) -> Any:
    if body.get("stream"):
        raise UserError("stream: there is nobody to stream to; leave it out")
    try:
        return kind.model_validate(body)
    except pydantic.ValidationError as error:
        raise UserError("; ".join(map(_fault, error.errors()[:3]))) from None


def _fault(error: Mapping[str, Any]) -> str:
    """A message of validation, with the field that it is about before it."""
    place = [*map(str, error["loc"]), error.get("ctx", {}).get("field", "")]
    return ": ".join(filter(None, (".".join(filter(None, place)), error["msg"])))
