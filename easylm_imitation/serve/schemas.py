"""What requests may say. Strict: an unknown field, a wrong type or a value out of range is a 400 that names it.

A field that we do not implement but that clients send with its neutral value (`best_of: 1`) is accepted with that value
alone. `user` and its like, which carry no meaning for an answer, are the only fields that are ignored.
"""
import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from easylm_imitation.schema import UserError, nearest
from easylm_imitation.serve.grammar import Spec
from easylm_imitation.serve.sampling import MAX_BIAS
from easylm_imitation.serve.strict_json import read_json

GREEDY_BELOW = 1e-4     # a smaller temperature would overflow float32 and mean the same
Seed = Annotated[int, Field(ge=-2**63, lt=2**64)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
BiasedId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
# Every list ends somewhere and is left at its first fault: pydantic keeps the interpreter to itself while it reads, so
# that a million entries, or a million errors, would hold up everybody's streams.
SHORT = Field(max_length=1 << 12, fail_fast=True)
LONG = Field(max_length=1 << 20, fail_fast=True)
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], LONG]
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), LONG]


def _only_false(value: bool) -> bool:
    if value:
        raise PydanticCustomError("only_false", "true is not offered")
    return value


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_BIAS:
        raise PydanticCustomError("too_long", "{size} entries; at most {most}", {"size": len(value), "most": MAX_BIAS})
    return value


def _only_true(value: bool) -> bool:
    if not value:
        raise PydanticCustomError("only_true", "false is not offered")
    return value


# A Literal[False] would take 0 too.
OnlyFalse = Annotated[bool, pydantic.AfterValidator(_only_false),
                      pydantic.WithJsonSchema({"type": "boolean", "const": False})]
OnlyTrue = Annotated[bool, pydantic.AfterValidator(_only_true),
                     pydantic.WithJsonSchema({"type": "boolean", "const": True})]
_TEXT, _IDS = {"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_PROMPT = {"anyOf": [_TEXT, _IDS, {"type": "array", "items": _TEXT, "minItems": 1},
                     {"type": "array", "items": _IDS, "minItems": 1}]}
_PAIR = {"anyOf": [{"type": "array", "prefixItems": [one, one], "minItems": 2, "maxItems": 2}
                   for one in ({"type": "string"}, {"type": "array", "items": {"type": "integer"}})]}
_PAIRS = {"type": "array", "items": _PAIR, "minItems": 1}
_ANY_OBJECT = {"type": "object"}


class BadField(UserError):
    """A field whose value cannot be had; `param` is its name, for OpenAI's error object."""

    def __init__(self, param: str, message: str):
        super().__init__(message)
        self.param = param


@contextlib.contextmanager
def about(param: str) -> Iterator[None]:
    """A UserError inside the block is about the field `param`."""
    try:
        yield
    except UserError as error:
        raise BadField(param, str(error)) from None


def fault(field: str, message: str) -> PydanticCustomError:
    """An error of validation that lies with a field of the object at hand."""
    return PydanticCustomError("fault", "{message}", {"message": message, "field": field})


class Strict(pydantic.BaseModel):
    """No unknown fields, no silent conversions, no NaN."""
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for name in value if isinstance(value, dict) else ():
            if name not in known:
                raise fault(name, f"unknown field{nearest(name[:100], known)}")
        return value


class StreamOptions(Strict):
    """Options of a stream."""
    include_usage: bool = False


class JsonSchema(Strict):
    """OpenAI's wrapper of a schema. It is always enforced, `strict` or not; name and description mean nothing to us."""
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Strict):
    """OpenAI's way to ask for JSON."""
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise fault("json_schema", "goes with type 'json_schema', and only with it")
        return self


class StructuredOutputs(Strict):
    """vLLM's way to ask for JSON and more."""
    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None

    @pydantic.model_validator(mode="after")
    def _asks(self) -> "StructuredOutputs":
        if all(value in (None, False) for _, value in self):
            raise PydanticCustomError("empty", "asks for nothing; give it one of json, json_object, regex, choice, "
                                               "grammar, or leave it out")
        return self


class Generation(Strict):
    """What completions and chat completions have in common."""
    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = 0      # 0 and -1 keep every token
    n: Annotated[int, Field(ge=1)] | None = 1
    seed: Seed | None = None
    stop: str | Annotated[list[str | None], SHORT] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = 0
    frequency_penalty: Penalty | None = 0
    presence_penalty: Penalty | None = 0
    logit_bias: Annotated[dict[BiasedId, Annotated[float, Field(ge=-100, le=100)]] | None,
                          Field(max_length=MAX_BIAS), pydantic.BeforeValidator(_few)] = None
    # What the answer must look like: OpenAI's field, vLLM's, and vLLM's until 0.12. At most one of all.
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    # Ignored: they name the caller, or ask for what is always so.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: OnlyFalse | None = None

    def stops(self) -> list[str]:
        """Stop strings as a list; lm-eval may send null inside it."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in given if stop is not None]

    def spec(self) -> Spec | None:
        """What the answer must look like, or None. Raises BadField when more than one thing is asked."""
        asked = [spec for spec in self._specs() if spec.source not in (None, False)]
        if len(asked) > 1:
            raise BadField(asked[1].field, f"{asked[1].field}: cannot be asked together with {asked[0].field}")
        return asked[0] if asked else None

    def _specs(self) -> Iterator[Spec]:
        if self.response_format is not None:
            if self.response_format.type == "json_object":
                yield Spec("json", _ANY_OBJECT, "response_format")
            elif self.response_format.json_schema is not None:
                yield Spec("json", self.response_format.json_schema.schema_, "response_format.json_schema.schema")
        for kind in ("json", "regex", "choice", "grammar"):
            yield Spec(kind, getattr(self, f"guided_{kind}"), f"guided_{kind}")
        if (asked := self.structured_outputs) is not None:
            yield Spec("json", _ANY_OBJECT if asked.json_object else None, "structured_outputs.json_object")
            for kind, source in (("json", asked.json_), ("regex", asked.regex), ("choice", asked.choice),
                                 ("grammar", asked.grammar)):
                yield Spec(kind, source, f"structured_outputs.{kind}")

    @property
    def plain_greedy(self) -> bool:
        """Whether each token is the model's likeliest, whatever came before. (Penalties weigh on what was said: they do
        not touch the first token.)"""
        greedy = self.temperature is not None and self.temperature < GREEDY_BELOW
        return greedy and not self.logit_bias and self.spec() is None

    def biases(self) -> tuple[tuple[int, float], ...]:
        """`logit_bias` as (id, value)."""
        return tuple((int(token), value) for token, value in (self.logit_bias or {}).items())


class CompletionRequest(Generation):
    """POST /v1/completions. `prompt` is checked by `prompts`."""
    prompt: Annotated[Any, pydantic.WithJsonSchema(_PROMPT)]
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = False
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None


class Function(Strict):
    """A call that an assistant made: the name of a function, and its arguments as JSON text."""
    name: str
    arguments: str


class ToolCall(Strict):
    """A function's call with its id."""
    id: str
    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """As templates read it: with the arguments as an object. Raises BadField when they are none."""
        try:
            arguments = read_json(self.function.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise BadField("messages", "messages: the arguments of a tool call are no JSON object (or one that has a "
                                       "key twice, or NaN)")
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class ChatMessage(Strict):
    """One message. Content is text, or a list of text parts; an assistant's that calls tools may have none."""
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list["TextPart"], SHORT] | None = None
    tool_calls: Annotated[list[ToolCall], SHORT] | None = None
    tool_call_id: str | None = None
    # What our answers say when the openai package sends them back, and what older lm-evals add to each message.
    refusal: None = None
    type: Literal["text"] | None = None

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "ChatMessage":
        if self.content is None and not self.tool_calls:
            raise fault("content", "missing")
        if self.tool_calls and self.role != "assistant":
            raise fault("tool_calls", "only an assistant's message has them")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise fault("tool_call_id", "goes with the role 'tool', and only with it")
        return self

    def text(self) -> str:
        """The content as one string."""
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def plain(self) -> dict[str, Any]:
        """As templates read it."""
        more = {"tool_call_id": self.tool_call_id} if self.role == "tool" else {}
        if self.tool_calls:
            more["tool_calls"] = [call.plain() for call in self.tool_calls]
        return {"role": "system" if self.role == "developer" else self.role, "content": self.text(), **more}

    def about_tools(self) -> bool:
        """Whether only a template that knows tools can show it."""
        return self.role == "tool" or bool(self.tool_calls)


class TextPart(Strict):
    """A part of a message's content."""
    type: Literal["text"]
    text: str


class FunctionDefinition(Strict):
    """A function that the model may call; the template decides what the model sees of it."""
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: OnlyFalse | None = None     # arguments are the model's: nothing enforces their schema


class Tool(Strict):
    """A tool; there are only functions."""
    type: Literal["function"]
    function: FunctionDefinition


class ChatRequest(Generation):
    """POST /v1/chat/completions."""
    tools: Annotated[list[Tool], SHORT] | None = None
    tool_choice: Literal["none", "auto"] | None = None  # none: the model is not told of the tools
    parallel_tool_calls: OnlyTrue | None = None         # the model makes as many calls as it likes
    messages: Annotated[list[ChatMessage], Field(min_length=1), SHORT]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise fault("max_tokens", "differs from max_completion_tokens; send one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise fault("top_logprobs", "needs logprobs: true")
        if self.parallel_tool_calls is not None and not self.tools:
            raise fault("parallel_tool_calls", "only with tools")
        return self

    def offered(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools or []


class ScoreRequest(Strict):
    """POST /v1/score: [context, continuation] pairs, both texts or both lists of ids; checked by `pairs`."""
    model: str | None = None
    pairs: Annotated[Any, pydantic.WithJsonSchema(_PAIRS)]


class TokenizeRequest(Strict):
    """POST /tokenize. Special tokens spelled out in the prompt become their ids, as in /v1/completions."""
    model: str | None = None
    prompt: str
    add_special_tokens: bool = False


class DetokenizeRequest(Strict):
    """POST /detokenize."""
    model: str | None = None
    tokens: Ids


def pairs(value: Any, most: int) -> list[tuple[str, str] | tuple[list[int], list[int]]]:
    """`pairs` of a request to score; lists are counted before they are read. Raises BadField.

    In Python, unlike the fields above, so that a thread can do it and others get their turn meanwhile.
    """
    if not isinstance(value, list):
        raise BadField("pairs", f"pairs: expected a list of [context, continuation], got {_kind(value)}")
    if not 0 < len(value) <= most:
        raise BadField("pairs", f"pairs: {len(value)} in one request; it needs 1 to {most}")
    for i, pair in enumerate(value):
        if not (isinstance(pair, list) and len(pair) == 2 and (all(map(_is_text, pair)) or all(map(_is_ids, pair)))):
            raise BadField(f"pairs.{i}", f"pairs.{i}: expected [context, continuation], two texts or two lists of ids")
    return [tuple(pair) for pair in value]


def prompts(value: Any) -> list[str] | list[list[int]]:
    """`prompt` as a list of texts or of id lists. Raises BadField for anything else, and for an empty one."""
    if isinstance(value, str) or (value and _is_ids(value)):
        value = [value]
    if not isinstance(value, list):
        expected = "a string, strings, token ids or lists of token ids"
        raise BadField("prompt", f"prompt: expected {expected}, got {_kind(value)}")
    if not (all(map(_is_text, value)) or all(map(_is_ids, value))):
        raise BadField("prompt", "prompt: a list must hold only strings, only token ids, or only lists of token ids")
    if not value or not all(value):
        raise BadField("prompt", "prompt: empty; it needs at least one token")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(token) is int for token in value)


def _kind(value: Any) -> str:
    names = {type(None): "null", dict: "an object", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
