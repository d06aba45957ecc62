"""What the routes answer, as models for the OpenAPI schema alone: bodies are built as plain objects, since checking
each would cost more than making it. tests/serve/test_serve_schema.py holds the two together."""
from typing import Any, Literal

import pydantic


class Reply(pydantic.BaseModel):
    """Only the fields that are named."""
    model_config = pydantic.ConfigDict(extra="forbid")


class Error(Reply):
    """What went wrong; `param` names the field."""
    message: str
    type: str
    param: str | None
    code: int


class ErrorReply(Reply):
    """The body of every answer that is no success."""
    error: Error


class Usage(Reply):
    """Counts of tokens."""
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TextLogprobs(Reply):
    """Of a completion's tokens; null for the first token of an echoed prompt."""
    tokens: list[str]
    text_offset: list[int]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


Finish = Literal["stop", "length"]
CallFinish = Literal["stop", "length", "tool_calls"]


class TextChoice(Reply):
    """One completion."""
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class CompletionReply(Reply):
    """POST /v1/completions."""
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class TokenLogprob(Reply):
    """A token, or an alternative to it."""
    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob):
    """A token of an answer."""
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Reply):
    """Of a chat answer's tokens."""
    content: list[ChosenLogprob]
    refusal: None


class CalledFunction(Reply):
    """Name, and arguments as JSON text."""
    name: str
    arguments: str


class ToolCall(Reply):
    """A call that the model made."""
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Reply):
    """The model's message; null instead of text where it is nothing but calls."""
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] = []


class ChatChoice(Reply):
    """One answer."""
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: CallFinish


class ChatReply(Reply):
    """POST /v1/chat/completions."""
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class PairScore(Reply):
    """Of one continuation."""
    logprob: float
    greedy: bool
    token_logprobs: list[float]


class ScoreReply(Reply):
    """POST /v1/score."""
    object: Literal["scores"]
    model: str
    scores: list[PairScore]
    usage: Usage


class TokenizeReply(Reply):
    """POST /tokenize."""
    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeReply(Reply):
    """POST /detokenize."""
    prompt: str


class TokenizerReply(Reply):
    """GET /tokenizer_info."""
    eos_token: str | None
    bos_token: str | None
    pad_token: str | None
    add_bos_token: bool             # whether a raw prompt begins with bos_token; /v1/completions adds none by itself
    chat_template: str | None
    vocab_size: int
    model_max_length: int
    tokenizer_id: str
    template: str | None


class ModelCard(Reply):
    """A served model."""
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    lineage: dict[str, Any]


class ModelsReply(Reply):
    """GET /v1/models."""
    object: Literal["list"]
    data: list[ModelCard]


class StateReply(Reply):
    """GET /health and /ready."""
    status: Literal["ok", "loading", "stopping", "stopped"]


class LikelihoodReply(Reply):
    """POST /loglikelihood."""
    prefix_text: list[str]
    text: list[str]
    log_likelihood: list[float]
    is_greedy: list[bool]


class RollingReply(Reply):
    """POST /loglikelihood-rolling."""
    text: list[str]
    log_likelihood: list[float]
    is_greedy: list[bool]


class GenerateReply(Reply):
    """POST /generate."""
    prefix_text: list[str]
    output_text: list[str]
    temperature: float


class UntilReply(Reply):
    """POST /greedy-until."""
    prefix_text: list[str]
    until: list[str | list[str]]
    max_length: int
    output_text: list[str]


class PlainChatReply(Reply):
    """POST /chat."""
    response: str
    context: str
    temperature: float
