"""What a collection has cost, and the ceiling that it must not pass.

A request is let through only when its worst case (an estimate of the prompt, and all the tokens that its answer may
have) still fits below the ceiling, together with the requests in flight. So a budget is kept, not noticed afterwards.
"""
import asyncio
from collections.abc import Sequence

from easylm_imitation.records import LedgerEntry

OTHERS = {"Alpaca (52,000 instructions, and training)": 600.0, "Vicuna (training)": 300.0,
          "the paper's human raters": 5000.0}
"""What others report to have paid, in US dollars: a measure for one's own bill."""


class Spending:
    """Tokens and dollars so far. `prices` of each teacher: dollars per million tokens of prompts and of answers.

    `tokens` and `cost` are ceilings (None: no limit).
    """

    def __init__(self, prices: Sequence[tuple[float, float]], *, tokens: int | None, cost: float | None):
        self.prompt_tokens = self.completion_tokens = 0
        self.cost = 0.0
        self._prices, self._limits = prices, (tokens, cost)
        self._held: dict[object, tuple[float, float]] = {}
        self._changed = asyncio.Condition()

    @property
    def limited(self) -> bool:
        """Whether there is a ceiling at all."""
        return self._limits != (None, None)

    def price(self, teacher: int, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for one request."""
        of_prompt, of_answer = self._prices[teacher]
        return (prompt_tokens * of_prompt + completion_tokens * of_answer) / 1e6

    def add(self, entry: LedgerEntry) -> None:
        """Counts one entry of the ledger."""
        self.prompt_tokens += entry.prompt_tokens
        self.completion_tokens += entry.completion_tokens
        self.cost += entry.cost

    async def hold(self, key: object, teacher: int, prompt: float, max_tokens: int) -> bool:
        """Reserves the worst case of a request, its prompt of about `prompt` tokens; waits for room while others are in
        flight. False: none is left."""
        worst = (prompt + max_tokens, self.price(teacher, prompt, max_tokens))
        async with self._changed:
            while not self._fits(worst):
                if not self._held:
                    return False
                await self._changed.wait()
            self._held[key] = worst
            return True

    async def release(self, key: object) -> None:
        """Gives the reservation back, if there is one; the true amount was counted by `add`."""
        async with self._changed:
            self._held.pop(key, None)
            self._changed.notify_all()

    def _fits(self, worst: tuple[float, float]) -> bool:
        spent = (self.prompt_tokens + self.completion_tokens, self.cost)
        sums = (s + w + sum(h[i] for h in self._held.values()) for i, (s, w) in enumerate(zip(spent, worst)))
        return all(limit is None or total <= limit for limit, total in zip(self._limits, sums))


def uncounted(entry: LedgerEntry) -> bool:
    """Whether an answer came without usage, whole or in part: no prompt has 0 tokens, and no text."""
    return entry.status == "ok" and not (entry.prompt_tokens and (entry.completion_tokens or not entry.response))
