"""JSON by its standard: Python's reader would let NaN in, and drop the first of two equal keys without a word."""
import json
import math
from typing import Any


class NotStrict(ValueError):
    """JSON in Python's eyes alone; `place` is the key at fault, dotted where it lies deeper."""

    def __init__(self, message: str, place: str):
        super().__init__(message)
        self.place = place


def read_json(text: str | bytes) -> Any:
    """What a text says. Raises NotStrict for a key twice in one object, NaN and numbers beyond float64, ValueError for
    what is no JSON at all, RecursionError for a deep nest."""
    odd = []

    def number(written: str) -> float:
        value = float(written)
        if not math.isfinite(value):
            odd.append(value)
        return value

    found = json.loads(text, object_pairs_hook=_once, parse_float=number, parse_constant=number)
    if odd:
        place = _place_of_odd(found)
        raise NotStrict(f"{place or 'body'}: {odd[0]} is no number that JSON has", place)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise NotStrict(f"{key}: stands twice in one object; send it once", key)
    return found


def _place_of_odd(value: Any) -> str:
    """Dotted keys to a number that is none; "" for the whole."""
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        place, value = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return place.removeprefix(".")
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        left += [(f"{place}.{name}", one) for name, one in inner]
    return ""
