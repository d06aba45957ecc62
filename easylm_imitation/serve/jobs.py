"""What HTTP hands to the scheduler: an answer to generate, or segments to score. Each reports through `notify`.

`notify` is called in the scheduler's thread, with an `Update` or an exception, and must return at once.
"""
import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from easylm_imitation.serve.answer import AnswerText, Token
from easylm_imitation.serve.engine import Prompt, Sampling
from easylm_imitation.serve.forest import Segment
from easylm_imitation.serve.grammar import Constraint


@dataclasses.dataclass(frozen=True)
class Update:
    """News of a job. `finish` is "" while it goes on; at the end "stop", "length", or "scored"."""
    text: str = ""
    tokens: Sequence[Token] = ()
    finish: str = ""


Notify = Callable[[Update | Exception], None]


class Job:
    """Anything that waits in the scheduler. `cancelled` may be set from any thread; the next turn drops the job."""

    def __init__(self, notify: Notify):
        self.notify = notify
        self.cancelled = False
        self.arrived = time.monotonic()


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The first `count` tokens of a prompt, which another answer's prompt, in that slot, begins with too."""
    slot: int
    job: "Answer"
    count: int


class Answer(Job):
    """One answer: a prompt that is read into a slot, then tokens until a stop or `max_tokens`."""

    def __init__(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling, text: AnswerText, notify: Notify, *,
                 stop_ids: frozenset[int], top: int = 0, stream: bool = False, constraint: Constraint | None = None):
        """`top`: alternatives to report per token. `stream`: report text as it comes, not only at the end.
        `constraint`: the beginning of the grammar that the answer follows."""
        super().__init__(notify)
        self.prompt = np.asarray(prompt, np.int32)
        self.max_tokens, self.sampling, self.text, self.stop_ids = max_tokens, sampling, text, stop_ids
        self.top, self.stream, self.constraint = top, stream, constraint
        self.read = 0               # prompt tokens in the cache
        self.behind: Beginning | None = None    # what it shares with an answer before it, until that is copied
        self.ready = False          # all but the last are: decode may go on from there
        self.made: list[int] = []   # tokens generated, a stop token included
        self.ahead = 0              # steps of decode that are under way for it
        self.finish = ""
        self.newest_at = 0.0        # when its newest token came (monotonic); 0 before the first

    @property
    def produced(self) -> int:
        """How many tokens were generated, a stop token included."""
        return len(self.made)

    @property
    def unread(self) -> int:
        """Prompt tokens that are still to be read before decoding, which reads the last one itself."""
        return len(self.prompt) - 1 - self.read

    @property
    def position(self) -> int:
        """Where the newest token goes in the cache, at most, when the steps under way are done."""
        return len(self.prompt) + self.produced + self.ahead - 1

    def next_piece(self, slot: int, width: int) -> Prompt:
        """The next piece of the prompt, at most `width` tokens; counts it as read."""
        start, self.read = self.read, min(self.read + width, len(self.prompt) - 1)
        self.ready = not self.unread
        return Prompt(slot, self.prompt[start:self.read], start, newest=int(self.prompt[-1]),
                      max_tokens=self.max_tokens if self.ready else 0, sampling=self.sampling)

    def accept(self, token_id: int, logprob: float, top_ids: np.ndarray, top_logprobs: np.ndarray) -> bool:
        """Takes a generated token; True when the answer is complete (`finish` says why)."""
        self.made.append(token_id)
        if token_id in self.stop_ids:
            self.finish = "stop"
        else:
            top = tuple(zip(top_ids[:self.top].tolist(), top_logprobs[:self.top].tolist()))
            if self.text.push(Token(token_id, logprob, top)):
                self.finish = "stop"
            elif self.constraint is not None and self.constraint.push(token_id):
                self.finish = "stop"
            elif self.produced == self.max_tokens:
                self.finish = "length"
        if self.finish:
            self.text.finish()
        return bool(self.finish)

    def report(self) -> None:
        """Tells what is new: to a stream after every turn, to others at the end."""
        if self.finish:
            text = self.text.take() if self.stream else self.text.text
            tokens = self.text.take_tokens() if self.stream else self.text.kept_tokens()
            self.notify(Update(text, tokens, self.finish))
        elif self.stream and (piece := self.text.take()):
            self.notify(Update(piece, self.text.take_tokens()))


class Scoring(Job):
    """Segments whose `done` callbacks collect the results; reports once, when all are scored."""

    def __init__(self, segments: Sequence[Segment], notify: Notify):
        super().__init__(notify)
        self.pending = len(segments)
        self.segments = [dataclasses.replace(segment, done=self._counting(segment.done)) for segment in segments]

    def _counting(self, done: Callable) -> Callable:
        def counted(out: object) -> None:
            done(out)
            self.pending -= 1
        return counted
