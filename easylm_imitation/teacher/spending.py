"""What a collection has cost, and the ceiling that it must not pass.

A request is let through only when its worst case (an estimate of the prompt, and all the tokens that its answer may
have) still fits below the ceiling, together with the requests in flight. So a budget is kept, not noticed afterwards.
"""
import asyncio

from easylm_imitation.records import LedgerEntry

_CHARACTERS_PER_TOKEN = 2.5     # low for English, so that the estimate of a prompt errs upwards


class Spending:
    """Tokens and dollars so far. `tokens` and `cost` are ceilings (None: no limit); prices are dollars per million."""

    def __init__(self, *, price_in: float, price_out: float, tokens: int | None, cost: float | None):
        self.prompt_tokens = self.completion_tokens = 0
        self.cost = 0.0
        self._prices, self._limits = (price_in, price_out), (tokens, cost)
        self._held: dict[object, tuple[float, float]] = {}
        self._changed = asyncio.Condition()

    @property
    def limited(self) -> bool:
        """Whether there is a ceiling at all."""
        return self._limits != (None, None)

    def price(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for one request."""
        return (prompt_tokens * self._prices[0] + completion_tokens * self._prices[1]) / 1e6

    def add(self, entry: LedgerEntry) -> None:
        """Counts one entry of the ledger."""
        self.prompt_tokens += entry.prompt_tokens
        self.completion_tokens += entry.completion_tokens
        self.cost += entry.cost

    async def hold(self, key: object, characters: int, max_tokens: int) -> bool:
        """Reserves the worst case of a request; waits for room while others are in flight. False: none is left."""
        prompt = characters / _CHARACTERS_PER_TOKEN
        worst = (prompt + max_tokens, self.price(prompt, max_tokens))
        async with self._changed:
            while not self._fits(worst):
                if not self._held:
                    return False
                await self._changed.wait()
            self._held[key] = worst
            return True

    async def release(self, key: object) -> None:
        """Gives the reservation back; the true amount was counted by `add`."""
        async with self._changed:
            del self._held[key]
            self._changed.notify_all()

    def _fits(self, worst: tuple[float, float]) -> bool:
        spent = (self.prompt_tokens + self.completion_tokens, self.cost)
        sums = (s + w + sum(h[i] for h in self._held.values()) for i, (s, w) in enumerate(zip(spent, worst)))
        return all(limit is None or total <= limit for limit, total in zip(self._limits, sums))
