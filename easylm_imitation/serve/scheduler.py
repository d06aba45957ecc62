"""The one thread that owns the engine: takes jobs from a bounded inbox, and keeps the device busy with all of them.

A turn: drop what was cancelled or is past its time, give free slots to waiting answers, read one chunk of prompts,
score one batch of segments, start a few steps of decode for every live slot, and, while the device works on these, hand
out the tokens of the steps before. HTTP lives elsewhere (api.py) and speaks with this thread only
through `submit`, `cancel` and the jobs' `notify`. If a turn fails, every waiter gets the error and no more is taken.
"""
import collections
import dataclasses
import math
import queue
import threading
import time
import traceback
from collections.abc import Sequence

import numpy as np

from easylm_imitation import console
from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.grammar import GrammarFailed
from easylm_imitation.serve.jobs import Answer, Job, Scoring, Update
from easylm_imitation.serve.meter import Meter
from easylm_imitation.serve.pool import Pool
from easylm_imitation.serve.sampling import Sampled, mask_words
from easylm_imitation.serve.slots import Slots

_PREFILLS_A_TURN = 4        # bounds how long a turn may take
_CALL = 0.2                 # seconds that the steps of a call of decode may take: who arrives waits for two calls
_PATIENCE = 5.0             # seconds that `close` waits for a thread that may hang
_GATHER_QUIET, _GATHER_LONGEST = 0.002, 0.010   # seconds: texts to score that arrive together share what they can


class Busy(Exception):
    """The queue is full; the same request may be sent again after `retry_after` seconds."""

    retry_after = 1


class TooLate(Exception):
    """A request took longer than it may."""


class Stopped(Exception):
    """The engine does not run any more: it was closed, or it failed."""


@dataclasses.dataclass(frozen=True)
class _Flight:
    """Steps of decode on their way."""
    live: list[tuple[int, Answer]]
    steps: int
    shape: tuple[int, int]
    out: Sampled            # on the device
    started: float = dataclasses.field(default_factory=time.monotonic)


class Scheduler:
    """Runs jobs on an engine, in its own thread, from `start` to `close`."""

    def __init__(self, engine: Engine, queue_limit: int, request_seconds: float = math.inf):
        """`request_seconds`: how long a job may take, from its arrival on."""
        self.counts: collections.Counter[str] = collections.Counter()   # for /metrics; written by the engine's thread
        self.meter = Meter(engine)
        self._engine = engine
        self._limit, self._seconds = queue_limit, request_seconds
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished: set[Job] = set()
        self._stopped = ""                  # why nothing is taken any more
        self._waiting: collections.deque[Answer] = collections.deque()
        self._slots = Slots(engine.shapes.slots)
        self._flying: _Flight | None = None
        self._pace = 0.0                    # seconds of a step of decode, lately
        self._pool = Pool(engine)
        self._scorings: list[Scoring] = []
        self._failed = False
        self._hangs = False                 # maybe: in a program that waits for a process that is gone
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are taken."""
        return not self._stopped

    @property
    def queue_depth(self) -> int:
        """Unfinished jobs, running ones included."""
        return len(self._unfinished)

    @property
    def slots_busy(self) -> int:
        """Slots that hold an answer; after the end none does, whatever the engine's thread left there."""
        return 0 if self._stopped else self._slots.busy

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes all of the jobs or none. Raises Busy when the queue has no room, Stopped after a failure or `close`."""
        with self._lock:
            if self._stopped:
                raise Stopped(self._stopped)
            if len(self._unfinished) + len(jobs) > self._limit:
                self.counts["rejected"] += len(jobs)
                raise Busy
            self._unfinished.update(jobs)
            for job in jobs:
                self._inbox.put(job)

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Lets go of jobs that nobody waits for; their slots are free from the next turn on. Safe from any thread."""
        for job in jobs:
            job.cancelled = True
        self._inbox.put(None)   # wakes the thread

    def close(self) -> None:
        """Fails what is unfinished and ends the thread, if it was started."""
        self._stop("the server is shutting down")
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(_PATIENCE if self._hangs else None)

    def fail(self, reason: str) -> None:
        """Fails what is unfinished and takes no more, at once, whatever the engine's thread is doing."""
        console.error(f"{reason}; all requests are refused from now on")
        self._hangs = True
        self._stop(reason)
        self._inbox.put(None)

    # ------------------------------------------------------------------ the engine's thread

    def _run(self) -> None:
        self._engine.watch_compilations()
        try:
            while not self._stopped:
                self._receive()
                self._turn()
        except BaseException as error:      # a panic in another language is no Exception, and nobody may wait for ever
            traceback.print_exc()
            console.error(f"the engine failed ({type(error).__name__}: {error}); all requests are refused from now on")
            self._stop(f"the engine failed: {type(error).__name__}")
            self._failed = True
        finally:
            self._engine.close(self._failed or self._hangs)

    def _stop(self, reason: str) -> None:
        with self._lock:
            if not self._stopped:
                self._stopped = reason
            jobs, self._unfinished = self._unfinished, set()
        for job in jobs:
            _tell(job, Stopped(reason))

    def _receive(self) -> None:
        """Takes what has arrived. An idle thread waits. What then comes to be scored, it gathers for some milliseconds;
        answers need no such wait, since each joins the others at any turn."""
        idle = not (self._waiting or self._pool or self._slots.busy or self._flying)
        if idle:
            self._take(self._inbox.get())
        until = time.monotonic() + _GATHER_LONGEST
        while True:
            gather = idle and self._pool and not self._waiting and time.monotonic() < until
            try:
                self._take(self._inbox.get(timeout=_GATHER_QUIET) if gather else self._inbox.get_nowait())
            except queue.Empty:
                return

    def _take(self, job: Job | None) -> None:
        if isinstance(job, Answer):
            self._waiting.append(job)
        elif isinstance(job, Scoring):
            self._scorings.append(job)
            self._pool.add(job.segments)

    def _turn(self) -> None:
        self._drop()
        self._admit()
        self._prefill_some()
        if self._pool:
            self._score()
        self._decode()

    def _drop(self) -> None:
        """Lets go of jobs that were given up, and of those that are past their time, which are told so."""
        oldest = time.monotonic() - self._seconds
        with self._lock:
            gone = [job for job in self._unfinished if job.cancelled or job.arrived < oldest]
        for job in gone:
            if job in self._scorings:
                self._pool.remove(job.segments)
                self._scorings.remove(job)
            elif job in self._slots:
                self._slots.release(job)
            elif job in self._waiting:
                self._waiting.remove(job)
            else:
                continue    # still in the inbox: the next turn sees it
            self.counts["cancelled" if job.cancelled else "expired"] += 1
            self._forget(job)
            if not job.cancelled:
                _tell(job, TooLate(f"the request took longer than the {self._seconds:g} s that this server gives one; "
                                   "ask for less at a time"))

    def _admit(self) -> None:
        while self._waiting and self._slots.free:
            self._slots.admit(self._waiting.popleft())

    def _prefill_some(self) -> None:
        """One chunk of prompts; more of them while most slots wait to be read and nobody watches a stream."""
        for _ in range(_PREFILLS_A_TURN):
            for source, target in self._slots.copies():
                self._engine.copy(source, target)
            reading, live = self._slots.reading(), self._slots.live()
            if reading:
                self._prefill(reading)
            self.counts["reused_tokens"] = self._slots.reused
            if len(live) >= len(reading) or any(job.stream for _, job in live):
                return

    def _prefill(self, reading: list[tuple[int, Answer]]) -> None:
        """Reads one chunk of the prompts in these slots, in the shape that wastes least."""
        unread = [job.unread for _, job in reading]
        rows, width = max(self._engine.shapes.prefill, key=lambda shape: _worth(shape, unread))
        self._engine.prefill((rows, width), [job.next_piece(slot, width) for slot, job in reading[:rows]])

    def _score(self) -> None:
        started, before = time.monotonic(), self._pool.tokens
        self._pool.step()
        self.meter.scored(time.monotonic() - started, self._pool.tokens - before)
        self.counts["scored_tokens"], self.counts["scored_cells"] = self._pool.tokens, self._pool.cells
        done = [job for job in self._scorings if not job.pending]
        self._scorings = [job for job in self._scorings if job.pending]
        for job in done:
            self._forget(job)
            _tell(job, Update(finish="scored"))

    def _decode(self) -> None:
        """Starts the next steps, then takes what the steps before made: the device works while the host does.

        What a grammar allows depends on the token before: while one is followed, there is one step at a time.
        """
        if self._flying is not None and any(job.constraint is not None for _, job in self._slots.live()):
            self._land(self._flying)
            self._flying = None
        # Who needs no more than what is under way waits for that.
        live = [(slot, job) for slot, job in self._slots.live() if job.produced + job.ahead < job.max_tokens]
        live, masks = self._constrain(live)
        before, self._flying = self._flying, self._start(live, masks) if live else None
        if before is not None:
            self._land(before)

    def _constrain(self, live: list[tuple[int, Answer]]) -> tuple[list[tuple[int, Answer]], np.ndarray | None]:
        """`live` without those whose grammar has failed, who are told; and masks [slots, W], None where none is needed.
        """
        bound = [(slot, job) for slot, job in live if job.constraint is not None]
        if not bound:
            return live, None
        shape = (self._engine.shapes.slots, mask_words(self._engine.config.vocab_size))
        masks = np.full(shape, 0xFFFFFFFF, np.uint32)
        failed = set()
        for slot, job in bound:
            try:
                masks[slot] = job.constraint.mask()
            except GrammarFailed as error:
                failed.add(job)
                self._slots.release(job)
                self._forget(job)
                _tell(job, error)
        return [(slot, job) for slot, job in live if job not in failed], masks

    def _start(self, live: list[tuple[int, Answer]], masks: np.ndarray | None) -> "_Flight":
        shapes = self._engine.shapes
        alone = masks is not None or any(job.stream for _, job in live)
        steps = 1 if alone else min(shapes.steps, 1 + int(_CALL / max(self._pace, 1e-4)))
        reach = min(max(job.position for _, job in live) + steps, shapes.context)
        shape = next(s for s in shapes.decode if s[0] >= len(live) and s[1] >= reach)
        slots = [slot for slot, _ in live]
        out = self._engine.decode(shape, slots, steps, any(job.top for _, job in live), masks)
        for _, job in live:
            job.ahead += steps
        return _Flight(live, steps, shape, out)

    def _land(self, flight: "_Flight") -> None:
        out = [np.asarray(part)[:flight.steps] for part in flight.out]
        steps = int((out[0] >= 0).any(1).sum())     # they end where nobody needs more
        pace = self._pace = self.meter.decoded(flight.started, steps, *flight.shape)
        for row, (slot, job) in enumerate(flight.live):
            job.ahead -= flight.steps
            if self._slots.holds(slot, job):
                row = slot if flight.shape[0] == self._engine.shapes.slots else row
                self._accept(job, steps, pace, *(part[:, row] for part in out))

    def _accept(self, job: Answer, steps: int, pace: float, ids: np.ndarray, logprobs: np.ndarray, top_ids: np.ndarray,
                top_logprobs: np.ndarray) -> None:
        """Gives a job its new tokens ([..] entries, -1 where none came); frees the slot when that completes it."""
        before = job.produced
        for i, token in enumerate(ids.tolist()):
            if token < 0 or job.accept(token, float(logprobs[i]), top_ids[i], top_logprobs[i]):
                break
        self._time(job, job.produced - before, time.monotonic() - steps * pace, pace)
        if job.finish:
            self.counts["prompt_tokens"] += len(job.prompt)
            self.counts["generated_tokens"] += job.produced
            self.counts["answers"] += 1
            self._slots.release(job)
            self._forget(job)
        _tell(job)

    def _time(self, job: Answer, made: int, started: float, pace: float) -> None:
        """Counts new tokens, one each `pace` seconds from `started` on: when they were made, whenever they are sent."""
        if not made:
            return
        newest, between = started + made * pace, made
        if not job.newest_at:
            self.meter.first_token.observe(started + pace - job.arrived)
            job.newest_at, between = started + pace, made - 1
        if between:
            self.meter.between_tokens.observe((newest - job.newest_at) / between, between)
        job.newest_at = newest

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._unfinished.discard(job)


def _worth(shape: tuple[int, int], unread: list[int]) -> float:
    """Prompt tokens read for the cost of a chunk, which is its area and a fixed part of about 64 tokens."""
    rows, width = shape
    return sum(min(count, width) for count in unread[:rows]) / (rows * width + 64)


def _tell(job: Job, news: Update | Exception | None = None) -> None:
    """Notifies; a receiver that has gone (its event loop is closed) must not stop the engine."""
    try:
        if news is not None:
            job.notify(news)
        elif isinstance(job, Answer):
            job.report()
    except RuntimeError:
        job.cancelled = True
