"""What the readers of formats share: the row that they make, and the reading of fields that may be absent or wrong."""
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Message


class Row(NamedTuple):
    """One conversation of a record."""
    messages: list[Message]
    name: str = ""              # which of the record's conversations, where it holds several; ends the id
    teacher: str | None = None  # who wrote the answers, where the record says ("": people); None: as the source says


class Cut(NamedTuple):
    """Turns of a record that none of its conversations holds."""
    turns: int


def cut(turns: int) -> Iterator[Cut]:
    """Says so, where there are any."""
    if turns:
        yield Cut(turns)


def round_of(question: str, answer: str) -> list[Message]:
    """One question with its answer."""
    return [Message("user", question), Message("assistant", answer)]


def text(record: dict[str, Any], *keys: str, default: str | None = None) -> str:
    """The first of `keys` that the record has, which must hold text; `default` where it has none, or null."""
    for key in keys:
        if record.get(key) is not None or (key in record and default is None):
            if not isinstance(record[key], str):
                raise Drop("wrong shape", f"'{key}' is {type(record[key]).__name__}, not text")
            return record[key]
    if default is not None:
        return default
    raise Drop("wrong shape", f"no '{keys[0]}'; keys are {', '.join(map(str, record))}{_wrapped(record)}")


def _wrapped(record: dict[str, Any]) -> str:
    """A hint where the object holds the file's records."""
    lists = [key for key, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return f"; are the records in '{lists[0]}'? `jq -c '.{lists[0]}[]' FILE` takes them out" if len(lists) == 1 else ""


def listed(record: dict[str, Any], key: str, kind: type) -> list[Any]:
    """The list under `key`, all of `kind`."""
    values = record.get(key)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise Drop("wrong shape", f"'{key}' is not a list of {'objects' if kind is dict else kind.__name__}")
    return values


def inside(record: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`."""
    if not isinstance(record.get(key), dict):
        raise Drop("wrong shape", f"'{key}' is not an object")
    return record[key]


def system(record: dict[str, Any], *keys: str) -> list[Message]:
    """The system message that stands beside the turns, if there is one."""
    content = text(record, *keys, default="")
    return [Message("system", content)] if content else []


def sound(make: Callable[..., Row], *given: Any) -> Row | Drop:
    """What `make` gives, or why it cannot: one bad part of a record then leaves its other conversations in."""
    try:
        return make(*given)
    except Drop as drop:
        return drop


def numbered(rows: Iterable[list[Message]]) -> Iterator[Row]:
    """Rows named by their place, from 0."""
    return (Row(messages, str(i)) for i, messages in enumerate(rows))


def chance(*texts: str) -> float:
    """A number in [0, 1) that these texts decide: a choice that is random over records and equal in every build."""
    return int.from_bytes(hashlib.blake2b("\0".join(texts).encode(), digest_size=6).digest()) / 2 ** 48
