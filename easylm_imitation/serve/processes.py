"""One server over several processes: the first takes the requests, and tells the others which programs to run on what.

The first (`Leader`) listens on a port of its own, and each of the others (`Follower`) connects to it with a secret that
jax's runtime has carried there. A message is the number of a program and its inputs as they lie in memory: so all run
the same programs in the same order, and nothing but numbers is ever read from the wire. The others send signs of life,
and word of a signal that asked them to stop. A connection that ends is a process that has ended, at either side.
"""
import contextlib
import hmac
import ipaddress
import os
import queue
import secrets
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from easylm_imitation.schema import UserError
from easylm_imitation.sharding import coordinator_host

Tree = Any
_BEAT, _SILENCE = 1.0, 30.0     # seconds between signs of life, and without one after which a process counts as lost
_ALIVE, _READY, _STOP = b".", b"R", b"S"
_END = 2**32 - 1                # in place of a program's number
_SECRET = 32                    # bytes


class Lost(RuntimeError):
    """A process of this server has ended, or is not heard of any more."""


class Leader:
    """The first process' side."""

    def __init__(self, others: Sequence[socket.socket]):
        self._others = list(others)
        self._ready = [threading.Event() for _ in others]
        self._lost: Callable[[str], None] | None = None
        self._reason = ""
        self._closed = False
        for index in range(len(self._others)):
            threading.Thread(target=self._watch, args=(index,), name=f"process {index + 1}", daemon=True).start()

    def wait(self, lost: Callable[[str], None]) -> None:
        """Returns when all the others have loaded and compiled. From then on, `lost` is told why when one of them is
        gone; it is called in a thread of its own. Raises Lost where that has happened already."""
        for ready in self._ready:
            ready.wait()
        self._lost = lost
        if self._reason:
            raise Lost(self._reason)

    def tell(self, number: int, inputs: Tree) -> None:
        """Lets the others run a program with these inputs. Raises Lost, or OSError, where one cannot be told."""
        if self._reason:
            raise Lost(self._reason)
        leaves = (np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(inputs))
        message = b"".join((struct.pack("<I", number), *leaves))
        for other in self._others:
            other.sendall(message)

    def close(self, failed: bool = False) -> None:
        """Lets the others end: as this process is going to, or, after a failure, with an error."""
        self._closed = True
        for other in self._others:
            with contextlib.suppress(OSError):
                if not (failed or self._reason):
                    other.sendall(struct.pack("<I", _END))
                    other.shutdown(socket.SHUT_WR)      # what is under way arrives; the other side closes
                else:
                    other.shutdown(socket.SHUT_RDWR)

    def _watch(self, index: int) -> None:
        """Takes signs of life until there are none."""
        other, reason = self._others[index], "has ended"
        try:
            while said := other.recv(64):
                if _READY in said:
                    self._ready[index].set()
                if _STOP in said:
                    os.kill(os.getpid(), signal.SIGTERM)    # a notice to one is a notice to all
        except TimeoutError:
            reason = f"was not heard of for {_SILENCE:.0f} s"
        except OSError:
            pass
        if self._closed:
            return
        self._reason = self._reason or f"process {index + 1} {reason}"
        if self._lost is not None:
            self._lost(self._reason)
        for ready in self._ready:
            ready.set()


class Follower:
    """The side of every other process."""

    def __init__(self, leader: socket.socket):
        self._leader = leader
        threading.Thread(target=self._beat, name="signs of life", daemon=True).start()

    def ready(self) -> None:
        """Says that this process has loaded and compiled. Raises Lost when nobody hears it."""
        self._send(_READY)

    def ask_to_stop(self) -> None:
        """Passes on a signal that asked this process to stop."""
        with contextlib.suppress(Lost):
            self._send(_STOP)

    def calls(self, inputs: Sequence[Tree]) -> Iterator[tuple[int, Tree]]:
        """(number of a program, its inputs), until the leader ends. `inputs[number]`: their shapes and dtypes.

        Raises Lost when the leader is gone without a word.
        """
        while True:
            (number,) = struct.unpack("<I", self._receive(4))
            if number == _END:
                return
            leaves, tree = jax.tree.flatten(inputs[number])
            parts = [np.frombuffer(self._receive(leaf.size * leaf.dtype.itemsize), leaf.dtype).reshape(leaf.shape)
                     for leaf in leaves]
            yield number, jax.tree.unflatten(tree, parts)

    def close(self) -> None:
        """Lets go of the leader."""
        self._leader.close()

    def _beat(self) -> None:
        with contextlib.suppress(Lost):
            while True:
                self._send(_ALIVE)
                time.sleep(_BEAT)

    def _send(self, word: bytes) -> None:
        try:
            self._leader.sendall(word)
        except OSError as error:
            raise Lost("process 0 has ended") from error

    def _receive(self, size: int) -> bytearray:
        found = bytearray(size)
        view = memoryview(found)
        while len(view):
            try:
                count = self._leader.recv_into(view)
            except OSError:
                count = 0
            if not count:
                raise Lost("process 0 has ended")
            view = view[count:]
        return found


def connect() -> Leader | Follower | None:
    """Joins the processes of this server, all of which call it; None where there is one alone.

    Raises UserError when one of them cannot be reached.
    """
    if jax.process_count() == 1:
        return None
    host = coordinator_host()
    if jax.process_index():
        told = bytes(multihost_utils.broadcast_one_to_all(np.zeros(2 + _SECRET, np.uint8)))
        return Follower(_reach(host, int.from_bytes(told[:2], "big"), told[2:]))
    secret = secrets.token_bytes(_SECRET)
    with _listen(host) as listener:
        told = listener.getsockname()[1].to_bytes(2, "big") + secret
        multihost_utils.broadcast_one_to_all(np.frombuffer(told, np.uint8))
        return Leader(_accept(listener, secret, jax.process_count() - 1))


def _listen(host: str) -> socket.socket:
    """A port of this machine, on all its addresses unless all processes are on it."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _accept(listener: socket.socket, secret: bytes, count: int) -> list[socket.socket]:
    """The others' connections, ordered by their numbers. Who does not know the secret is turned away, and holds nobody
    up who does, even by saying nothing."""
    found: dict[int, socket.socket] = {}
    met: queue.SimpleQueue[tuple[int, socket.socket]] = queue.SimpleQueue()
    threading.Thread(target=_meet, args=(listener, secret, count, met), name="processes to come", daemon=True).start()
    until = time.monotonic() + _SILENCE
    while len(found) < count:
        try:
            index, other = met.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            missing = min(set(range(1, count + 1)) - found.keys())
            raise UserError(f"process {missing} did not connect to port {listener.getsockname()[1]} of process 0; do "
                            "the machines reach each other?") from None
        if found.setdefault(index, other) is not other:
            other.close()
    return [found[index] for index in sorted(found)]


def _meet(listener: socket.socket, secret: bytes, count: int, met: "queue.SimpleQueue") -> None:
    """Listens to all who connect, side by side, until the listener is closed."""
    def hear(other: socket.socket) -> None:
        other.settimeout(_SILENCE)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = _exactly(other, _SECRET + 4)
        (index,) = struct.unpack("<I", said[_SECRET:])
        if hmac.compare_digest(said[:_SECRET], secret) and 1 <= index <= count:
            met.put((index, other))
        else:
            other.close()

    listener.settimeout(_BEAT)
    while listener.fileno() >= 0:
        with contextlib.suppress(OSError):      # nobody came, or the listener is closed
            threading.Thread(target=hear, args=(listener.accept()[0],), daemon=True).start()


def _exactly(other: socket.socket, size: int) -> bytes:
    """The first bytes that come; zeros where none do."""
    found = b""
    with contextlib.suppress(OSError):
        while len(found) < size and (part := other.recv(size - len(found))):
            found += part
    return found.ljust(size, b"\0")


def _reach(host: str, port: int, secret: bytes) -> socket.socket:
    try:
        leader = socket.create_connection((host, port), timeout=_SILENCE)
    except OSError as error:
        raise UserError(f"process 0 cannot be reached at {host}:{port} ({error}); do the machines reach each "
                        "other?") from None
    leader.settimeout(None)
    leader.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    leader.sendall(secret + struct.pack("<I", jax.process_index()))
    return leader
