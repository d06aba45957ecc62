"""Runs in a bucket (gs://BUCKET/RUN). Checkpoints are written there by Orbax itself. All other files are small:
they have a copy on this disk, which is written and read as that of any run dir, and goes to the bucket whole: before
each checkpoint, so that what a checkpoint stands on is there, about twice a minute between, and at the end.

An object cannot be appended to, so a log is sent again and again; a run's are a few MB. What a killed process had not
sent lies after its newest checkpoint, and is cut off and done again anyway.
"""
import atexit
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator

from easylm_imitation import console
from easylm_imitation.schema import UserError

CHECKPOINTS = "checkpoints"
_INDEX = "files.json"       # names of a run's small files: a listing may come late
_LAST = ("model.json", "config.json", _INDEX)       # in this order after all others: by them a run is known as one
_EVERY = 30.0               # seconds between two sendings of logs
_DISK = "EASYLM_STAGE"      # a folder for copies; the system's own for temporary files by default
_copies: dict[str, "Copy"] = {}


class Copy:
    """What lies in a folder of a bucket, but for checkpoints, on this disk."""

    def __init__(self, url: str) -> None:
        """Fetches it. Raises UserError when the bucket cannot be read."""
        import fsspec

        from easylm_imitation.bucket import register
        register()
        self.url = url.rstrip("/")
        self._bucket = fsspec.filesystem("gs")
        above = tempfile.mkdtemp(prefix="easylm-", dir=os.environ.get(_DISK))
        atexit.register(shutil.rmtree, above, ignore_errors=True)
        self.folder = pathlib.Path(above) / self.url.rpartition("/")[2]
        self._sent: dict[str, tuple[int, int]] = {}
        self._one, self._pool = threading.Lock(), concurrent.futures.ThreadPoolExecutor(1)
        self._at, self._going = time.monotonic(), None
        with self._told("cannot be read", "see that this host may read and write the bucket (docs/pods.md)"):
            self._fetch()

    def send(self) -> None:
        """Brings all that has changed there. Raises UserError when the bucket refuses for about a minute."""
        with self._told("cannot be written",
                        "its checkpoints are whole. Once this is mended, the same command continues"):
            self._send()

    @contextlib.contextmanager
    def _told(self, what: str, cure: str) -> Iterator[None]:
        """What the bucket refuses, as UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.url}: {what} ({error}); {cure}") from None

    def _send(self) -> None:
        with self._one:
            files = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()
                     and not any(part.startswith(".") for part in path.relative_to(self.folder).parts)}
            new = files.keys() - self._sent.keys()
            for name in sorted(files, key=lambda name: (name in _LAST and 1 + _LAST.index(name), name)):
                status = files[name].stat()
                if self._sent.get(name) != (status.st_mtime_ns, status.st_size):
                    self._bucket.pipe_file(f"{self.url}/{name}", files[name].read_bytes())
                    self._sent[name] = status.st_mtime_ns, status.st_size
            if new:
                self._bucket.pipe_file(f"{self.url}/{_INDEX}", json.dumps(sorted(files)).encode())
            self._at = time.monotonic()

    def send_soon(self) -> None:
        """Sends behind the work, at most every half minute; a bucket that refuses is said once, and asked again.

        Raises whatever else went wrong in the sending before.
        """
        if time.monotonic() - self._at > _EVERY and (self._going is None or self._going.done()):
            if self._going is not None:
                self._going.result()
            self._going = self._pool.submit(self._send_quietly)

    def _send_quietly(self) -> None:
        try:
            self._send()
        except OSError as error:
            self._at = time.monotonic()
            console.say_once(f"note: {self.url}: logs cannot be sent now ({error}); tried again")

    def _fetch(self) -> None:
        for name in self._names():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._bucket.cat_file(f"{self.url}/{name}"))
            status = path.stat()
            self._sent[name] = status.st_mtime_ns, status.st_size

    def _names(self) -> list[str]:
        """Files that are there: those of the listing, and those that the index knows."""
        known: set[str] = set()
        if self._bucket.exists(f"{self.url}/{_INDEX}"):
            known.update(json.loads(self._bucket.cat_file(f"{self.url}/{_INDEX}")))
        known.update(name for name in self._bucket.inside(self.url)
                     if name and not name.endswith("/") and not name.startswith(f"{CHECKPOINTS}/"))
        return sorted(known - {_INDEX})


def is_url(path: str | os.PathLike) -> bool:
    """Whether it names something beyond this disk."""
    return "://" in os.fspath(path)


def on_disk(path: str | os.PathLike) -> str | os.PathLike:
    """The path; of gs://..., that of its copy on this disk, which is made now unless it was. Raises UserError."""
    if not is_url(path):
        return path
    url = os.fspath(path).rstrip("/")
    scheme, _, rest = url.partition("://")
    if scheme != "gs" or not rest.strip("/"):
        raise UserError(f"{path}: only buckets of Google Cloud Storage are known, as gs://BUCKET/FOLDER: what writes "
                        "checkpoints is tried with no other store; mount it as a folder on every host (docs/pods.md)")
    if url not in _copies:
        _copies[url] = Copy(url)
    return _copies[url].folder


def located(path: pathlib.PurePath) -> str:
    """Where it is, whole: gs://..., or from the root of this disk."""
    return os.fspath(path) if is_url(path) else os.path.abspath(path)


def copy_at(folder: pathlib.Path) -> Copy | None:
    """The copy that a folder of this disk is; None for a folder that stands for itself."""
    return next((copy for copy in _copies.values() if copy.folder == folder), None)
