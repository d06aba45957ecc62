"""What an OpenAI-compatible endpoint says, read: answers, token counts, the list of models, errors in its own words."""
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, build

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer. Token counts are None when the endpoint reports none, or no whole number."""
    text: str
    finish_reason: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    first_token: Mapping[str, float] | None = None      # token -> log-probability, where logprobs were asked for


@dataclasses.dataclass(frozen=True)
class Spoiled:
    """An attempt's answer of status 200 that cannot be read and reports its tokens: it is paid all the same."""
    body: str
    why: str
    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """One line of GET /v1/models; `lineage` and `context` (tokens) only where the server offers them."""
    id: str
    lineage: Lineage | None = None
    context: int | None = None


def served_models(answer: dict[str, Any]) -> list[ServedModel]:
    """The answer to GET /v1/models."""
    return [ServedModel(entry["id"], _lineage(entry), entry.get("max_model_len")) for entry in answer["data"]]


def _lineage(entry: Mapping[str, Any]) -> Lineage | None:
    try:
        return build(Lineage, entry["lineage"], "/v1/models lineage") if "lineage" in entry else None
    except UserError:       # another program's field of the same name
        return None


def first_tokens(choice: Mapping[str, Any]) -> dict[str, float] | None:
    """Log-probabilities of the candidates for a chat answer's first token; None where the endpoint gives none."""
    content = (choice.get("logprobs") or {}).get("content")
    return {top["token"]: float(top["logprob"]) for top in content[0]["top_logprobs"]} if content else None


def content_text(content: str | list[dict[str, Any]] | None) -> str | None:
    """The text of a message: a string, nothing, or a list of parts, of which the texts count."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    return content


def tokens_used(answer: dict[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the answer, as far as the endpoint reports them."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(tokens: Any) -> int | None:
    """A whole number from 0, 1.0 too; None for whatever else a server says: it is not counted, and not believed."""
    whole = isinstance(tokens, int | float) and not isinstance(tokens, bool) and tokens >= 0 and tokens % 1 == 0
    return int(tokens) if whole else None


def writable(text: str | None) -> str:
    """The text; JSON may spell half of a surrogate pair, which no file could hold: U+FFFD takes its place."""
    return _SURROGATE.sub("\ufffd", text or "")


def message_of(response: httpx.Response, clean: Callable[[str], str]) -> str:
    """What the server says is wrong: OpenAI's error object, FastAPI's detail, or the start of the body.

    `clean` takes the key out, of the whole text: of a key at the place of the cut a part would remain.
    """
    try:
        body = response.json()
        error = body.get("error") or body.get("detail") or body
        message = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        message = response.text
    message = " ".join(clean(message).split()) or response.reason_phrase
    return clean(message)[:300]


def why_unreadable(response: httpx.Response, error: Exception, clean: Callable[[str], str]) -> str:
    """Why a body of status 200 is no answer, in words: its own where it is an error object."""
    said = message_of(response, clean)
    try:
        body = response.json()
    except ValueError:
        return f"the answer is not JSON: {said}"
    if isinstance(body, dict) and body.get("error"):
        return f"an error in place of an answer: {said}"
    lacks = f" (without {clean(str(error))})" if isinstance(error, KeyError) else ""
    return f"the answer is not of the expected form{lacks}: {said}"
