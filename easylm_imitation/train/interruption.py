"""SIGTERM and Ctrl-C as a question that the loop asks between two updates, so that stopping costs no work."""
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from easylm_imitation import console


class Interruption:
    """While entered, SIGTERM and the first SIGINT do not end the process but are noticed; the second SIGINT is a
    KeyboardInterrupt. The handlers before are put back at exit.

    With several processes jax's own notice of SIGTERM is used instead, which makes all of them stop at the same update;
    a SIGINT to one of them is passed on as that. Outside the main thread Python has no signals, and nothing is noticed.
    """

    def __init__(self) -> None:
        self.noticed = False
        self._before: dict[int, object] = {}
        self._alone = jax.process_count() == 1
        self._listens = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interruption":
        if self._listens:
            for number in (signal.SIGINT, *([signal.SIGTERM] if self._alone else [])):
                self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`. With several processes, all of them ask at every step."""
        if not self._alone:
            self.noticed = self.noticed or multihost_utils.reached_preemption_sync_point(step)
        if self.noticed:
            console.say("interrupted: saving; Ctrl-C gives that up")
        return self.noticed

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        if self._alone:
            self.noticed = True
        else:
            signal.raise_signal(signal.SIGTERM)
