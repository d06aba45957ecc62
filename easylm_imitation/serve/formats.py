"""Response bodies, as OpenAI's API has them."""
import secrets
from collections.abc import Sequence
from typing import Any

from easylm_imitation.serve.answer import Token
from easylm_imitation.serve.service import Service


class Envelope:
    """What all bodies of one response share: id, time, model."""

    def __init__(self, service: Service, prefix: str, kind: str, created: int):
        self._base = {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": created,
                      "model": service.name}

    def wrap(self, choices: list[dict], usage: dict | None = None, kind: str | None = None) -> dict[str, Any]:
        """A body with these choices."""
        body = {**self._base, "choices": choices}
        if kind:
            body["object"] = kind
        return body if usage is None else {**body, "usage": usage}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts; a stop token counts as generated."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens}


def completion_logprobs(service: Service, tokens: Sequence[Token | int], top: int) -> dict[str, Any]:
    """The legacy form. A bare id is a token without probability (the first of a prompt): null stands in both lists.

    `top_logprobs[i]` holds the `top` likeliest and the chosen token; with top = 0 it is null. `text_offset[i]`: how
    many characters of the choice's text come before the one that the token begins or goes on with.
    """
    return {
        "tokens": [service.token_text(token if isinstance(token, int) else token.id) for token in tokens],
        "text_offset": [0 if isinstance(token, int) else token.offset for token in tokens],
        "token_logprobs": [None if isinstance(token, int) else token.logprob for token in tokens],
        "top_logprobs": [None if isinstance(token, int) or not top else service.top_dict(token) for token in tokens]}


def chat_logprobs(service: Service, tokens: Sequence[Token]) -> dict[str, Any]:
    """The form of chat completions. The joined `bytes` are the answer's text, even of half characters."""
    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        return {"token": service.token_text(token_id), "logprob": logprob, "bytes": list(service.bytes.of(token_id))}

    return {"content": [{**entry(token.id, token.logprob), "top_logprobs": [entry(*other) for other in token.top]}
                        for token in tokens], "refusal": None}
