"""Raw files as numbered records: JSONL or one JSON array, gzipped or not (told by content, not by name).

A bad line of a JSONL file is that line's fault, and the rest is read. A JSON array that breaks off cannot be read past
the break, and half a file is no dataset: that is an error.
"""
import dataclasses
import gzip
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from easylm_imitation.records import has_utf8, parse_line
from easylm_imitation.schema import UserError

MALFORMED = ("bad JSON", "bad UTF-8", "bad text", "wrong shape")
"""Reasons of a Drop that mean a damaged or mistaken file; the others are rules about what a conversation must have."""


class Drop(Exception):
    """A record that cannot be used. `reason` is one of a few words that counts gather under; `detail` says more."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class RawRecord:
    """A line of JSONL, not parsed yet (`raw` is bytes), or an element of an array (`raw` is the parsed value)."""
    line: int       # from 1, in the unpacked file: where the record starts
    number: int     # from 0, counting records
    raw: Any

    def parse(self) -> dict[str, Any]:
        """The record as a mapping. Raises Drop: "bad JSON", "bad UTF-8", "bad text"."""
        value = self._line() if isinstance(self.raw, bytes) else self.raw
        if not isinstance(value, dict):
            raise Drop("bad JSON", f"expected an object, got {type(value).__name__}")
        if not has_utf8(value):
            raise Drop("bad text", "half of a surrogate pair")
        return value

    def _line(self) -> dict[str, Any]:
        try:
            return parse_line(self.raw.decode("utf-8"), "")
        except UnicodeDecodeError as error:
            raise Drop("bad UTF-8", f"byte {error.start} of the line") from None
        except UserError as error:
            raise Drop("bad JSON", str(error).removeprefix(": ")) from None


def iter_records(path: pathlib.Path) -> Iterator[RawRecord]:
    """The records of a file, in order; blank lines are none. Raises UserError for a file that cannot be read as a
    whole."""
    try:
        with _open(path) as file:
            first = _first_byte(file)
            yield from (_array(path, file.read()) if first == b"[" else _lines(file))
    except (OSError, EOFError) as error:  # EOFError: a gzip stream that breaks off
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _open(path: pathlib.Path) -> BinaryIO:
    file = open(path, "rb")
    if file.peek(2)[:2] != b"\x1f\x8b":
        return file
    file.close()    # gzip closes only what it opened itself
    return io.BufferedReader(gzip.open(path, "rb"))


def _first_byte(file: BinaryIO) -> bytes:
    """The first byte that is neither white space nor a byte order mark; the latter is taken off."""
    if file.peek(3)[:3] == b"\xef\xbb\xbf":
        file.read(3)
    return file.peek(1024).lstrip()[:1]


def _lines(file: BinaryIO) -> Iterator[RawRecord]:
    number = 0
    for line, raw in enumerate(file, 1):
        if raw.strip():
            yield RawRecord(line, number, raw)
            number += 1


def _array(path: pathlib.Path, content: bytes) -> Iterator[RawRecord]:
    """Elements one by one, so that each has its line number."""
    line = 1
    try:
        text = content.decode("utf-8")
        counted = 0
        for number, (start, value) in enumerate(_elements(text)):
            line, counted = line + text.count("\n", counted, start), start
            yield RawRecord(line, number, value)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not valid UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{getattr(error, 'lineno', line)}: not valid JSON ({error}); mend the file, or turn it "
                        "into JSONL, where one bad line spoils no other") from None


def _elements(text: str) -> Iterator[tuple[int, Any]]:
    """(position, value) of each element of the array that `text` is. Raises ValueError where it breaks off."""
    decoder = json.JSONDecoder()
    position = _skip(text, text.index("[") + 1)
    while text[position:position + 1] != "]":
        value, end = decoder.raw_decode(text, position)
        yield position, value
        end = _skip(text, end)
        if text[end:end + 1] not in (",", "]"):
            raise json.JSONDecodeError("expected ',' or ']'", text, end)
        position = _skip(text, end + 1) if text[end] == "," else end
    if _skip(text, position + 1) < len(text):
        raise json.JSONDecodeError("text after the array", text, position + 1)


def _skip(text: str, position: int) -> int:
    """The next position that is not white space."""
    while text[position:position + 1].isspace():
        position += 1
    return position
