"""Model-written Python behind walls that the kernel keeps: the sandbox as its users see it.

    with Sandbox() as sandbox:                              # refuses where the walls do not hold, and says the cure
        outcomes = sandbox.run_all([Program("print(6 * 7)")])

Each program runs in a process of its own: no network, no files but Python's library (read-only) and an empty /tmp in
memory, an unprivileged user, bounded memory, time, processes, files and output, few system calls. `cell.py` says how.
"""
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from easylm_imitation.schema import UserError

T, R = TypeVar("T"), TypeVar("R")
_GRACE = 10.0       # seconds beyond a program's own, after which the sandbox itself is at fault
_START = """import sys; sys.path.append(sys.argv.pop()); import cell; cell.serve()"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use, at the very most."""
    cpu: int = 3                    # seconds of each process
    seconds: float = 12.0           # of the clock; above `cpu`, so that a busy machine fails nobody
    memory: int = 2 << 30           # bytes of all its processes together: each may have an equal share, 512 MiB here
    processes: int = 4              # processes and threads at a time
    disk: int = 16 << 20            # bytes in /tmp, which are memory, too
    files: int = 64                 # open at a time
    output: int = 64 << 10          # bytes of standard output and error together


@dataclasses.dataclass(frozen=True)
class Program:
    """A Python text that is run as `__main__`. Standard library only."""
    source: str
    answers: str = ""               # a function of it that another program may call (`Sandbox.run_pair`)
    asks: str = ""                  # the name under which it finds that function


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a program. `ok` says that its text ran to the end or left with status 0: *not* that what it
    printed is true, nor that its tests passed (a program may say what it likes; see `humaneval.check`)."""
    status: Literal["ok", "failed", "timeout", "output", "killed"]
    detail: str                     # the last line it wrote, the signal that ended it, the limit it met
    output: str                     # standard output and error, cut at the limit
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the program ended well."""
        return self.status == "ok"


class SandboxUnavailable(UserError):
    """The walls do not hold on this machine."""


class SandboxFault(Exception):
    """The sandbox itself failed, so nothing is known of the program."""


class Sandbox:
    """A context manager that runs programs; its methods may be called from several threads.

    `unsafe=True` runs them with limits of time and size alone, as this very user, with the network and all files: only
    for text that you trust as your own. `python` is the interpreter (the running one); `walls` names one kind, else
    root takes "root" and others "user" (a user namespace). Entering raises SandboxUnavailable when a wall is missing.
    """

    def __init__(self, *, unsafe: bool = False, python: str = sys.executable, limits: Limits | None = None,
                 walls: Literal["", "root", "user"] = ""):
        self.limits = limits or Limits()
        self._python = python
        self._kinds = ["none"] if unsafe else [walls] if walls else ["root", "user"] if not os.getuid() else ["user"]
        self.walls = ""             # which kind holds, once entered
        self._server: subprocess.Popen | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> "Sandbox":
        if sys.platform != "linux":
            raise SandboxUnavailable(f"there is no sandbox for {sys.platform}. {_CURE}")
        missing = []
        for kind in self._kinds:
            self.walls = kind
            self._open()
            try:
                if self.walls != "none":
                    self._try_the_walls()
                return self
            except SandboxFault as fault:
                missing.append(f"{fault}{self._last_words()}")
                self.close()
            except BaseException:
                self.close()
                raise
        raise SandboxUnavailable(f"this machine cannot hold model-written code: {'; '.join(missing)}. {_CURE}")

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server; programs that still run die with it."""
        if self._server:
            self._control.close()
            self._server.kill()
            self._server.wait()
            self._errors.close()
            self._server = None

    def _last_words(self) -> str:
        """What its server said when it failed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.wait(1)
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        return f" ({lines[-2][:300]})" if len(lines) > 1 else ""

    def run(self, program: Program, limits: Limits | None = None) -> Outcome:
        """Runs one program to its end. Raises SandboxFault when the sandbox fails, never for what the program does."""
        with self._started(program, limits or self.limits) as cell:
            return cell.wait()

    def run_pair(self, asking: Program, answering: Program, limits: Limits | None = None) -> tuple[Outcome, Outcome]:
        """Runs two programs, each behind walls of its own; the first may call a function of the second, by value.

        When either ends, the other finds the connection closed; the answering one is ended when the asking one is.
        """
        (asked, ask), (answer, answered) = os.pipe(), os.pipe()
        ends = (answer, ask), (asked, answered)
        with contextlib.ExitStack() as stack:
            try:
                first = stack.enter_context(self._started(asking, limits or self.limits, ends[0]))
                second = stack.enter_context(self._started(answering, limits or self.limits, ends[1]))
            finally:
                for fd in (*ends[0], *ends[1]):
                    os.close(fd)
            with concurrent.futures.ThreadPoolExecutor(1) as other:     # both must be heard: a full pipe holds up
                late = other.submit(second.wait)
                try:
                    outcome = first.wait()
                finally:
                    second.give_up()
                return outcome, late.result()

    def run_all(self, programs: Sequence[Program], workers: int | None = None) -> list[Outcome]:
        """Runs many, `workers` at a time (default: one for each core), and returns their outcomes in order."""
        return in_parallel(self.run, programs, workers)

    def _open(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = str(pathlib.Path(__file__).parent)
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8",
                       "PYTHONDONTWRITEBYTECODE": "1"}      # nothing of ours: keys live there
        user = {"user": 65534, "group": 65534, "extra_groups": []} if self.walls == "user" and not os.getuid() else {}
        command = [self._python, "-S", "-s", "-P", "-c", _START, here]
        self._errors = tempfile.TemporaryFile()
        with theirs:
            try:
                self._server = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL,
                                                stderr=self._errors, env=environment, cwd="/", **user)
            except OSError as error:
                self._control.close()
                self._errors.close()
                raise SandboxUnavailable(f"{self._python} cannot be started as a sandbox ({error})") from None

    def _started(self, program: Program, limits: Limits, ends: tuple[int, ...] = ()) -> "_Cell":
        order = {**dataclasses.asdict(program), "walls": self.walls, "limits": dataclasses.asdict(limits)}
        link, theirs = socket.socketpair()
        output, write = os.pipe()
        cell = _Cell(link, output, limits)
        try:
            socket.send_fds(self._control, [b"!"], [theirs.fileno(), write, *ends])
        except OSError as error:
            cell.__exit__()
            raise SandboxFault(f"its server, {self._python}, has ended ({error})") from None
        finally:
            theirs.close()
            os.close(write)
        cell.order(json.dumps(order).encode())
        return cell

    def _try_the_walls(self) -> None:
        """Runs a program of ours that tries each of them. Raises SandboxFault that names what is missing."""
        limits = dataclasses.replace(self.limits, cpu=20, seconds=60.0)
        numbers = {"MOST": limits.processes, "SHARE": limits.memory // limits.processes}
        outcome = self.run(Program(_probe(numbers)), limits)
        if not outcome.ok:
            raise SandboxFault(f"trying the walls failed ({outcome.status}: {outcome.detail})")
        missing = json.loads(outcome.output)
        if missing:
            raise SandboxFault(f"{', '.join(missing)}: not barred")


class _Cell:
    """One program that runs: its output and what its keeper tells. Leaving the context ends it."""

    def __init__(self, link: socket.socket, output: int, limits: Limits):
        self._link, self._output, self._limits = link, output, limits

    def order(self, text: bytes) -> None:
        with contextlib.suppress(OSError):      # then `wait` learns why
            self._link.sendall(len(text).to_bytes(8, "big") + text)

    def give_up(self) -> None:
        """Has the program killed."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def wait(self) -> Outcome:
        """Its outcome, when it and all it started are dead."""
        text, told = self._listen()
        try:
            told = json.loads(told)
        except ValueError:
            raise SandboxFault("nothing was told of a program; was the sandbox killed for want of memory?") from None
        if "error" in told:
            raise SandboxFault(told["error"])
        cut = len(text) > self._limits.output
        output = text[:self._limits.output].decode("utf-8", "replace")
        status, detail = ("output", f"more than {self._limits.output} bytes") if cut else _reading(told, output)
        return Outcome(status, detail, output, told["seconds"])

    def _listen(self) -> tuple[bytes, bytes]:
        """All the output, up to a bit more than is allowed, and what the keeper tells at the end."""
        deadline = time.monotonic() + self._limits.seconds + _GRACE
        heard = {self._output: bytearray(), self._link.fileno(): bytearray()}
        with selectors.DefaultSelector() as selector:
            for fd in heard:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SandboxFault("a program could not be ended in time")
                for key, _ in selector.select(left):
                    try:
                        piece = os.read(key.fd, 65536)
                    except ConnectionResetError:        # the server ended before it took the order
                        piece = b""
                    if len(heard[key.fd]) <= self._limits.output:
                        heard[key.fd] += piece
                    if not piece:
                        selector.unregister(key.fd)
                if len(heard[self._output]) > self._limits.output:
                    self.give_up()
        return bytes(heard[self._output]), bytes(heard[self._link.fileno()])

    def __enter__(self) -> "_Cell":
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()      # which its keeper takes as giving up
        os.close(self._output)


def _reading(told: dict, output: str) -> tuple[str, str]:
    """Status and detail, from what the keeper told."""
    if told.get("stopped") == "wall clock":
        return "timeout", f"still running after {told['seconds']:.0f} s"
    if "code" not in told:
        return "killed", "ended from outside"
    code = told["code"]
    if code == 0:
        return "ok", ""
    if code == -24:     # SIGXCPU
        return "timeout", "used up its CPU seconds"
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    return ("killed", f"by signal {-code}") if code < 0 else ("failed", last[:300] or f"exit status {code}")


def in_parallel(work: Callable[[T], R], items: Sequence[T], workers: int | None = None) -> list[R]:
    """`work` of each item, in order, on `workers` threads; the first exception stops what has not begun."""
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def run_programs(programs: Sequence[Program], limits: Limits | None = None, *, workers: int | None = None,
                 unsafe: bool = False) -> list[Outcome]:
    """Runs programs in a sandbox of their own, in parallel; outcomes in order. Raises SandboxUnavailable."""
    with Sandbox(unsafe=unsafe, limits=limits) as sandbox:
        return sandbox.run_all(programs, workers)


def _probe(numbers: dict[str, int]) -> str:
    lines = [f"{name} = {value}\n" for name, value in numbers.items()]
    return "".join(lines) + pathlib.Path(__file__).with_name("probe.py").read_text()


_CURE = ("What it needs: Linux 5.14 or later on x86_64 or aarch64, and either root with CAP_SYS_ADMIN or user "
         "namespaces (sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1, "
         "kernel.apparmor_restrict_unprivileged_userns=0). In Docker: --cap-add SYS_ADMIN --security-opt "
         "seccomp=unconfined --security-opt apparmor=unconfined. Otherwise run this step on another machine; only text "
         "that you trust like your own may run without walls (unsafe=True, by name)")
