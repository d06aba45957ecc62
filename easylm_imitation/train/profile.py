"""A trace of a few updates, on request, for TensorBoard's or Perfetto's viewer."""
import contextlib
import pathlib
from collections.abc import Iterator

import jax

from easylm_imitation import console
from easylm_imitation.schema import UserError


class Profile:
    """`--profile 10:3`: updates 10 to 12 of this call are traced into RUN/profile. A context manager around them all.
    """

    def __init__(self, first: int, count: int, folder: pathlib.Path) -> None:
        self._first, self._last, self._folder = first, first + count - 1, folder
        self._running = False

    @contextlib.contextmanager
    def update(self, number: int) -> Iterator[None]:
        """Around update `number` of this call, counted from 1."""
        if number == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif number == self._last + 2:      # when the scalars of the last have been read, it is done
            self._stop()
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            console.say(f"{self._folder}: a trace of updates {self._first} to {self._last}; look at it with "
                        "tensorboard (plugin profile) or at ui.perfetto.dev")


def parse_profile(request: str | None) -> tuple[int, int]:
    """(first update, how many) of "10:3"; (0, 0) for None. Raises UserError."""
    first, _, count = (request or "0:0").partition(":")
    if not (first.isdigit() and count.isdigit()) or (request and not (int(first) and int(count))):
        raise UserError(f"--profile {request}: expected FIRST:COUNT, as in 10:3 for three updates from the tenth on")
    return int(first), int(count)
