"""Calls between two sandboxes: one asks a function of the other, and only plain data cross.

The tests of a program run in a process that the program cannot reach; what they see of it is what its function
returned, rebuilt from JSON out of Python's own types. So an object whose `__eq__` always agrees, a patched builtin or a
forged message can change what is answered, never what the answer is compared with. Standard library alone.

    frame: 4 bytes of length (big-endian), then JSON
    [1, (2,), {3}, 4.5]  <->  [1, {"tuple": [2]}, {"set": [3]}, 4.5]
"""
import builtins
import decimal
import fractions
import json
import numbers
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

_LONGEST = 64 << 20         # bytes of a frame
_ITEMS = 1_000_000          # taken of an iterator
_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}
_NUMBERS = {"fraction": fractions.Fraction, "decimal": decimal.Decimal}


class Unlike:
    """Stands for a value that is no plain data: equal to nothing but itself."""

    def __init__(self, kind: str):
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class Remote:
    """The other side's function, as a callable."""

    def __init__(self, read: int, write: int):
        self._read, self._write = read, write

    def __call__(self, *args: Any) -> Any:
        """What the function returned. Raises what it raised, and EOFError when the other side has ended."""
        try:
            _send(self._write, encode(list(args)))
            reply = _receive(self._read)
        except (BrokenPipeError, ValueError):
            reply = None
        if not isinstance(reply, dict):
            raise EOFError("the program ended or sent nonsense")
        if "raised" in reply:
            raise _exception(*map(str, reply["raised"]))
        return decode(reply["returned"])


def answer_calls(function: Callable, read: int, write: int) -> None:
    """Answers calls of `function` until the asking side closes."""
    while (asked := _receive(read)) is not None:
        try:
            reply = {"returned": encode(function(*decode(asked)))}
        except BaseException as error:      # SystemExit as well: it is the function's answer
            reply = {"raised": [type(error).__name__, str(error)[:1000]]}
        _send(write, reply)


def encode(value: Any) -> Any:
    """`value` as JSON-able data; subclasses become what they derive from, other objects only their type's name."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):     # numpy's, too
        value = int(value)
        return value if abs(value) < 1 << 63 else {"int": hex(value)}
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return float(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    for name, kind in _NUMBERS.items():
        if isinstance(value, kind):
            return {name: str(value)}
    for name, kind in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return {name: [encode(v) for v in value]}
    if isinstance(value, Iterator):
        return {"iterator": [encode(v) for _, v in zip(range(_ITEMS), value)]}
    return {"other": type(value).__name__}


def decode(data: Any) -> Any:
    """The value of `encode`; raises ValueError or TypeError for data that are not of its making."""
    if isinstance(data, list):
        return [decode(v) for v in data]
    if not isinstance(data, dict):
        return data
    (name, content), = data.items()
    if name in _SEQUENCES:
        return _SEQUENCES[name]([decode(v) for v in content])
    if name == "dict":
        return {decode(k): decode(v) for k, v in content}
    if name == "int":
        return int(content, 16)
    if name == "complex":
        return complex(*content)
    if name == "bytes":
        return bytes.fromhex(content)
    if name in _NUMBERS:
        return _NUMBERS[name](content)
    return Unlike(str(content))


def _exception(name: str, message: str) -> Exception:
    """The builtin exception of that name, or one that shows it."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:
            pass
    return types.new_class("ProgramRaised", (Exception,))(f"{name}: {message}")


def _send(write: int, value: Any) -> None:
    body = json.dumps(value).encode()
    left = memoryview(len(body).to_bytes(4, "big") + body)
    while left:
        left = left[os.write(write, left):]


def _receive(read: int) -> Any:
    """The next frame; None at the end. Raises ValueError for nonsense."""
    length = int.from_bytes(_exactly(read, 4), "big")
    if length > _LONGEST:
        raise ValueError(f"a message of {length} bytes")
    body = _exactly(read, length)
    return json.loads(body) if body else None


def _exactly(read: int, count: int) -> bytes:
    """`count` bytes; none when the other side closes before that."""
    parts = bytearray()
    while len(parts) < count:
        piece = os.read(read, count - len(parts))
        if not piece:
            return b""
        parts += piece
    return bytes(parts)
