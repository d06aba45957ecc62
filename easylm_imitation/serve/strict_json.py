"""JSON by its standard: Python's reader would let NaN in, and drop the first of two equal keys without a word."""
import json
from typing import Any, NoReturn


class NotStrict(ValueError):
    """JSON in Python's eyes alone; `key` is the one that stands twice in an object, or None."""

    def __init__(self, message: str, key: str | None = None):
        super().__init__(message)
        self.key = key


def read_json(text: str | bytes) -> Any:
    """What a text says. Raises NotStrict, or ValueError for what is no JSON at all; RecursionError for a deep nest."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise NotStrict(f"{key}: stands twice in one object; send it once", key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise NotStrict(f"{name} is no number of JSON")
