"""One run, one training at a time: an advisory lock on a file of the run dir, which ends with the process."""
import contextlib
import fcntl
import os
import socket
import time

import jax

from easylm_imitation import console
from easylm_imitation.schema import UserError
from easylm_imitation.weights import RunDir

_NAME = ".lock"


class RunLock:
    """Held from `take` to `close` by the first process of a training; what else looks at the run needs no lock."""

    def __init__(self, run: RunDir) -> None:
        """Takes the lock at once if the run exists. Raises UserError when another process has it."""
        self._run, self._file = run, None
        if run.config.is_file():
            self.take()

    def take(self) -> None:
        """Takes the lock unless it is held already. Raises UserError when another process has it."""
        if self._file is not None or jax.process_index() != 0:
            return
        file = open(self._run.path / _NAME, "a+", encoding="utf-8")
        with contextlib.ExitStack() as undo:
            undo.callback(file.close)
            if not _locked(file, fcntl.LOCK_EX, patience=1.0):
                file.seek(0)
                raise UserError(f"--workdir {self._run.path}: {file.read() or 'another process'} is training this run; "
                                "wait for it or stop it, or choose another workdir")
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            undo.pop_all()
        self._file = file

    def close(self) -> None:
        """Gives it back."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self._file.close()


def in_training(run: RunDir) -> bool:
    """Whether a process trains the run now, as far as this machine can see; on some network disks it cannot."""
    try:
        with open(run.path / _NAME, encoding="utf-8") as file:
            return not _locked(file, fcntl.LOCK_SH, patience=0.0)
    except OSError:
        return False


def _locked(file: object, kind: int, patience: float) -> bool:
    """Takes the lock; False when somebody has it for longer than `patience` seconds (`in_training` has it briefly)."""
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.1)
        except OSError as error:        # a disk without locks
            console.say(f"note: the run dir's disk keeps no locks ({error.strerror}); see yourself that no two "
                        "trainings write it")
            return True
