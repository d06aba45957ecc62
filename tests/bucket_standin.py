"""A bucket of Google Cloud Storage on this machine: a real HTTP server that speaks the part of the JSON API which
TensorStore's `gcs` driver uses, keeps objects in memory, lists late, and fails now and then as it is told.

What is not here is refused with 501, so that a test cannot pass by an answer that was made up.
"""
import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Iterator

PAGE = 100      # names that a listing gives at one time


class BucketStandin:
    """Objects of any bucket. `late`: seconds until a listing knows of a change; `failing`: share of requests that are
    answered with 503, half of them after they were carried out; `down`: all of them are, before."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], tuple[bytes, int]] = {}     # {(bucket, key): (data, generation)}
        self.late, self.failing, self.down = 0.0, 0.0, False
        self.failed, self.asked = 0, 0
        self.lock = threading.RLock()
        self._changes: list[tuple[float, tuple[str, str], bool]] = []   # (when, which, is there now?)
        self._generations = itertools.count(1)
        self._chance = random.Random(4)

    def put(self, which: tuple[str, str], data: bytes | None) -> int:
        """Writes or, with None, removes an object; returns its generation."""
        with self.lock:
            if data is None:
                self.objects.pop(which, None)
            else:
                self.objects[which] = data, next(self._generations)
            self._changes.append((time.monotonic(), which, data is not None))
            return self.objects[which][1] if data is not None else 0

    def listed(self, bucket: str) -> list[str]:
        """Names as a listing gives them now: as they were `late` seconds ago."""
        with self.lock:
            known = {which for which in self.objects if which[0] == bucket}
            for when, which, there in reversed(self._changes):
                if which[0] == bucket and time.monotonic() - when < self.late:
                    (known.discard if there and not self._before(which, when) else known.add)(which)
            return sorted(key for _, key in known)

    def _before(self, which: tuple[str, str], when: float) -> bool:
        """Whether it was there just before a change."""
        earlier = [there for at, other, there in self._changes if other == which and at < when]
        return bool(earlier) and earlier[-1]

    def keys(self, prefix: str = "") -> list[str]:
        """What is really there, as BUCKET/KEY."""
        with self.lock:
            return sorted(name for name in map("/".join, self.objects) if name.startswith(prefix))

    def unlucky(self) -> str:
        """"", or when this request fails: "before" or "after" it is carried out."""
        with self.lock:
            self.asked += 1
            if self.down or self._chance.random() < self.failing:
                self.failed += 1
                return "before" if self.down or self._chance.random() < 0.5 else "after"
            return ""


@contextlib.contextmanager
def serving_bucket() -> Iterator[tuple[BucketStandin, dict[str, str]]]:
    """(the stand-in, the environment in which programs find it)."""
    store = BucketStandin()

    class Handler(_Handler):
        standin = store

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store, {"TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{server.server_address[1]}",
                      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token"}
    finally:
        server.shutdown()
        server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that is killed breaks its connections; any other error is an answer that nobody gets."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    standin: BucketStandin

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handled()

    do_POST = do_PUT = do_DELETE = do_GET

    def _handled(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fails = self.standin.unlucky()      # the client may be killed meanwhile: then nobody reads the answer
        answer = (503, b"try again", {}) if fails == "before" else self._answer(body)
        code, data, headers = (503, b"try again", {}) if fails else answer
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        with self.standin.lock:
            if parts[0] == "upload" and self.command == "POST" and asked.get("uploadType") == "media":
                return self._written((parts[4], asked["name"]), body, asked)
            if parts[:3] == ["storage", "v1", "b"] and parts[4:] == ["o"] and self.command == "GET":
                return self._listing(parts[3], asked)
            if parts[:3] == ["storage", "v1", "b"] and parts[4:5] == ["o"] and len(parts) == 6:
                which = parts[3], parts[5]
                return self._removed(which, asked) if self.command == "DELETE" else self._found(which, asked)
        return 501, f"not in the stand-in: {self.command} {self.path}".encode(), {}

    def _generation(self, which: tuple[str, str]) -> int:
        return self.standin.objects[which][1] if which in self.standin.objects else 0

    def _met(self, which: tuple[str, str], asked: dict[str, str]) -> bool:
        return "ifGenerationMatch" not in asked or int(asked["ifGenerationMatch"]) == self._generation(which)

    def _written(self, which: tuple[str, str], body: bytes, asked: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if not self._met(which, asked):
            return 412, b"{}", {}
        self.standin.put(which, body)
        return self._described(which)

    def _removed(self, which: tuple[str, str], asked: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if not self._met(which, asked):
            return 412, b"{}", {}
        if which not in self.standin.objects:
            return 404, b"{}", {}
        self.standin.put(which, None)
        return 204, b"", {}

    def _found(self, which: tuple[str, str], asked: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if which not in self.standin.objects:
            return 404, b"{}", {}
        if not self._met(which, asked):
            return 412, b"{}", {}
        if asked.get("ifGenerationNotMatch") == str(self._generation(which)):
            return 304, b"", {}
        if asked.get("alt") != "media":
            return self._described(which)
        data = self.standin.objects[which][0]
        headers = {"x-goog-generation": str(self._generation(which)), "Content-Type": "application/octet-stream"}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(len(data) - int(last), 0)
            end = min(int(last) + 1 if first and last else len(data), len(data))
            if start >= len(data):
                return 416, b"", {"Content-Range": f"bytes */{len(data)}"}
            return 206, data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        return 200, data, headers

    def _described(self, which: tuple[str, str]) -> tuple[int, bytes, dict[str, str]]:
        data, generation = self.standin.objects[which]
        found = {"kind": "storage#object", "bucket": which[0], "name": which[1], "size": str(len(data)),
                 "generation": str(generation), "metageneration": "1", "timeCreated": "2026-01-01T00:00:00Z",
                 "updated": "2026-01-01T00:00:00Z",
                 "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}
        return 200, json.dumps(found).encode(), {"Content-Type": "application/json"}

    def _listing(self, bucket: str, asked: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if "delimiter" in asked:
            return 501, b"delimiter", {}
        names = [name for name in self.standin.listed(bucket) if name.startswith(asked.get("prefix", ""))
                 and name >= asked.get("startOffset", "") and name > asked.get("pageToken", "")
                 and not (asked.get("endOffset") and name >= asked["endOffset"])]
        answer = {"kind": "storage#objects", "items": [
            {"name": name, "size": "1", "generation": "1"} for name in names[:PAGE]]}
        if len(names) > PAGE:
            answer["nextPageToken"] = names[PAGE - 1]
        return 200, json.dumps(answer).encode(), {"Content-Type": "application/json"}
