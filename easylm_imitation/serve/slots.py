"""The slots of the engine's cache: who holds each, and what the free ones still remember of their last answer.

A new request takes the free slot whose text begins most like its prompt, and reads only the rest: the next turn of a
chat, another sample of one prompt, the next question behind the same examples. Where a prompt in a busy slot begins
more alike, it waits until that much of it has been read, and takes a copy: so of requests that arrive together, one
reads what they share.
"""
from collections.abc import Iterator

import numpy as np

from easylm_imitation.serve.forest import common_start
from easylm_imitation.serve.jobs import Answer, Beginning

_WORTH_A_COPY = 32      # tokens that need not be read


class Slots:
    """A fixed number of places for answers."""

    def __init__(self, count: int):
        self.reused = 0         # prompt tokens that need not be read, so far
        self._jobs: list[Answer | None] = [None] * count
        self._held = [np.zeros(0, np.int32)] * count        # tokens whose keys and values a free slot holds

    @property
    def busy(self) -> int:
        """Slots that hold an answer."""
        return sum(job is not None for job in self._jobs)

    @property
    def free(self) -> int:
        """Slots that hold none."""
        return len(self._jobs) - self.busy

    def __contains__(self, job: object) -> bool:
        return job in self._jobs

    def holds(self, slot: int, job: Answer) -> bool:
        """Whether the slot is still this answer's."""
        return self._jobs[slot] is job

    def reading(self) -> list[tuple[int, Answer]]:
        """Slots whose prompt is not read to its end, and does not wait for another that begins alike."""
        return [(slot, job) for slot, job in self._taken() if not job.ready and job.behind is None]

    def copies(self) -> list[tuple[int, int]]:
        """(source, target) of what may be copied now; counts it as read. Who waited for an answer that is gone waits
        no more."""
        moves = []
        for slot, job in self._taken():
            if job.behind is None:
                continue
            ahead = job.behind
            if not self.holds(ahead.slot, ahead.job):
                job.behind = None
            elif ahead.job.read >= ahead.count:
                moves.append((ahead.slot, slot))
                self.reused += ahead.count - job.read
                job.read, job.behind = ahead.count, None
        return moves

    def live(self) -> list[tuple[int, Answer]]:
        """Slots that generate."""
        return [(slot, job) for slot, job in self._taken() if job.ready]

    def admit(self, job: Answer) -> None:
        """Gives a job a slot; there is a free one. The last token of a prompt is always read anew, by decode."""
        free = [slot for slot, other in enumerate(self._jobs) if other is None]
        common = [common_start(self._held[slot], job.prompt[:-1]) for slot in free]
        best = max(range(len(free)), key=lambda i: (common[i], -len(self._held[free[i]]), -free[i]))
        job.read = common[best]
        self.reused += common[best]
        alike = [Beginning(slot, other, common_start(other.prompt[:-1], job.prompt[:-1]))
                 for slot, other in self._taken()]
        ahead = max(alike, key=lambda one: one.count, default=None)
        if ahead is not None and ahead.count >= job.read + _WORTH_A_COPY:
            job.behind = ahead
        self._jobs[free[best]], self._held[free[best]] = job, np.zeros(0, np.int32)

    def release(self, job: Answer) -> None:
        """Frees the slot of a job that is complete or given up."""
        slot = self._jobs.index(job)
        self._jobs[slot] = None
        # Decode has read the prompt's last token and all generated ones but the newest. What a step on its way may
        # still write lies behind these.
        seen = [job.prompt[-1], *job.made[:-1]] if job.made else []
        self._held[slot] = np.concatenate([job.prompt[:job.read], np.asarray(seen, np.int32)])

    def _taken(self) -> Iterator[tuple[int, Answer]]:
        return ((slot, job) for slot, job in enumerate(self._jobs) if job is not None)
