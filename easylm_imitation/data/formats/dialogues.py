"""Conversations of several rounds."""
import re
from collections.abc import Iterator
from typing import Any, Literal

from easylm_imitation.data.formats.base import Cut, Row, cut, inside, listed, sound, system, text
from easylm_imitation.data.formats.instructions import alpaca
from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Conversation, Message, conversation_from
from easylm_imitation.schema import UserError

_ROLES: dict[str, Literal["user", "assistant", "system"]] = {
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "bot": "assistant", "system": "system"}


def role(name: str) -> Literal["user", "assistant", "system"]:
    """Our name of a speaker. Raises Drop for one that is none of two people talking ("bing", "function_call")."""
    if name not in _ROLES:
        raise Drop("unknown role", name)
    return _ROLES[name]


def conversations(record: dict[str, Any]) -> Iterator[Conversation]:
    """Our own records, read strictly; "" stands for a dataset and an id that the record does not name."""
    try:
        yield conversation_from({"dataset": "", "id": "", **record}, "record")
    except UserError as error:
        raise Drop("wrong shape", str(error)) from None


def sharegpt(record: dict[str, Any], *, like: Literal["", "open-instruct"] = "") -> Iterator[Row | Cut]:
    """conversations: [{from, value}]. As FastChat's cleaning does, an opening answer and a closing question are cut,
    and what was said with plugins is left out. `like="open-instruct"` leaves out every dialogue with a system turn."""
    if record.get("plugins"):
        raise Drop("with plugins", "parts of such answers come from other programs")
    messages = [Message(role(text(turn, "from")), text(turn, "value"))
                for turn in listed(record, "conversations", dict)]
    if like and any(message.role == "system" for message in messages):
        raise Drop("with a system turn", "open-instruct takes none of these")
    first = system(record, "system")
    if messages and messages[0].role == "system":
        first, messages = messages[:1], messages[1:]
    turns = len(messages)
    if messages and messages[0].role == "assistant":
        messages = messages[1:]
    if messages and messages[-1].role == "user":
        messages = messages[:-1]
    yield Row(first + messages if messages else [])
    yield from cut(turns - len(messages) if messages else 0)


def messages_of(record: dict[str, Any]) -> Iterator[Row]:
    """messages: [{role, content}], read leniently: other keys are passed over, a content may be a list of parts."""
    yield Row([Message(role(text(turn, "role")), _content(turn)) for turn in listed(record, "messages", dict)])


def _content(turn: dict[str, Any]) -> str:
    if not isinstance(turn.get("content"), list):
        return text(turn, "content")
    return "".join(text(part, "text") for part in listed(turn, "content", dict))


def lima(record: dict[str, Any]) -> Iterator[Row]:
    """conversations: texts in turn, the user's first. A single text (the test split) has no answer. Or as LLaMA-Factory
    keeps LIMA: the last round as instruction, input and output, earlier ones in `history`."""
    if "instruction" in record and "conversations" not in record:
        yield from alpaca(record)
        return
    texts = listed(record, "conversations", str)
    yield Row([Message(("user", "assistant")[i % 2], content) for i, content in enumerate(texts)])


def baize(record: dict[str, Any], *, like: Literal["", "open-instruct"] = "") -> Iterator[Row | Cut]:
    """input: one text with [|Human|] and [|AI|] before the turns. A question without an answer ends it;
    `like="open-instruct"` leaves that round out and reads on, though later ones may refer to it."""
    messages: list[Message] = []
    parts = text(record, "input").split("[|Human|]")[1:]
    for part in parts:
        question, marker, answer = part.partition("[|AI|]")
        if not marker or not question.strip() or not answer.strip():
            if like:
                continue
            break
        messages += [Message("user", question.strip()), Message("assistant", answer.strip())]
    yield Row(messages)
    turns = sum(bool(turn.strip()) for part in parts for turn in part.partition("[|AI|]")[::2])
    yield from cut(turns - len(messages) if messages else 0)


def oasst1(record: dict[str, Any], *, lang: str = "", only: Literal["all", "best"] = "all",
           like: Literal["", "open-instruct"] = "") -> Iterator[Row | Drop | Cut]:
    """A tree of messages: one row for each path from the root to an answer that no longer path goes through.

    A path that ends in a question is cut back to its last answer; `like="open-instruct"` leaves such paths out. `lang`
    takes the trees of one language; `only="best"` follows the best ranked reply alone, so no answer comes twice.
    Deleted messages, and those that reviewers refused, end a path.
    """
    root = inside(record, "prompt")
    if lang and root.get("lang") != lang:
        raise Drop("other language", str(root.get("lang")))
    done: set[int] = set()
    rows = 0
    for path in _paths(root, only == "best"):
        if like == "" and path[-1].get("role") == "prompter":
            path = path[:-1]
        if not path or path[-1].get("role") != "assistant" or id(path[-1]) in done:
            continue
        passed = done | {id(node) for node in path}
        row = sound(_row_of_path, path, str(len(passed)))
        done = passed if isinstance(row, Row) else done
        rows += isinstance(row, Row)
        yield row
    yield from cut(_size(root) - len(done) if rows else 0)


def _size(node: dict[str, Any]) -> int:
    """Messages in a tree, whatever became of them."""
    replies = node.get("replies")
    return 1 + sum(_size(reply) for reply in (replies if isinstance(replies, list) else ()) if isinstance(reply, dict))


def _row_of_path(path: list[dict[str, Any]], name: str) -> Row:
    last = path[-1]
    return Row([Message(role(text(node, "role")), text(node, "text")) for node in path],
               text(last, "message_id", default=name),
               text(last, "model_name", default="") or None if last.get("synthetic") else "")


def _paths(node: dict[str, Any], best: bool) -> Iterator[list[dict[str, Any]]]:
    """Paths from `node` down, longest first where one is the beginning of another."""
    if node.get("deleted") or node.get("review_result") is False:
        return
    replies = listed(node, "replies", dict) if node.get("replies") else []
    replies = [reply for reply in replies if not reply.get("deleted") and reply.get("review_result") is not False]
    if best and replies:
        replies = [min(replies, key=lambda one: one["rank"] if isinstance(one.get("rank"), int) else len(replies))]
    if not replies:
        yield [node]
    # paths that end in an answer first: one that is cut back then finds whether its answer was passed already
    below = [path for reply in replies for path in _paths(reply, best)]
    for path in sorted(below, key=lambda path: path[-1].get("role") == "prompter"):
        yield [node, *path]


def oig(record: dict[str, Any], *, name: str = "a language model", like: Literal["", "koala"] = "") -> Iterator[Row]:
    """text: "<human>: ... <bot>: ...". The set's name for the assistant becomes `name`, which Koala's pipeline meant to
    do and did not: `like="koala"` leaves it in."""
    parts = re.split(r"(<human>|<bot>):", text(record, "text"))[1:]
    messages = [Message(role(speaker[1:-1]), content.strip())
                for speaker, content in zip(parts[::2], parts[1::2], strict=True)]
    if like != "koala":
        messages = [Message(m.role, m.content.replace("OIG (Open Instruction Generalist)", name))
                    if m.role == "assistant" else m for m in messages]
    yield Row(messages)
