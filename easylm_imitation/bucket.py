"""Folders in a bucket of Google Cloud Storage, for Orbax and for files of a run: `Bucket`, a file system of fsspec.

It goes through TensorStore, by which Orbax writes its arrays anyway: the same credentials, one way to try again, and no
further package. A bucket has no folders; one that was made is an empty object whose name ends in a slash. Whether an
object is there is asked of the object itself. Google's own store lists at once, others that speak its language may list
late: what this process has written or removed counts, for a minute or until the listing says the same.
"""
import functools
import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import fsspec
import tensorstore

# About a minute in all; the cloud's own advice is to wait ever longer.
_AGAIN = {"max_retries": 10, "initial_delay": "500ms", "max_delay": "16s"}
_LATE = 60.0        # seconds; by then a listing knows


def register() -> None:
    """Makes gs:// known to fsspec, and by it to Orbax. May be called again."""
    from orbax.checkpoint._src.path import gcs_utils
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Bucket, clobber=True)
    # Orbax would ask, by a library that nothing else here needs, whether the bucket keeps real folders. Either kind
    # works as one that does not.
    gcs_utils.is_hierarchical_namespace_enabled = lambda path: False


class _Upload(io.BytesIO):
    """A file that appears, whole, when it is closed; not when its writer failed, or forgot it."""

    def __init__(self, bucket: "Bucket", path: str) -> None:
        super().__init__()
        self._bucket, self._path = bucket, path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            super().close()
        self.close()

    def __del__(self) -> None:
        """Nothing: what nobody closed may be half of a file."""

    def close(self) -> None:
        """Sends what was written."""
        if not self.closed:
            self._bucket.pipe_file(self._path, self.getvalue())
        super().close()


class Bucket(fsspec.AbstractFileSystem):
    """gs://BUCKET/KEY. Errors of the store are OSErrors in its words."""

    protocol = ("gs", "gcs")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lock = threading.Lock()
        self._own: dict[str, tuple[bool, float]] = {}   # {BUCKET/KEY: (is it there? since when)}, perhaps unlisted

    # ── objects ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        """Writes an object, whole or not at all."""
        bucket, key = self._split(path)
        self._done(_store(bucket).write(key, bytes(value)), path)
        self._note(bucket, key, True)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of an object. Raises FileNotFoundError."""
        bucket, key = self._split(path)
        found = self._done(_store(bucket).read(key, byte_range=slice(start, end)), path) if key else None
        if found is None or found.state == "missing":
            raise FileNotFoundError(2, "no such object", f"gs://{bucket}/{key}")
        return found.value

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copies an object, or makes a folder where one was."""
        if self._is_there(*self._split(path1)):
            self.pipe_file(path2, self.cat_file(path1))
        else:
            self.makedirs(path2, exist_ok=True)

    def rm_file(self, path: str) -> None:
        """Removes an object; a second time does nothing."""
        self._remove(*self._split(path))

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        if mode == "rb":
            return io.BytesIO(self.cat_file(path))
        if mode == "wb":
            return _Upload(self, path)
        raise OSError(f"gs://{path}: objects are written whole, over what was there (mode {mode})")

    # ── folders ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Makes a folder, and those above it, which stay when it goes. Raises FileExistsError."""
        bucket, key = self._split(path)
        if self._is_there(bucket, key + "/"):
            raise FileExistsError(17, "exists", f"gs://{path}")
        self._done(_store(bucket).write(key + "/", b""), path)
        self._note(bucket, key + "/", True)
        above = key.rpartition("/")[0]
        if create_parents and above:
            self.makedirs(f"{bucket}/{above}", exist_ok=True)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Makes a folder. Raises FileExistsError."""
        try:
            self.mkdir(path)
        except FileExistsError:
            if not exist_ok:
                raise

    def rmdir(self, path: str) -> None:
        """Forgets an empty folder."""
        bucket, key = self._split(path)
        self._remove(bucket, key + "/")

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Removes an object or a folder with all that is in it; nothing that is unknown to listings yet stays, if this
        process wrote it."""
        for each in [path] if isinstance(path, str) else path:
            bucket, key = self._split(each)
            if recursive:
                for inside in self._keys(bucket, key + "/"):
                    self._remove(bucket, inside)
                self._remove(bucket, key + "/")
            self._remove(bucket, key)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Whether it is a file or a folder; sizes are not known. Raises FileNotFoundError."""
        bucket, key = self._split(path)
        name = f"{bucket}/{key}".rstrip("/")
        if key and self._is_there(bucket, key):
            return {"name": name, "size": None, "type": "file"}
        if not key or self._is_there(bucket, key + "/") or any(True for _ in self._keys(bucket, key + "/")):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(2, "no such object or folder", f"gs://{name}")

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a folder. Raises FileNotFoundError."""
        bucket, key = self._split(path)
        prefix = key + "/" if key else ""
        kinds: dict[str, str] = {}
        for inside in self._keys(bucket, prefix):
            name, slash, _ = inside.removeprefix(prefix).partition("/")
            if name:
                kinds[name] = "directory" if slash else kinds.get(name, "file")
        if not kinds and self.info(path)["type"] == "file":
            found = [self.info(path)]
        else:
            found = [{"name": f"{bucket}/{prefix}{name}", "size": None if kind == "file" else 0, "type": kind}
                     for name, kind in sorted(kinds.items())]
        return found if detail else [each["name"] for each in found]

    def inside(self, path: str) -> list[str]:
        """Names of all objects below a folder, relative to it, at any depth; those of folders end in a slash."""
        bucket, key = self._split(path)
        return [name.removeprefix(f"{key}/") for name in self._keys(bucket, f"{key}/" if key else "")]

    # ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, key = self._strip_protocol(str(path)).partition("/")
        return bucket, key.strip("/")

    def _keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Names of all objects that begin so, with what this process knows better than the listing."""
        within = tensorstore.KvStore.KeyRange(prefix, _after(prefix))
        listed = {key.decode() for key in self._done(_store(bucket).list(within), f"{bucket}/{prefix}")}
        with self._lock:
            for name, (there, since) in list(self._own.items()):
                key = name.removeprefix(f"{bucket}/")
                if key == name or not key.startswith(prefix):
                    continue
                if (key in listed) == there or time.monotonic() - since > _LATE:
                    del self._own[name]
                else:
                    (listed.add if there else listed.discard)(key)
        yield from sorted(listed)

    def _is_there(self, bucket: str, key: str) -> bool:
        found = self._done(_store(bucket).read(key, byte_range=slice(0, 0)), f"{bucket}/{key}")
        return found.state != "missing"

    def _remove(self, bucket: str, key: str) -> None:
        if key.strip("/"):
            self._done(_store(bucket).write(key, None), f"{bucket}/{key}")
            self._note(bucket, key, False)

    def _note(self, bucket: str, key: str, there: bool) -> None:
        with self._lock:
            self._own[f"{bucket}/{key}"] = there, time.monotonic()

    @staticmethod
    def _done(asked: tensorstore.Future, path: str) -> Any:
        try:
            return asked.result()
        except (ValueError, PermissionError) as error:
            raise OSError(f"gs://{path.removeprefix('gs://')}: {' '.join(str(error).split())[:300]}") from None


@functools.cache
def _store(bucket: str) -> tensorstore.KvStore:
    return tensorstore.KvStore.open({"driver": "gcs", "bucket": bucket,
                                     "context": {"gcs_request_retries": _AGAIN}}).result()


def _after(prefix: str) -> str:
    """The end of the range of all names that begin so."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else ""
