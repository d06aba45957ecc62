"""N real processes on this machine as one pod, each with M devices of a CPU: everything of a pod but the speed."""
import contextlib
import os
import pathlib
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from easylm_imitation.pods.commands import Commands
from easylm_imitation.schema import UserError

_GRACE = 90.0       # seconds that the others have to notice, after one has ended badly
_FLAG = "--xla_force_host_platform_device_count"


def local_pod(processes: int, devices: int, command: Sequence[str], commands: Commands, restarts: int = 0) -> int:
    """Runs the command in every process; the exit code of the first that fails, else 0.

    What process 0 writes comes through as it is, the others' lines with their number before them, on stderr. SIGTERM
    and Ctrl-C are passed on to all. `restarts`: how often all are started again after a failure (but not after exit
    code 2, a mistake). Raises UserError when the command cannot be started.
    """
    if processes < 1 or devices < 1:
        raise UserError(f"local_pod {processes} {devices}: both numbers count from 1: processes, devices of each")
    if commands.dry_run:
        for index in range(processes):
            words = [f"{k}={v}" for k, v in _environment(processes, devices, index, "127.0.0.1:PORT").items()]
            commands.say(f"would run: {shlex.join([*words, *command])}")
        return 0
    for attempt in range(restarts + 1):
        code = _Pod(processes, devices, command).run()
        if code in (0, 2, 130) or attempt == restarts:
            return code
        commands.say(f"exit code {code}: starting all again, {attempt + 1} of {restarts}")
    return code


def _environment(processes: int, devices: int, index: int, address: str) -> dict[str, str]:
    flags = [word for word in os.environ.get("XLA_FLAGS", "").split() if not word.startswith(_FLAG)]
    return {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(index), "XLA_FLAGS": " ".join([*flags, f"{_FLAG}={devices}"])}


def _two_free_ports() -> int:
    """The first of two neighbours that nobody listens on (the coordinator's, and sharding/company.py's), from below
    those that the system hands to connections going out."""
    for port in random.sample(range(20_000, 32_000, 2), 100):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("", port))
            other.bind(("", port + 1))
            return port
    raise UserError("no two neighbouring ports between 20000 and 32000 are free; end what listens there")


class _Pod:
    """One attempt."""

    def __init__(self, processes: int, devices: int, command: Sequence[str]) -> None:
        address = f"127.0.0.1:{_two_free_ports()}"
        self._command, self._running = command, []
        self._signals, self._told = [], False       # that came and were not passed on yet; whether one was
        self._environments = [_environment(processes, devices, i, address) for i in range(processes)]

    def run(self) -> int:
        """Until all have ended. A signal that comes while they are started waits until all are there."""
        threads = []
        before = {number: signal.signal(number, lambda number, frame: self._signals.append(number))
                  for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for i, extra in enumerate(self._environments):
                self._running.append(self._start(i, extra))
            threads += [threading.Thread(target=_forward, args=(stream, i, out), daemon=True)
                        for i, process in enumerate(self._running)
                        for stream, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))]
            for thread in threads:
                thread.start()
            return self._wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in self._running:
                if process.poll() is None:
                    process.kill()
                process.wait()
            for thread in threads:
                thread.join(timeout=5)

    def _start(self, index: int, extra: dict[str, str]) -> subprocess.Popen:
        try:
            process = subprocess.Popen(list(self._command), env=os.environ | extra, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            raise UserError(f"{self._command[0]}: cannot be started ({error.strerror})") from None
        if folder := os.environ.get("EASYLM_POD_PIDS"):       # for those who want to see what a kill does
            (pathlib.Path(folder) / str(index)).write_text(str(process.pid))
        return process

    def _wait(self) -> int:
        first, until = 0, float("inf")
        while any(process.poll() is None for process in self._running) and time.monotonic() < until:
            while self._signals:
                self._pass_on(self._signals.pop(0))
            ended = [process.returncode for process in self._running if process.returncode is not None]
            if not first and any(ended):
                first, until = next(filter(None, ended)), time.monotonic() + _GRACE
            time.sleep(0.05)
        codes = [process.returncode for process in self._running if process.returncode]
        code = first or (codes[0] if codes else 0)
        return 128 - code if code < 0 else code

    def _pass_on(self, number: int) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM if not self._told else number)
        self._told = True


def _forward(stream: IO[bytes], index: int, out: IO[str]) -> None:
    """Lines of a process to the terminal."""
    for line in stream:
        target = out if index == 0 else sys.stderr
        target.write(("" if index == 0 else f"[{index}] ") + line.decode("utf-8", "replace"))
        target.flush()
