"""Records of other people's formats as conversations. Each function takes a record and gives its messages, or raises
Drop."""
from collections.abc import Callable
from typing import Any

from easylm_imitation.data.config import SourceConfig
from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Conversation, Message, conversation_from
from easylm_imitation.schema import UserError
from easylm_imitation.text.template import fault_of

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
                   "assistant": "assistant", "system": "system"}


def convert(record: dict[str, Any], source: SourceConfig, dataset: str, number: int) -> Conversation:
    """The conversation that a record of `source` holds; `number` makes an id where it has none ("<dataset>_<number>").

    Raises Drop: "wrong shape", "unknown role", "empty turn", "no answer", and the faults of `text.fault_of`.
    """
    if source.format == "conversations":
        conversation = _as_conversation({"dataset": dataset, "id": f"{dataset}_{number}", **record})
    else:
        messages = tuple(_READERS[source.format](record))
        conversation = Conversation(dataset, str(record.get("id", f"{dataset}_{number}")), messages)
    _check(conversation.messages)
    if source.teacher and not conversation.teacher:
        conversation = Conversation(conversation.dataset, conversation.id, conversation.messages, source.teacher,
                                    conversation.meta)
    return conversation


def _as_conversation(record: dict[str, Any]) -> Conversation:
    try:
        return conversation_from(record, "record")
    except UserError as error:
        raise Drop("wrong shape", str(error)) from None


def _check(messages: tuple[Message, ...]) -> None:
    fault = fault_of(messages)
    if fault:
        raise Drop(*fault)
    if messages[-1].role not in ("assistant", "document"):
        raise Drop("no answer", "the last turn is not the assistant's")
    for i, message in enumerate(messages):
        if not message.content.strip() and message.role != "system":
            raise Drop("empty turn", f"turn {i + 1}, {message.role}")


def _text(record: dict[str, Any], *keys: str, default: str | None = None) -> str:
    """The first of `keys` that the record has, which must hold text."""
    for key in keys:
        if key in record:
            if not isinstance(record[key], str):
                raise Drop("wrong shape", f"'{key}' is {type(record[key]).__name__}, not text")
            return record[key]
    if default is not None:
        return default
    raise Drop("wrong shape", f"no '{keys[0]}'; keys are {', '.join(map(str, record))}")


def _alpaca(record: dict[str, Any]) -> list[Message]:
    """instruction, input ("" if none), output (or response, as GPTeacher names it); in LLaMA-Factory's files also a
    system message and earlier rounds: system, history [[question, answer], ...]."""
    instruction, extra = _text(record, "instruction"), _text(record, "input", default="")
    history = record.get("history") or []
    if not isinstance(history, list) or not all(
            isinstance(pair, list) and [type(text) for text in pair] == [str, str] for pair in history):
        raise Drop("wrong shape", "'history' is not a list of [question, answer]")
    messages = _system(record)
    for question, answer in history:
        messages += [Message("user", question), Message("assistant", answer)]
    user = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return [*messages, Message("user", user), Message("assistant", _text(record, "output", "response"))]


def _halueval(record: dict[str, Any]) -> list[Message]:
    return [Message("user", _text(record, "user_query")), Message("assistant", _text(record, "chatgpt_response"))]


def _prompt_completion(record: dict[str, Any]) -> list[Message]:
    return [Message("user", _text(record, "prompt")), Message("assistant", _text(record, "completion"))]


def _sharegpt(record: dict[str, Any]) -> list[Message]:
    """conversations: [{from, value}]. As FastChat's cleaning does, an opening answer and a closing question are cut."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Drop("wrong shape", "'conversations' is not a list of objects")
    messages = [Message(_role(_text(turn, "from")), _text(turn, "value")) for turn in turns]
    system = _system(record)
    if messages and messages[0].role == "system":
        system, messages = messages[:1], messages[1:]
    if messages and messages[0].role == "assistant":
        messages = messages[1:]
    if messages and messages[-1].role == "user":
        messages = messages[:-1]
    return system + messages if messages else []


def _system(record: dict[str, Any]) -> list[Message]:
    """The system message that stands beside the turns, if there is one."""
    text = _text(record, "system", default="") if record.get("system") is not None else ""
    return [Message("system", text)] if text else []


def _role(name: str) -> str:
    if name not in _SHAREGPT_ROLES:
        raise Drop("unknown role", name)
    return _SHAREGPT_ROLES[name]


_READERS: dict[str, Callable[[dict[str, Any]], list[Message]]] = {
    "alpaca": _alpaca, "halueval": _halueval, "sharegpt": _sharegpt, "prompt-completion": _prompt_completion}
