"""Strict reading of plain mappings into frozen dataclasses: the one gate for configs and for every file between verbs.

A dataclass is the schema. `build(cls, mapping, where)` refuses an unknown key (naming the nearest), a missing key and a
wrong type, so that a typo stops the work before it starts. `plain(value)` is the way back, to JSON-able types.
"""
import collections.abc
import dataclasses
import difflib
import functools
import inspect
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something the user can mend. The message names the value, the place and the cure; verbs print it and exit 2."""


class Incomplete(UserError):
    """The work is done, but for a part that could not be: `result` is what the verb returns (exit status 3)."""

    def __init__(self, message: str, result: dict[str, Any]):
        super().__init__(message)
        self.result = result


def brief(value: Any) -> str:
    """A stranger's value for a line of ours: at most 62 characters, all of them printable."""
    if isinstance(value, str):
        return ascii(value[:60])[:62]
    return ascii(value)[:62] if value is None or isinstance(value, (bool, int, float)) else "a list"


def nearest(name: str, known: collections.abc.Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, or the list of known names when nothing is close."""
    by_lower = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{by_lower[close[0]]}'?"
    return f"; known: {', '.join(sorted(by_lower.values())) or 'none'}"


def named(name: str, known: collections.abc.Mapping[str, T], what: str) -> T:
    """What `known` has under `name`. Raises UserError, "'x' is no WHAT", that lists the names, the nearest first."""
    if name in known:
        return known[name]

    def distance(other: str) -> tuple[float, str]:
        return -difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio(), other
    meant = nearest(name, known)
    meant = meant if meant.startswith("; did") else ""
    raise UserError(f"'{name}' is no {what}{meant}; known, the nearest first: {', '.join(sorted(known, key=distance))}")


def build(cls: type[T], mapping: collections.abc.Mapping[str, Any], where: str) -> T:
    """Makes dataclass `cls` from `mapping`; `where` names the place in errors (a file, a line, a config path).

    Annotations may be bool, int, float, str, Any, dict[...], tuple[X, ...], list[X], Literal[...], unions with None,
    and nested dataclasses. An int is accepted for a float; a bool is never accepted for an int. Raises UserError.
    """
    if not isinstance(mapping, collections.abc.Mapping):
        raise UserError(f"{where}: expected a mapping with the keys of {cls.__name__}, got {_show(mapping)}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in mapping:
        if key not in fields:
            raise UserError(f"{where}: unknown key '{key}'{nearest(str(key), fields)}")
    hints = _hints(cls)
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: the key '{name}' is missing")
    try:
        return cls(**values)
    except ValueError as error:  # a dataclass's own __post_init__ check
        raise UserError(f"{where}: {error}") from error


def arguments(function: collections.abc.Callable, mapping: collections.abc.Mapping[str, Any],
              where: str) -> dict[str, Any]:
    """`mapping` as keyword arguments of `function`: only its keyword-only parameters count, by their annotations.

    Raises UserError for a name that it does not have, one that is missing, and a value of the wrong type.
    """
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for key in mapping:
        if key not in known:
            raise UserError(f"{where}: unknown option '{key}'{nearest(str(key), known)}")
    for parameter in parameters:
        if parameter.name in known and parameter.default is parameter.empty and parameter.name not in mapping:
            raise UserError(f"{where}: the option '{parameter.name}' is missing")
    return {key: _convert(hints[key], value, f"{where}.{key}") for key, value in mapping.items()}


def defaults(function: collections.abc.Callable) -> dict[str, Any]:
    """Those that the parameters of `function` have, by name."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings become dicts and lists that `json.dumps` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, collections.abc.Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """A dataclass's annotations, resolved once: results hold a hundred thousand items."""
    return typing.get_type_hints(cls)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is typing.Literal:
        if value not in args:
            close = nearest(value, args) if isinstance(value, str) else ""
            raise UserError(f"{where}: {_show(value)} is not one of {', '.join(map(str, args))}"
                            + (close if close.startswith("; did") else ""))
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)
    if origin in (tuple, list):
        return _convert_sequence(origin, args, value, where)
    if origin is dict or hint is dict:
        if not isinstance(value, collections.abc.Mapping):
            raise UserError(f"{where}: expected a mapping, got {_show(value)}")
        item = args[1] if args else Any
        return {str(k): _convert(item, v, f"{where}.{k}") for k, v in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_union(args: tuple, value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None)]
    errors = []
    for option in options:
        try:
            return _convert(option, value, where)
        except UserError as error:
            errors.append(error)
    if type(None) in args and str(errors[0]).startswith(f"{where}: expected "):
        raise UserError(str(errors[0]).replace(": expected ", ": expected None or ", 1))
    raise errors[0]


def _convert_sequence(origin: type, args: tuple, value: Any, where: str) -> Any:
    if isinstance(value, str) or not isinstance(value, collections.abc.Sequence):
        raise UserError(f"{where}: expected a list, got {_show(value)}")
    item = args[0] if args else Any
    return origin(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))


def _convert_scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where}: expected {hint.__name__}, got {_show(value)}")
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return f"{text[:60] + '…' if len(text) > 60 else text} ({type(value).__name__})"
