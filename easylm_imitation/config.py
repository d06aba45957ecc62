"""Config files: `ml_collections` Python files under `configs/`, read into a frozen dataclass, with overrides.

    config = load(TrainConfig, "configs/train/finetune.py", ["--config.optimizer.learning_rate=1e-5"])

A file defines `get_config()` and returns a `ConfigDict` with any subset of the dataclass's keys; `file.py:NAME` calls
`get_config("NAME")`, for files that hold one recipe for many models. An override names one leaf, elements of a list by
their number (`--config.sources.0.limit=5`); its text is read as the leaf's own type. Unknown keys and wrong types raise
UserError naming the nearest key.
"""
import ast
import dataclasses
import importlib.util
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

from easylm_imitation.schema import UserError, build, nearest, plain

T = TypeVar("T")
PREFIX = "--config."


def load(cls: type[T], path: str | None, overrides: Sequence[str] = ()) -> T:
    """Reads `path` (None: all defaults), applies overrides such as `--config.a.b=c`, checks all of it against `cls`."""
    mapping = _read(path) if path else {}
    where = str(path or "config")
    for override in overrides:
        _apply(cls, mapping, override)
    return build(cls, mapping, where)


def load_one_of(classes: Mapping[str, type], key: str, path: str | None, overrides: Sequence[str] = ()) -> Any:
    """`load` for files of several kinds: their leaf `key` names the class (absent: the first of `classes`)."""
    said = [text.partition("=")[2] for text in overrides if text.startswith(f"{PREFIX}{key}=")]
    name = said[-1] if said else (_read(path) if path else {}).get(key, next(iter(classes)))
    if name not in classes:
        raise UserError(f"{path or 'config'}.{key}: {name!r} is none of them{nearest(str(name), classes)}")
    return load(classes[name], path, overrides)


def load_either(kinds: Mapping[str, type], path: str | None, overrides: Sequence[str] = (),
                start: Mapping[str, Any] | None = None) -> Any:
    """`load` for files of several kinds: the class of the first of `kinds` whose key the file has ("": any file).
    `start` stands for a file's leaves where there is none."""
    mapping = _read(path) if path else dict(start or {})
    cls = next(own for key, own in kinds.items() if key in mapping or not key)
    for override in overrides:
        _apply(cls, mapping, override)
    return build(cls, mapping, str(path or "config"))


def _read(path: str) -> dict[str, Any]:
    file, arguments = pathlib.Path(path), []
    if not file.is_file() and ".py:" in path:
        name, _, argument = path.rpartition(":")
        file, arguments = pathlib.Path(name), [argument]
    if not file.is_file():
        raise UserError(f"--config {path}: no such file; config files live in configs/")
    spec = importlib.util.spec_from_file_location(f"easylm_imitation_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.get_config(*arguments)
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from error
    except AttributeError as error:
        raise UserError(f"--config {path}: {error}; a config file defines get_config()") from error
    except Exception as error:
        raise UserError(f"--config {path}: {type(error).__name__}: {error}") from error
    if not isinstance(made, (ml_collections.ConfigDict, Mapping)):
        kind = type(made).__name__
        raise UserError(f"--config {path}: get_config() must return an ml_collections.ConfigDict, got {kind}")
    return plain(made.to_dict() if isinstance(made, ml_collections.ConfigDict) else made)   # tuples become lists


def _apply(cls: type, mapping: dict[str, Any], override: str) -> None:
    """Sets one leaf of `mapping` in place from `--config.a.b=text` or `--config.a.0.b=text`."""
    name, equals, text = override.removeprefix(PREFIX).partition("=")
    if not override.startswith(PREFIX) or not equals:
        raise UserError(f"'{override}': an override looks like --config.optimizer.learning_rate=1e-5")
    *parents, leaf = name.split(".")
    hint: Any = cls
    place: dict[str, Any] | list[Any] = mapping
    for part in parents:
        below = _child(hint, part, override)
        key = _key(place, part, override)
        if isinstance(place, dict) and not isinstance(place.get(key), (dict, list)):
            place[key] = _default(hint, part)
        hint, place = below, place[key]
    place[_key(place, leaf, override)] = _parse(_child(hint, leaf, override), text)


def _key(place: Any, part: str, override: str) -> str | int:
    """`part` as what indexes `place`: the name of a key, or the number of an element. Raises UserError."""
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise UserError(f"{override}: '{part}' is below a leaf, which has no keys")
    if not part.isdecimal() or int(part) >= len(place):
        known = f"its elements are 0 to {len(place) - 1}" if place else "it is empty; set the whole list"
        raise UserError(f"{override}: '{part}' is no element of the list; {known}")
    return int(part)


def _default(hint: Any, name: str) -> dict[str, Any] | list[Any]:
    """What the field `name` of dataclass `hint` holds when nothing is said: one leaf is overridden, the rest stays."""
    fields = {f.name: f for f in dataclasses.fields(hint)} if dataclasses.is_dataclass(hint) else {}
    field = fields.get(name)
    if field is None:
        return {}
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    made = plain(value)
    return made if isinstance(made, (dict, list)) else {}


def _child(hint: Any, name: str, override: str) -> Any:
    """The annotation of `name` inside annotation `hint`; free-form mappings accept any name, lists any number."""
    for option in _options(hint):
        if option is Any:
            return Any
        if dataclasses.is_dataclass(option):
            hints = typing.get_type_hints(option)
            if name not in hints:
                raise UserError(f"{override}: unknown key '{name}'{nearest(name, hints)}")
            return hints[name]
        if option is dict or typing.get_origin(option) is dict:
            return (typing.get_args(option) or (str, Any))[1]
        if typing.get_origin(option) in (tuple, list):
            return typing.get_args(option)[0]
    raise UserError(f"{override}: '{name}' is below a leaf, which has no keys")


def _parse(hint: Any, text: str) -> Any:
    options = _options(hint)
    if text.lower() in ("none", "null") and type(None) in options:
        return None
    if str in options or any(typing.get_origin(o) is typing.Literal and text in typing.get_args(o) for o in options):
        return text
    if bool in options and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # build() refuses it where the type is wrong, and says so


def _options(hint: Any) -> tuple:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)
