"""Raw files as numbered records: JSONL, one JSON array, one JSON object, tab-separated lines or Parquet; plain, gzip or
zstd. Packing and Parquet are told by content, not by name.

A bad line of a JSONL file is that line's fault, and the rest is read. A JSON array that breaks off cannot be read past
the break, and half a file is no dataset: that is an error.
"""
import contextlib
import gzip
import importlib
import io
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, NamedTuple

from easylm_imitation.files import has_utf8, parse_line
from easylm_imitation.schema import UserError

MALFORMED = ("bad JSON", "bad UTF-8", "bad text", "wrong shape")
"""Reasons of a Drop that mean a damaged or mistaken file; the others are rules about what a conversation must have."""

NOTHING = "nothing in it"
"""Reason of a Drop: a record of which its format's options take no conversation. Counted, and not listed: of FLAN's
millions these may be most."""

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"     # what such files begin with


class Drop(Exception):
    """A record that cannot be used. `reason` is one of a few words that counts gather under; `detail` says more."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class RawRecord(NamedTuple):
    """A line, not parsed yet (`raw` is bytes), or an element of an array or a row of a table (the parsed value)."""
    line: int       # from 1, in the unpacked file: where the record starts; of Parquet, the row
    number: int     # from 0, counting records
    raw: Any

    def parse(self, columns: tuple[str, ...] = ()) -> dict[str, Any]:
        """The record as a mapping; `columns` names the cells of a tab-separated line. Raises Drop: "bad JSON", "bad
        UTF-8", "bad text", "wrong shape"."""
        value = self._line(columns) if isinstance(self.raw, bytes) else self.raw
        if not isinstance(value, dict):
            raise Drop("bad JSON", f"expected an object, got {type(value).__name__}")
        escaped = not isinstance(self.raw, bytes) or b"\\u" in self.raw     # only an escape can spell half of a pair
        if escaped and not has_utf8(value):
            raise Drop("bad text", "half of a surrogate pair")
        return value

    def _line(self, columns: tuple[str, ...]) -> dict[str, Any]:
        try:
            line = self.raw.decode("utf-8")
            return cells(line, columns) if columns else parse_line(line, "")
        except UnicodeDecodeError as error:
            raise Drop("bad UTF-8", f"byte {error.start} of the line") from None
        except UserError as error:
            raise Drop("bad JSON", str(error).removeprefix(": ") + self._cure()) from None

    def _cure(self) -> str:
        spread = self.raw.strip() == b"{"
        return "; a record spread over lines: `jq -c . FILE` writes each on one line" if spread else ""


def cells(line: str, columns: tuple[str, ...]) -> dict[str, Any]:
    """The cells of a tab-separated line by name, with the line breaks that stand in them as \\n."""
    values = line.rstrip("\r\n").split("\t")
    if len(values) != len(columns):
        raise Drop("wrong shape", f"{len(values)} cells, not {len(columns)}: {', '.join(columns)}")
    return {name: value.replace("\\n", "\n") for name, value in zip(columns, values, strict=True)}


def iter_records(path: pathlib.Path, shape: Literal["", "object", "lines"] = "") -> Iterator[RawRecord]:
    """The records of a file, in order; blank lines are none. `shape`: "object" where the file is one JSON object,
    "lines" where what begins with a bracket is no JSON array either.

    Raises UserError for a file that cannot be read as a whole, and where the package that reads it is missing.
    """
    last = None
    try:
        for last in _records(path, shape):
            yield last
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:   # EOFError: a packed stream that breaks off
        beyond = f" beyond line {last.line}, record {last.number + 1}" if last else ""
        raise UserError(f"{path}: cannot be read{beyond} ({error}); the packed file is cut short or damaged: fetch it "
                        "again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _records(path: pathlib.Path, shape: str) -> Iterator[RawRecord]:
    with _open(path) as file:
        if shape != "lines" and file.peek(4)[:4] == _PARQUET:
            if not _is_table(path):
                raise UserError(f"{path}: a Parquet file that was packed once more; unpack it (gunzip or zstd -d), "
                                "Parquet packs its columns itself")
            yield from _table(path)
            return
        first = _first_byte(file)
        if shape == "object" and first == b"{":     # as an array of one
            yield from _array(path, b"[" + file.read() + b"]")
        else:
            yield from _array(path, file.read()) if first == b"[" and shape != "lines" else _lines(file)


def count_records(path: pathlib.Path, shape: Literal["", "object", "lines"] = "") -> int:
    """How many `iter_records` gives; of a Parquet file without reading it. Raises UserError as that does."""
    if shape != "lines" and _is_table(path):
        with _of_arrow(path):
            return package("pyarrow.parquet", f"{path}: a Parquet file").read_metadata(path).num_rows
    return sum(1 for _ in iter_records(path, shape))


def package(name: str, purpose: str, extra: str = "data") -> Any:
    """The package of that name, which not every installation has. Raises UserError saying what it is needed for."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{purpose} needs the package '{name}': pip install 'easylm_imitation[{extra}]'") from None


def _open(path: pathlib.Path) -> BinaryIO:
    file = open(path, "rb")
    start = file.peek(4)[:4]
    packing = next((one for one in (_GZIP, _ZSTD) if start and start[:len(one)] == one[:len(start)]), None)
    if packing is None:
        return file
    file.close()    # a reader of packed files closes only what it opened itself
    if packing == _ZSTD:
        zstandard = package("zstandard", f"{path}: a zstd file")
        return io.BufferedReader(_Zstd(open(path, "rb"), zstandard))
    return io.BufferedReader(gzip.open(path, "rb"))


class _Zstd(io.RawIOBase):
    """What the frames of a zstd file hold, one after the other. Raises EOFError where it is damaged and where the file
    ends within a frame, which the package's own reader takes for the end of the data."""
    _READ = 1 << 14     # packed bytes at a time: repetitive text is some hundred times as long

    def __init__(self, file: BinaryIO, zstandard: Any):
        self._file, self._zstandard = file, zstandard
        self._frame: Any = None     # the frame begun and not ended
        self._packed, self._held = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            self._packed = self._packed or self._file.read(self._READ)
            if not self._packed:
                return self._end()
            self._held = memoryview(self._unpacked())
        given, self._held = self._held[:len(buffer)], self._held[len(buffer):]
        buffer[:len(given)] = given
        return len(given)

    def _end(self) -> int:
        if self._frame is not None:
            raise EOFError("it ends within a frame")
        return 0

    def _unpacked(self) -> bytes:
        """What comes of the packed bytes at hand, up to the end of their first frame."""
        self._frame = self._frame or self._zstandard.ZstdDecompressor().decompressobj()
        try:
            held = self._frame.decompress(self._packed)
        except self._zstandard.ZstdError as error:
            raise EOFError(str(error)) from None
        self._packed = self._frame.unused_data if self._frame.eof else b""
        self._frame = None if self._frame.eof else self._frame
        return held

    def close(self) -> None:
        self._file.close()
        super().close()


def _is_table(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == _PARQUET


@contextlib.contextmanager
def _of_arrow(path: pathlib.Path) -> Iterator[None]:
    """Makes UserErrors of what pyarrow raises for a damaged file."""
    pyarrow = package("pyarrow", f"{path}: a Parquet file")
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); the Parquet file is cut short or damaged: fetch it "
                        "again") from None


def _table(path: pathlib.Path) -> Iterator[RawRecord]:
    """Rows of a Parquet file; what JSON cannot say (dates) becomes text."""
    parquet = package("pyarrow.parquet", f"{path}: a Parquet file")
    number = 0
    with _of_arrow(path), parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(1000):
            for row in batch.to_pylist():
                yield RawRecord(number + 1, number, json.loads(json.dumps(row, default=str)))
                number += 1


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
