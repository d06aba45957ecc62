"""The processes of one run keep an eye on each other: whoever comes late, dies, falls silent, fails or differs is named
by all the others within a minute, and they end, too; nobody waits for ever in a collective for one that is gone.

Process 0 is the hub, on the port after that of jax's coordinator. Each other process holds a connection to it, over
which both say every few seconds that they live. One that breaks or falls silent without a goodbye is told to all.
"""
import collections
import contextlib
import hashlib
import json
import os
import pathlib
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from easylm_imitation import console
from easylm_imitation.schema import UserError

_BEAT, _SILENCE = 3.0, 30.0     # seconds between signs of life, and without one until a process counts as lost
_MEETING = 50.0                 # seconds that the others have to say what they were asked
_VERDICT = 15.0                 # seconds to learn who is to blame for a collective that failed
_current: "Company | None" = None


def meet(address: str, count: int, index: int, patience: float) -> None:
    """Waits until all processes of the run are there. Ends this process, naming who is missing, after `patience`
    seconds. `address`: host:port of jax's coordinator, in process 0."""
    global _current
    host, _, port = address.rpartition(":")
    _current = Company(host.strip("[]"), int(port) + 1, count, index, patience)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs the block as one of the processes that have met: when another fails, this one ends, too, and says which;
    when this one fails, the others do. Alone, nothing happens."""
    global _current
    if _current is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        _current.fail(error)
    _current.leave()
    _current = None


def agree(facts: Mapping[str, Any]) -> None:
    """Raises UserError, naming the process and the fact, unless all processes have the same; alone, does nothing."""
    if _current is not None:
        _current.agree(facts)


def code_digest() -> str:
    """Of the package's own source files: what `code` means between processes."""
    root, sources = pathlib.Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        sources.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return sources.hexdigest()[:12]


class Company:
    """This process among the others."""

    def __init__(self, host: str, port: int, count: int, index: int, patience: float) -> None:
        """Meets the others. Raises UserError when the port is taken; ends the process when one does not come."""
        self._index, self._count = index, count
        self._ending = threading.Lock()     # whoever has it ends the process
        self._blamed = threading.Event()
        self._change = threading.Condition()
        self._send = threading.Lock()
        self._left: set[int] = set()        # those that are done
        self._connections: dict[int, socket.socket] = {}
        self._said: dict[str, dict[int, Any]] = collections.defaultdict(dict)       # topic: {process: its words}
        self._names: dict[int, str] = {}
        if index == 0:
            self._listen(port)
        else:
            self._connect(host, port, patience)
        self._names = self._gather("name", f"{socket.gethostname()}, pid {os.getpid()}", patience)

    def agree(self, facts: Mapping[str, Any]) -> None:
        """All processes call it, once. Raises UserError for the first fact that one has otherwise than most."""
        found = self._gather("facts", {key: str(value) for key, value in facts.items()}, _MEETING)
        for key in dict.fromkeys(key for each in found.values() for key in each):
            values = {index: each.get(key, "not there") for index, each in sorted(found.items())}
            usual, often = collections.Counter(values.values()).most_common(1)[0]
            for index, value in values.items():
                if value != usual:
                    others = "the others have" if often > 1 else "process 0 has"
                    raise UserError(f"{self._who(index)} has {key} {value}, but {others} {usual}; give all hosts the "
                                    "same, and start all again")

    def fail(self, error: BaseException) -> NoReturn:
        """Tells the others what went wrong here, and ends this process. When another is to blame, it is named."""
        mendable, interrupted = isinstance(error, UserError), isinstance(error, KeyboardInterrupt)
        if not mendable and not interrupted and not isinstance(error, SystemExit):
            self._blamed.wait(_VERDICT)      # a collective fails where another process has died
        if not self._ending.acquire(blocking=False):
            time.sleep(_MEETING)             # another thread is at it
        words = str(error) if mendable else "interrupted" if interrupted else "failed, as the lines above say"
        if not mendable and not interrupted:
            traceback.print_exception(error)
        console.error(words if mendable else f"this process, {self._who(self._index)}: {words}")
        code = 2 if mendable else 130 if interrupted else 1
        short = words if mendable or interrupted else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        self._tell({"ended": self._index, "words": short, "code": code})
        time.sleep(0.5)     # until they have read it
        os._exit(code)

    def leave(self) -> None:
        """This process is done; its end is no alarm."""
        self._left.add(self._index)
        self._tell({"done": self._index})

    # ── meeting ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _listen(self, port: int) -> None:
        try:
            server = socket.create_server(("", port), backlog=self._count)
        except OSError as error:
            raise UserError(f"port {port}, after that of the coordinator, cannot be listened on ({error.strerror}); "
                            "choose another port for the coordinator") from None
        self._start(self._accept, server)

    def _accept(self, server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            self._start(self._hear, connection, None)

    def _connect(self, host: str, port: int, patience: float) -> None:
        until = time.monotonic() + patience
        while True:
            try:
                connection = socket.create_connection((host, port), timeout=5)
                break
            except OSError as error:
                if time.monotonic() > until:
                    self._end(0, f"has not come within {patience:.0f} seconds ({host}:{port}: {error}); is it started, "
                              "and can it be reached?", 1)
                time.sleep(0.2)
        self._connections[0] = connection
        self._tell({"hello": self._index})
        self._start(self._hear, connection, 0)
        self._start(self._beat, connection)

    def _gather(self, topic: str, own: Any, patience: float) -> dict[int, Any]:
        """What every process says of a topic. Ends the process, naming who is missing, after `patience` seconds."""
        self._take(topic, {self._index: own})
        if self._index:
            self._tell({"topic": topic, "words": {self._index: own}})
            patience += 10      # the hub tells who is missing, and so does not go unheard
        with self._change:
            if not self._change.wait_for(lambda: len(self._said[topic]) == self._count, patience):
                absent = [i for i in range(self._count) if i not in self._said[topic]] if self._index == 0 else [0]
                self._end(absent[0], f"has not come within {patience:.0f} seconds, as far as '{topic}'"
                          + (f", nor have {absent[1:]}" if absent[1:] else ""), 1)
        if self._index == 0:
            self._tell({"topic": topic, "words": self._said[topic]})
        return self._said[topic]

    def _take(self, topic: str, words: Mapping[Any, Any]) -> None:
        with self._change:
            self._said[topic] |= {int(index): value for index, value in words.items()}
            self._change.notify_all()

    # ── listening to each other ───────────────────────────────────────────────────────────────────────────────────────

    def _hear(self, connection: socket.socket, other: int | None) -> None:
        """Reads one connection until it ends. `other`: who is there (None: it will say)."""
        connection.settimeout(_SILENCE)
        cause = "has died"
        try:
            for line in connection.makefile("r", encoding="utf-8"):
                other = self._heed(json.loads(line), connection, other)
        except TimeoutError:
            cause = f"has said nothing for {_SILENCE:.0f} seconds"
        except (OSError, ValueError, KeyError):
            pass        # a connection that breaks, or somebody else who happened to try the port
        if other is not None and other not in self._left and self._index not in self._left:
            self._end(other, cause, 1)

    def _heed(self, said: dict[str, Any], connection: socket.socket, other: int | None) -> int | None:
        """Does what a line asks for; returns who is at the other end."""
        if "hello" in said:
            other = int(said["hello"])
            self._connections[other] = connection
            self._start(self._beat, connection)
        elif "topic" in said:
            self._take(said["topic"], said["words"])
        elif "done" in said:
            self._left.add(said["done"])
        elif "ended" in said:
            self._end(said["ended"], said["words"], said["code"])
        return other

    def _beat(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                time.sleep(_BEAT)
                self._write(connection, {"alive": self._index})

    def _end(self, index: int, words: str, code: int) -> None:
        """Ends this process for what another did; the hub tells all."""
        self._blamed.set()
        if not self._ending.acquire(blocking=False):
            return
        again = "" if code == 2 else ", and the same command on all hosts goes on"
        # written at once: jax's own runtime ends the process, too, where it finds that process 0 is gone
        os.write(2, f"error: {self._who(index)}: {words}; all other processes end, too{again}\n".encode())
        if self._index == 0:
            self._tell({"ended": index, "words": words, "code": code})
            time.sleep(0.5)     # until they have read it: their connection to this process ends now
        os._exit(code)

    def _tell(self, what: dict[str, Any]) -> None:
        for connection in list(self._connections.values()):
            with contextlib.suppress(OSError):
                self._write(connection, what)

    def _write(self, connection: socket.socket, what: dict[str, Any]) -> None:
        with self._send:
            connection.sendall((json.dumps(what) + "\n").encode())

    def _start(self, function: Any, *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _who(self, index: int) -> str:
        return f"process {index} ({self._names[index]})" if index in self._names else f"process {index}"
