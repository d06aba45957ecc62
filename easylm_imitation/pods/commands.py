"""Programs that are run for the user: shown, tried again when the network fails, and never with a secret in sight."""
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from easylm_imitation.schema import UserError

_TRIES = 4
_LOOK, _CHANGE = 600.0, 7200.0      # seconds that a program may take, by whether it only looks: after them it is lost
_FINAL = ("NOT_FOUND", "PERMISSION_DENIED", "INVALID_ARGUMENT", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "Quota",
          "Invalid choice", "unrecognized arguments", "UNAUTHENTICATED", "do not currently have an active account")


class Failed(UserError):
    """A program that ended badly; `said` is what it wrote."""

    def __init__(self, message: str, said: str):
        super().__init__(message)
        self.said = said


class Commands:
    """Runs programs. With `dry_run` nothing is run: what would be is printed, and questions stay without an answer."""

    def __init__(self, dry_run: bool = False, secrets: Sequence[str] = (), pause: float | None = None) -> None:
        """`secrets`: texts that are replaced wherever something is shown. `pause`: seconds before the second try."""
        self.dry_run = dry_run
        self._secrets = [secret for secret in secrets if secret]
        self.pause = float(os.environ.get("EASYLM_POD_PAUSE", "5")) if pause is None else pause

    def say(self, text: str) -> None:
        """A line for people, on stderr, without secrets."""
        print(self.hidden(text), file=sys.stderr, flush=True)

    def hidden(self, text: str) -> str:
        """The text, with every secret replaced, and what is no UTF-8 (a log that ends within a letter) as �."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def run(self, argv: Sequence[str], note: str = "", tries: int = _TRIES, shown: bool = True) -> str:
        """Runs a program that changes something; its stdout. Raises Failed."""
        if shown or self.dry_run:
            self.say(f"{'would run' if self.dry_run else 'run'}: {shlex.join(argv)}" + (f"   # {note}" if note else ""))
        return "" if self.dry_run else self._tried(argv, tries, _CHANGE)

    def ask(self, argv: Sequence[str], tries: int = _TRIES) -> str | None:
        """What a program that only looks says; None where there is no such thing, and in a dry run. Raises Failed."""
        if self.dry_run:
            self.say(f"would ask: {shlex.join(argv)}")
            return None
        try:
            return self._tried(argv, tries, _LOOK)
        except Failed as error:
            if "NOT_FOUND" in error.said:
                return None
            raise

    def sleep(self, times: float = 1.0) -> None:
        """Waits `times` pauses; not in a dry run."""
        if not self.dry_run:
            time.sleep(self.pause * times)

    def _tried(self, argv: Sequence[str], tries: int, seconds: float) -> str:
        """What it writes to stdout, bytes that are no UTF-8 as surrogates, so that the length in bytes is known."""
        for attempt in range(1, tries + 1):
            try:
                code, out, err = _ended(argv, seconds)
            except FileNotFoundError:
                raise Failed(f"{argv[0]} is not installed, or not on PATH; docs/pods.md says where it comes from",
                             "") from None
            if code == 0:
                return out
            said = err + out
            if attempt == tries or any(word in said for word in _FINAL):
                break
            self.say(f"failed ({_last(said)}); trying again, {attempt + 1} of {tries}")
            self.sleep(2.0 ** (attempt - 1))
        raise Failed(self.hidden(f"{shlex.join(argv[:6])} ... failed with exit code {code}: {_last(said)}"),
                     said)


def _ended(argv: Sequence[str], seconds: float) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a program. One that takes too long is ended with all that it has started."""
    with subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=seconds)
            code = process.returncode
        except subprocess.TimeoutExpired:
            code, out, err = 124, b"", f"no end within {seconds:.0f} s".encode()
            os.killpg(process.pid, signal.SIGKILL)
        except BaseException:       # Ctrl-C is this process's alone, as the other has a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return code, *(said.decode("utf-8", "surrogateescape") for said in (out, err))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
