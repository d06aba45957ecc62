"""Inside the sandbox's interpreter: a small process that forks a walled child for each program it is handed.

    server ── fork ─► keeper ── fork ─► first ── fork ─► program
    warm, never        waits, counts     process 1 of     the text to run,
    runs a program     the seconds       the new world    behind every wall

The caller sends file descriptors alone, so the server never sees a program: nothing of one is left in the memory that
the next is forked from. When `first` ends, the kernel kills whatever else lives in its process namespace, before the
keeper hears of it. Standard library alone; started by `pool.py`.
"""
import contextlib
import fcntl
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import time
import traceback
from typing import Any

import calls  # beside this file; this package is not imported here
import kernel

_WARM = ("array", "bisect", "calendar", "cmath", "collections", "copy", "ctypes", "datetime", "decimal", "enum",
         "fractions", "functools", "hashlib", "heapq", "itertools", "math", "operator", "re", "statistics", "string",
         "textwrap", "threading", "typing")       # imported once: what programs ask for most
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")


def serve() -> None:
    """Forks a keeper for each message on descriptor 0, until its other end closes."""
    control = socket.socket(fileno=0)
    visible = visible_folders()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)       # nobody waits for the keepers
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C in a terminal is the caller's to handle
    while True:
        message, fds, *_ = socket.recv_fds(control, 1, 8)
        if not message:
            return
        if not os.fork():
            _keep(fds, visible)
        for fd in fds:
            os.close(fd)


def visible_folders() -> list[str]:
    """What a program may read: Python's library and the machine's shared ones. No /etc, no home, no programs."""
    for name in _WARM:
        importlib.import_module(name)
    with open("/proc/self/maps") as file:
        mapped = {os.path.dirname(line.split()[-1]) for line in file if ".so" in line}
    own = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return [*_LIBRARIES, *sorted(folder for folder in mapped | own if not folder.startswith(_LIBRARIES))]


def _keep(fds: list[int], visible: list[str]) -> None:
    """The keeper: reads the order from the first descriptor, has it done within its seconds, and tells what came of
    it. A caller that closes or shuts its end has the program killed."""
    kernel.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in fds]        # clear of the numbers that programs get
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3, 10):
        os.dup2(null, number)
    link, folder = socket.socket(fileno=fds[0]), None
    try:
        order = json.loads(_read_order(link))
        hear, tell = os.pipe()
        if order["walls"] == "none":
            folder = tempfile.mkdtemp(prefix="unsafe-")
        else:
            kernel.enter_namespaces(direct=order["walls"] == "root")
        uid = kernel.unused_uid() if order["walls"] == "root" else None
        first = os.fork()
        if not first:
            link.close()
            _first(order, fds[1:], tell, folder or visible, uid)
        for fd in (tell, *fds[1:]):
            os.close(fd)
        told = _wait(first, link, hear, order["limits"]["seconds"])
    except BaseException as error:
        told = {"error": f"{error}"}
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        link.sendall(json.dumps(told).encode())
    except OSError:
        pass        # nobody listens any more
    os._exit(0)


def _read_order(link: socket.socket) -> bytes:
    parts, left = bytearray(), int.from_bytes(link.recv(8, socket.MSG_WAITALL), "big")
    while len(parts) < left:
        piece = link.recv(left - len(parts))
        if not piece:
            raise OSError("the order is incomplete")
        parts += piece
    return bytes(parts)


def _wait(first: int, link: socket.socket, hear: int, seconds: float) -> dict[str, Any]:
    """What the first process tells before it ends; after `seconds`, or when the caller gives up, it is killed."""
    started = time.monotonic()
    ready = select.select([hear, link], [], [], seconds)[0]
    for kill in (os.killpg, os.kill):       # the group: without a process namespace there may be children left
        with contextlib.suppress(ProcessLookupError):
            kill(first, signal.SIGKILL)
    os.waitpid(first, 0)        # returns when all of its namespace is dead
    said = os.read(hear, 4096)
    told = json.loads(said) if said else {"stopped": "gave up" if link in ready else "wall clock" if not ready else ""}
    return told | {"seconds": round(time.monotonic() - started, 4)}


def _first(order: dict[str, Any], fds: list[int], tell: int, place: Any, uid: int | None) -> None:
    """The first process of the namespace: builds the walls, starts the program, tells how it ended, and so ends all."""
    limits, walls = order["limits"], order["walls"]
    told: dict[str, Any] = {}
    try:
        os.setsid()
        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))       # should the keeper be gone
        signal.alarm(int(limits["seconds"]) + 5)
        if walls == "none":
            os.chdir(place)
        else:
            kernel.private_root(place, limits["disk"])
        _stand(fds)
        others = {"root": 1, "user": 2}.get(walls)      # this process; in a user namespace the keeper counts, too
        kernel.limit(memory=limits["memory"] // limits["processes"], cpu=limits["cpu"], disk=limits["disk"],
                     files=limits["files"], processes=None if others is None else limits["processes"] + others)
        if walls != "none":
            kernel.drop_privileges(uid)
            kernel.die_with_parent()
            kernel.filter_calls()
        program = os.fork()
        if not program:
            os.closerange(5, 1024)
            _program(order)
        os.closerange(0, 5)
        told = {"code": _reap(program)}
    except BaseException as error:
        told = {"error": f"{error}"}
    os.write(tell, json.dumps(told).encode())
    os._exit(0)


def _stand(fds: list[int]) -> None:
    """Output and error on the first of `fds`, the calls' two ends, where there are any, on 3 and 4."""
    for number, fd in zip((0, 1, 2, 3, 4), (os.open("/dev/null", os.O_RDONLY), fds[0], fds[0], *fds[1:])):
        os.dup2(fd, number)
    for fd in fds:
        os.close(fd)


def _reap(program: int) -> int:
    """The program's exit code, negative for a signal. Children that it left behind are reaped on the way."""
    while True:
        pid, status = os.wait()
        if pid == program:
            return os.waitstatus_to_exitcode(status)


def _program(order: dict[str, Any]) -> None:
    """Runs the text as `__main__`, then answers calls if it is to; the exit code is 1 for an exception."""
    code = 0
    try:
        for number, action in ((signal.SIGALRM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            signal.signal(number, action)
        if order["walls"] == "none":
            kernel.die_with_parent()
        random.seed(0)      # two runs of a program do the same
        sys.dont_write_bytecode, sys.argv = True, ["program.py"]
        with open("program.py", "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(order["source"])
        spec = importlib.util.spec_from_file_location("__main__", os.path.abspath("program.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules["__main__"] = module
        if order["asks"]:
            setattr(module, order["asks"], calls.Remote(3, 4))
        spec.loader.exec_module(module)
        if order["answers"]:
            calls.answer_calls(getattr(module, order["answers"]), 3, 4)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)
