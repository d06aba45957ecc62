"""How fast a client may ask: limits a minute, what a prompt costs of them, and the pauses that a server asks for."""
import asyncio
import datetime
import email.utils
import time
from collections.abc import Awaitable, Callable

import httpx

_BYTES_PER_TOKEN = 2.5          # low for English, so that the estimate of a prompt errs upwards


class Bucket:
    """A limit a minute: in any t seconds at most t/60 of it, and one second's worth, or one request, on top.

    Who comes first goes first. A request larger than a second's worth goes when the bucket is full and leaves a debt.
    `clock` and `sleep` may be those of a virtual time.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], Awaitable[None]] = asyncio.sleep):
        self._rate = per_minute / 60
        self._size = max(1.0, self._rate)
        self._level, self._at = self._size, clock()
        self._clock, self._sleep, self._turn = clock, sleep, asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Waits until `amount` may be spent, and spends it."""
        async with self._turn:
            need = min(amount, self._size)
            while self._fill() < need - 1e-9:
                await self._sleep((need - self._level) / self._rate)
            self._level -= amount

    def give_back(self, amount: float) -> None:
        """What was taken too much (below 0: too little), once that is known."""
        self._level = min(self._size, self._level + amount)

    def _fill(self) -> float:
        now = self._clock()
        self._level, self._at = min(self._size, self._level + (now - self._at) * self._rate), now
        return self._level


def prompt_tokens(text: str) -> float:
    """An estimate, on the high side, of the tokens of a prompt: by its bytes, and at least one a non-ASCII character.

    >>> prompt_tokens("question 1"), prompt_tokens("漢字"), prompt_tokens("да")
    (4.0, 2.4, 2.0)
    """
    ascii_only = len(text.encode("ascii", "ignore"))
    return max(len(text.encode("utf-8", "surrogatepass")) / _BYTES_PER_TOKEN,
               ascii_only / _BYTES_PER_TOKEN + len(text) - ascii_only)


def retry_after(response: httpx.Response) -> float:
    """Seconds from a Retry-After header, which holds a number or a date; 0 without one, and for what is no number."""
    value = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
        return max(0.0, seconds) if seconds == seconds else 0.0
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)   # C's asctime, and "-0000", name no zone
        return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):      # OverflowError: a year that no calendar has
        return 0.0
