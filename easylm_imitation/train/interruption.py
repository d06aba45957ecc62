"""SIGTERM as a question that the loop asks between two updates, so that preemption costs no work."""
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interruption:
    """While entered, SIGTERM does not end the process but is noticed. The handler before is put back at exit.

    With several processes jax's own notice is used instead, which makes all of them stop at the same update. Outside
    the main thread Python has no signals, and nothing is noticed.
    """

    def __init__(self) -> None:
        self.noticed = False
        self._before = None
        self._listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interruption":
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`. With several processes, all of them ask at every step."""
        if jax.process_count() > 1:
            self.noticed = self.noticed or multihost_utils.reached_preemption_sync_point(step)
        return self.noticed

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.noticed = True
