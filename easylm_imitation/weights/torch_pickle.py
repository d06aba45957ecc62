"""Reads the pickle inside a torch file without running it: what its few instructions build is built here, by name.

A pickle is a program, and loading it runs what it asks for. Here no name is ever looked up: the instructions move plain
values on a stack, and the only calls are an empty OrderedDict and the ways in which torch puts tensors together.
Anything else raises, and nothing that the file brings is run.
"""
import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from easylm_imitation.schema import UserError

STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
            "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
            "ByteStorage": "U8", "BoolStorage": "BOOL"}
_MARK = object()
_DEEPEST = 100      # lists, tuples and dicts within each other


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that the pickle mentions, `module name`; never looked up."""
    text: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `count` numbers that the file holds elsewhere under `key`."""
    key: str
    dtype: str
    count: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: part of a storage; `start` and `strides` in elements."""
    storage: Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(file: BinaryIO, where: str) -> Any:
    """The value of the pickle at the file's position: plain values, and `View`s for tensors.

    Raises UserError (beginning with `where`) for a name that tensors do not need, and for what is no whole pickle.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, value, _ in pickletools.genops(file):
            if opcode.name in _CONSTANTS:
                stack.append(value)
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                _step(opcode.name, value, stack, memo)
        (result,) = stack
        return result
    except _Refused as error:
        raise UserError(f"{where}: its pickle asks for {error}, which weights do not need; nothing of it was run; do "
                        "not trust this file, or have the one who made it save safetensors") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{where}: not a whole torch file ({error!r}); download it again") from None


class _Refused(Exception):
    """An instruction or a name that is not among those known here."""


_CONSTANTS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
              "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_MAKE: dict[str, Callable[[], Any]] = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
                                       "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": lambda: _Tuple(()),
                                       "MARK": lambda: _MARK}


def _step(name: str, value: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """One instruction that is more than a constant."""
    if name in _MAKE:
        stack.append(_MAKE[name]())
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else value] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[value])
    elif name in _GATHER:
        _GATHER[name](stack)
    elif name == "GLOBAL":
        stack.append(_named(value))
    else:
        raise _Refused(f"the instruction {name}")


def _named(text: str) -> Name:
    module, _, name = text.partition(" ")
    if text == "torch._utils _rebuild_tensor_v3":
        raise ValueError("numbers of a kind that is not read, such as float8; take the checkpoint that was not "
                         "quantised")
    if text not in _CALLS and not (module == "torch" and name in STORAGES):
        raise _Refused(f"'{module}.{name}'")
    return Name(text)


def _stack_global(stack: list[Any]) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_named(f"{module} {name}"))


def _since_mark(stack: list[Any]) -> list[Any]:
    """Takes what lies above the last mark, and the mark, off the stack."""
    place = len(stack) - 1 - stack[::-1].index(_MARK)
    taken = stack[place + 1:]
    del stack[place:]
    return taken


class _Tuple(tuple):
    """A tuple that knows how deep tuples lie in it: hashing or showing deep ones takes the process down."""
    depth: int

    def __new__(cls, items: Any) -> "_Tuple":
        made = super().__new__(cls, items)
        made.depth = 1 + max((item.depth for item in made if isinstance(item, _Tuple)), default=0)
        if made.depth > _DEEPEST:
            raise _Refused(f"tuples more than {_DEEPEST} deep")
        return made


def _tuple(stack: list[Any], size: int) -> None:
    items = _Tuple(stack[-size:])
    del stack[-size:]
    stack.append(items)


def _set(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], dict):
        raise TypeError("items set on what is no dict")
    if not all(isinstance(key, str | int) for key in items[::2]):
        raise _Refused("a dict of other keys than names and numbers")
    stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _extend(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise TypeError("items appended to what is no list")
    stack[-1].extend(items)


def _build(stack: list[Any]) -> None:
    """Attributes of an OrderedDict (versions of torch modules) hold no weights; nothing else has attributes here."""
    stack.pop()
    if not isinstance(stack[-1], dict):
        raise _Refused("attributes of something that is no dict")


def _persistent(stack: list[Any]) -> None:
    """("storage", type, key, device, count, ...): numbers that lie elsewhere in the file."""
    kind, type_name, key, _, count, *view = stack.pop()
    if not isinstance(kind, str) or kind != "storage" or not isinstance(type_name, Name) \
            or type_name.text.split()[0] != "torch":
        raise _Refused("a stored object that is no storage of numbers")
    if not isinstance(key, str | int) or not isinstance(count, int):
        raise ValueError("a storage without a key or a size")
    if any(part is not None for part in view):
        raise _Refused("a view of a storage, which torch has not written since 2017")
    stack.append(Storage(str(key), STORAGES[type_name.text.split()[1]], int(count)))


def _reduce(stack: list[Any]) -> None:
    args, name = stack.pop(), stack.pop()
    if not isinstance(name, Name) or name.text not in _CALLS:
        raise _Refused(f"a call of {name.text}" if isinstance(name, Name) else "a call of what is no name")
    stack.append(_CALLS[name.text](*args))


def _tensor(storage: Storage, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: Any) -> View:
    """torch's _rebuild_tensor_v2; of `rest` (gradients, hooks, a note) only the note changes the numbers."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without numbers")
    if any(rest[2:]):
        raise ValueError("a tensor whose numbers stand for others (negated or conjugated); save it after "
                         ".resolve_neg().resolve_conj()")
    view = View(storage, int(start), tuple(map(int, shape)), tuple(map(int, strides)))
    if len(view.shape) != len(view.strides) or min((0, view.start, *view.shape, *view.strides)) < 0:
        raise ValueError(f"a tensor of shape {view.shape} with strides {view.strides} from {view.start}")
    last = view.start + sum((size - 1) * step for size, step in zip(view.shape, view.strides, strict=True))
    if math.prod(view.shape) and last >= storage.count:
        raise ValueError(f"a tensor that ends at {last} in a storage of {storage.count}")
    return view


_CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": dict,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda data, *rest: data,
}
_GATHER: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": lambda stack: stack.append(_Tuple(_since_mark(stack))),
    "TUPLE1": lambda stack: _tuple(stack, 1), "TUPLE2": lambda stack: _tuple(stack, 2),
    "TUPLE3": lambda stack: _tuple(stack, 3),
    "SETITEM": lambda stack: _set(stack, [stack.pop(), stack.pop()][::-1]),
    "SETITEMS": lambda stack: _set(stack, _since_mark(stack)),
    "APPEND": lambda stack: _extend(stack, [stack.pop()]), "APPENDS": lambda stack: _extend(stack, _since_mark(stack)),
    "STACK_GLOBAL": _stack_global, "BUILD": _build, "BINPERSID": _persistent, "REDUCE": _reduce,
}
