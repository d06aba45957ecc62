"""What the server measures of itself: how long tokens take, and what share of the device's speed that is.

Shares are of the maker's figures for dense bfloat16 and for memory; where a device's are not known, there are none.
A decode step counts the parameters and the live part of the cache as read once; scoring counts real tokens alone.
"""
import bisect
import time

from easylm_imitation.serve.engine import Engine
from easylm_imitation.sharding.devices import peak_bandwidth, peak_flops

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Durations in seconds, in Prometheus' cumulative buckets."""

    def __init__(self):
        self.sum = 0.0
        self._counts = [0] * (len(_SECONDS) + 1)

    def observe(self, seconds: float, times: int = 1) -> None:
        """Counts a duration, so many times."""
        self._counts[bisect.bisect_left(_SECONDS, seconds)] += times
        self.sum += seconds * times

    def buckets(self) -> list[tuple[str, int]]:
        """(upper bound, how many durations are at most that); the last bound is "+Inf"."""
        total, found = 0, []
        for bound, count in zip((*map(str, _SECONDS), "+Inf"), self._counts):
            total += count
            found.append((bound, total))
        return found


class Meter:
    """Filled by the engine's thread, read by /metrics."""

    def __init__(self, engine: Engine):
        self.first_token = Histogram()      # from the request's arrival
        self.between_tokens = Histogram()
        self._engine = engine
        self._moved = self._decoding = self._scored = self._scoring = 0.0
        self._landed = 0.0

    def decoded(self, started: float, steps: int, rows: int, length: int) -> float:
        """A call of decode is over: begun at `started` (monotonic), when the call before may still have run. Returns
        the seconds of one of its steps."""
        now = time.monotonic()
        seconds = now - max(started, self._landed)
        self._decoding += seconds
        self._landed = now
        self._moved += steps * (self._engine.param_bytes + self._engine.position_bytes * rows * length)
        return seconds / max(steps, 1)

    def scored(self, seconds: float, tokens: int) -> None:
        """A step of scoring is over."""
        self._scoring += seconds
        self._scored += tokens

    def bandwidth_share(self) -> float | None:
        """Bytes that decoding had to read a second, over the device's peak."""
        peak = peak_bandwidth(self._engine.device)
        return self._moved / self._decoding / peak if peak and self._decoding else None

    def flops_share(self) -> float | None:
        """FLOPs of the scored tokens a second, over the device's peak."""
        peak = peak_flops(self._engine.device)
        forward = 2 * self._engine.config.matmul_weights() / self._engine.layout.mesh.size  # attention comes on top
        return self._scored * forward / self._scoring / peak if peak and self._scoring else None
