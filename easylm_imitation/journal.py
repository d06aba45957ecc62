"""An append-only JSONL file that survives kill -9: what makes long, paid or slow work resumable.

A line is written as soon as it is known, so a killed process loses nothing that it had; lines are forced to the disk
(fsync) every few lines, against a crash of the machine. What a crash leaves of a last line is cut off on opening. One
process at a time holds a journal.
"""
import fcntl
import json
import os
import pathlib
import time
from typing import Generic, TypeVar

from easylm_imitation.files import parse_line
from easylm_imitation.schema import UserError, build, plain

T = TypeVar("T")
_SYNC_LINES, _SYNC_SECONDS = 64, 2.0


class Journal(Generic[T]):
    """A JSONL file of records of dataclass `cls`; a context manager. `entries` holds all lines in order."""

    def __init__(self, cls: type[T], path: str | os.PathLike):
        """Opens or makes the file. Raises UserError for a line that is no `cls`, or when another process holds it."""
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self.entries = self._read(cls)
        except BaseException:
            os.close(self._file)
            raise
        self._unsynced, self._synced_at = 0, time.monotonic()

    def append(self, entry: T) -> None:
        """Writes one entry; after this returns, killing the process does not lose it."""
        line = (json.dumps(plain(entry), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
        while line:
            line = line[os.write(self._file, line):]
        self.entries.append(entry)
        self._unsynced += 1
        if self._unsynced >= _SYNC_LINES or time.monotonic() - self._synced_at > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Forces all lines to the disk."""
        os.fsync(self._file)
        self._unsynced, self._synced_at = 0, time.monotonic()

    def close(self) -> None:
        """Syncs and lets go of the file."""
        self.sync()
        os.close(self._file)

    def __enter__(self) -> "Journal[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.path}: another process writes it; wait, or choose another --out") from None

    def _read(self, cls: type[T]) -> list[T]:
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            os.ftruncate(self._file, whole)     # a line torn by a crash: it was never used
        lines = raw[:whole].decode("utf-8", "surrogateescape").split("\n")
        places = ((f"{self.path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())
        return [self._entry(cls, line, where) for where, line in places]

    @staticmethod
    def _entry(cls: type[T], line: str, where: str) -> T:
        try:
            return build(cls, parse_line(line, where), where)
        except UserError as error:      # not a crash's doing: that tears the last line alone
            raise UserError(f"{error}; mend the line, or delete it (what it held is then done again), and run the same "
                            "command") from None
