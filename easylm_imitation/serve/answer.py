"""The text of one answer as it grows: decoded token by token, the template's lead taken off, stop strings found.

Stop strings are matched in decoded text, since one may begin in the middle of a token. What could still become a stop
string is held back, so that a stream never shows what the final text will not contain.
"""
from collections.abc import Sequence
from typing import NamedTuple

from easylm_imitation.text import Tokenizer


class Token(NamedTuple):
    """One generated token with its log-probability, and the likeliest alternatives as (id, log-probability)."""
    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    offset: int = 0                     # characters of the answer before it


class AnswerText:
    """Collects tokens; `text` is the whole answer so far, `take()` the part that may be shown and was not yet."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), lead: str = ""):
        """`lead`: text that the template puts before every answer, dropped when the answer begins with it."""
        self.text = ""
        self.stopped = False            # a stop string was met; `text` ends before it
        self.tokens: list[Token] = []
        self._stream = tokenizer.stream()
        self._stops = tuple(stops)
        self._reach = max(map(len, stops), default=1) - 1      # characters of a stop string that earlier text may hold
        self._lead = lead
        self._shown = self._told = 0
        self._finished = False

    def push(self, token: Token) -> bool:
        """Adds a token; returns True when a stop string is complete. No token may follow one."""
        self.tokens.append(token._replace(offset=len(self.text)))
        return self._grow(self._stream.push(token.id))

    def finish(self) -> None:
        """No more tokens: what was held back becomes part of the answer."""
        if not self.stopped:
            self._grow(self._stream.finish())
        self._finished = True
        self._lead = ""

    def take(self) -> str:
        """New text that is certain to stay."""
        end = len(self.text) - (0 if self._finished or self.stopped else self._held())
        piece = self.text[self._shown:end]
        self._shown += len(piece)
        return piece

    def take_tokens(self) -> list[Token]:
        """The tokens that have a share in what `take` has shown; at the end all others of `kept_tokens`. Each once."""
        kept, start = self.kept_tokens(), self._told
        while self._told < len(kept) and (self._finished or kept[self._told].offset < self._shown):
            self._told += 1
        return kept[start:self._told]

    def kept_tokens(self) -> list[Token]:
        """The tokens that have a share in `text`: those behind a stop string are left out."""
        if not self.stopped:
            return self.tokens
        return [token for token in self.tokens if token.offset < len(self.text)]

    def _grow(self, piece: str) -> bool:
        self.text += piece
        self._drop_lead()
        start = max(0, len(self.text) - len(piece) - self._reach)
        hits = [at for at in (self.text.find(stop, start) for stop in self._stops) if at >= 0]
        if hits:
            self.text, self.stopped = self.text[:min(hits)], True
        return self.stopped

    def _drop_lead(self) -> None:
        if self._lead and len(self.text) >= len(self._lead):
            self.text, self._lead = self.text.removeprefix(self._lead), ""

    def _held(self) -> int:
        """How many characters at the end could be the beginning of a stop string (or of the lead)."""
        if self._lead and self._lead.startswith(self.text):
            return len(self.text)
        longest = min(self._reach, len(self.text))
        for size in range(longest, 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._stops):
                return size
        return 0
