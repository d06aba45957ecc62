"""Files of JSON, and hashes: written whole or not at all, read strictly, with the place of what is wrong.

One JSON object a line in `.jsonl`, one object in `.json`; the schemas are in records.py.
"""
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from easylm_imitation.schema import UserError, build, plain

T = TypeVar("T")


def digest(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of `value` as canonical JSON (or of raw bytes)."""
    raw = value if isinstance(value, bytes) else json.dumps(plain(value), sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(raw).hexdigest()[:length]


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file atomically (a temporary file beside it, then a rename); parents are made."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes one JSON object atomically (a temporary file beside it, then a rename); parents are made."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_jsonl(path: str | os.PathLike, values: Iterable[Any]) -> int:
    """Writes one JSON object a line, atomically; returns how many."""
    lines = [json.dumps(plain(value), ensure_ascii=False, allow_nan=False) for value in values]
    write_text(path, "".join(line + "\n" for line in lines))
    return len(lines)


def read_json(cls: type[T], path: str | os.PathLike) -> T:
    """Reads one JSON file into `cls`. Raises UserError for a missing file, bad JSON or a wrong shape."""
    return build(cls, read_object(path), str(path))


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """The JSON object of a file. Raises UserError for a missing file, bad JSON, or anything but an object."""
    try:
        mapping = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(mapping).__name__}")
    return mapping


def read_jsonl(cls: type[T], path: str | os.PathLike) -> list[T]:
    """Reads a whole JSONL file into `cls`; the first bad line raises UserError with file and line number."""
    return [build(cls, mapping, f"{path}:{number}") for number, mapping in iter_jsonl(path)]


def iter_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of each non-empty line.

    Raises UserError with file and line for bad JSON, bad UTF-8 and text that has no UTF-8 form.
    """
    try:
        file = open(path, encoding="utf-8-sig", errors="surrogateescape")    # a byte order mark may open it
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        for number, line in enumerate(file, 1):
            if line.strip():
                value = parse_line(line, f"{path}:{number}")
                if "\\u" in line and not has_utf8(value):      # only an escape can spell half of a surrogate pair
                    raise UserError(f"{path}:{number}: holds half of a surrogate pair, which is no text; mend it")
                yield number, value


def parse_line(line: str, where: str) -> dict[str, Any]:
    """One JSONL line as a dict. Raises UserError (with `where`) for bad JSON, bad UTF-8 or anything but an object."""
    try:
        line.encode("utf-8")
        value = json.loads(line.rstrip())    # else an early end would be column 1 of the next line
    except UnicodeEncodeError:
        raise UserError(f"{where}: not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def has_utf8(value: Any) -> bool:
    """Whether all text in `value` (as parsed from JSON) can be written; half of a surrogate pair cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
