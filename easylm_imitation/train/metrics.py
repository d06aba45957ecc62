"""Metrics of a run: one JSON object a line in metrics.jsonl, the same scalars in TensorBoard, and in W&B on request.

A step's scalars stay on the device until the next step is on its way (`Recorder`), so the host never waits for the step
that it has just started. A continued run first cuts off what was logged after its checkpoint: the history has no fork.
"""
import contextlib
import errno
import io
import json
import math
import os
import pathlib
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tensorboardX import summary
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from easylm_imitation import console
from easylm_imitation.files import iter_jsonl
from easylm_imitation.schema import UserError
from easylm_imitation.train.checkpoint import Progress
from easylm_imitation.train.skip import NOT_FINITE, REASONS
from easylm_imitation.train.speed import SlowUpdates, Speed
from easylm_imitation.train.wandb_run import WandbRun
from easylm_imitation.weights.run_dir import EVALUATIONS, SAMPLES, VALIDATION

BESIDE = VALIDATION, SAMPLES, EVALUATIONS    # what else a run writes down as it goes
_SAID = 20      # skipped updates, each of which is shown to people; slow ones likewise


class MetricsLog:
    """Writes lines to `path` and scalars to `tensorboard`; on every process but the first, writes nothing.

    A disk that refuses is a UserError. Nothing is left to a thread or a buffer, which would hide a full disk, or hang.
    """

    def __init__(self, path: pathlib.Path, tensorboard: pathlib.Path, step: int, wandb: WandbRun | None = None,
                 sent: Callable[[], None] = lambda: None) -> None:
        """Opens the log of a run that stands at `step`; later lines of an earlier attempt are cut off. `sent` is called
        after each line: where the log is a copy, it may bring it to its place."""
        self._path, self._wandb, self._sent = path, wandb, sent
        self._files = contextlib.ExitStack()
        self._file = self._board = None
        if jax.process_index() == 0:
            with _writing(path):
                for file in (path, *map(path.with_name, BESIDE)):
                    cut_back(file, step)
                tensorboard.mkdir(exist_ok=True)
                name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}"
                self._file = self._files.enter_context(open(path, "ab", buffering=0))
                self._board = self._files.enter_context(open(tensorboard / name, "ab", buffering=0))
                _append(self._board, _record(Event(wall_time=time.time(), file_version="brain.Event:2")))
                _append(self._board, _record(Event(wall_time=time.time(), step=step + 1,       # hides later ones
                                                   session_log=SessionLog(status=SessionLog.START))))

    def write(self, values: dict[str, Any]) -> None:
        """Appends one line, on its way to disk at return; `values["step"]` is the x axis of TensorBoard's scalars."""
        if self._file is None:
            return
        words = {name for name, value in values.items() if isinstance(value, str)}
        line = json.dumps({k: v if k in words or math.isfinite(v) else None for k, v in values.items()}) + "\n"
        scalars = {f"train/{name}": value for name, value in values.items() if name != "step" and name not in words}
        with _writing(self._path):
            _append(self._file, line.encode())
            self._plot(values["step"], scalars)
        self._sent()

    def beside(self, name: str, lines: list[dict[str, Any]], scalars: dict[str, float] | None = None) -> None:
        """Appends lines to another file of the run, one of BESIDE; each has a "step". Scalars go to TensorBoard."""
        if self._file is None:
            return
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with _writing(self._path.with_name(name)), open(self._path.with_name(name), "ab", buffering=0) as file:
            _append(file, text.encode("utf-8", "replace"))
            finite = {key: value for key, value in (scalars or {}).items() if math.isfinite(value)}
            self._plot(lines[0]["step"], finite)

    def _plot(self, step: int, scalars: dict[str, float]) -> None:
        now = time.time()
        events = [_record(Event(wall_time=now, step=step, summary=summary.scalar(name, value)))
                  for name, value in scalars.items()]
        _append(self._board, b"".join(events))
        if self._wandb:
            self._wandb.log(step, scalars)

    def close(self) -> None:
        """Ends all files."""
        self._files.close()
        if self._wandb:
            self._wandb.close()


def _append(file: io.FileIO, data: bytes) -> None:
    if file.write(data) < len(data):        # what fitted is on the disk, the rest did not fit
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def _record(event: Event) -> bytes:
    """An event as TensorBoard reads it: its length, its bytes, each with a masked checksum (the TFRecord format)."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + _masked_checksum(length) + data + _masked_checksum(data)


def _masked_checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff)


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Turns what a disk refuses inside the block into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path}: the run's metrics cannot be written ({error.strerror}); its "
                        "checkpoints are whole. Once this is mended, the same command continues") from None


def cut_back(path: pathlib.Path, step: int) -> None:
    """Drops the lines of `path` after `step`, and what a kill or a full disk left unfinished. Atomic; no file is fine.

    A line that cannot be read, and what comes after it, is dropped too, and said.
    """
    if not path.exists():
        return
    kept = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        at = _step_of(line)
        if at is None and line.endswith(b"\n"):
            console.say(f"{path}:{number}: not a line of metrics; it and the {len(lines) - number} lines after it are "
                        "cut off")
        if at is None:
            break
        if at <= step:
            kept.append(line)
    if kept != lines:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.writelines(kept)
                file.flush()
                os.chmod(file.name, path.stat().st_mode)
                os.replace(file.name, path)
            except OSError:
                os.unlink(file.name)
                raise


def _step_of(line: bytes) -> int | None:
    """The step of a whole line of metrics; None for anything else."""
    try:
        step = json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """All lines of a metrics.jsonl, in order. Raises UserError for a bad line."""
    return [values for _, values in iter_jsonl(path)]


class Recorder:
    """Turns each step's device scalars into totals and, where due, a line of the log; always one step late.

    >>> recorder.push(1, metrics_1)     # keeps them
    >>> recorder.push(2, metrics_2)     # step 2 is queued on the device: now step 1 is read and written
    >>> recorder.flush()                # waits for step 2, so that `progress` stands there
    """

    def __init__(self, log: MetricsLog, progress: Progress, total_steps: int, every: int, max_skips: int = 10,
                 speed: Speed | None = None) -> None:
        self.progress, self.last = progress, {}     # totals up to the step last read; the last line with a finite loss
        self.sound = True       # False after an update that was skipped as not finite: are the weights to blame?
        self._log, self._total, self._every, self._max_skips = log, total_steps, every, max_skips
        self._speed, self._slow, self._slow_said = speed, SlowUpdates(), 0
        self._judged = False    # False for an update behind which something else was done, such as a save
        self._held: tuple[int, dict[str, jax.Array]] | None = None
        self._loss: float | None = None
        self._time = time.monotonic()
        self._window = (self._time, _all_tokens(progress))  # where the last line stood, for tokens per second

    def push(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes in the scalars of `step`, and reads those of the step before. Raises UserError as `flush` does."""
        held, self._held = self._held, (step, metrics)
        self._read(held)

    def flush(self) -> None:
        """Reads what is held. Raises UserError when too many updates in a row were skipped, or the run's last ones
        because they were not finite.
        """
        held, self._held = self._held, None
        self._read(held)
        self._judged = False

    def note(self) -> str:
        """The loss last read, and the speed of the last line written, in a few words."""
        speed = f", {self.last['tokens_per_second']:,.0f} tokens/s" if self.last else ""
        return "" if self._loss is None else f"loss {self._loss:.4f}{speed}"

    def _read(self, held: tuple[int, dict[str, jax.Array]] | None) -> None:
        if held is None:
            return
        step, metrics = held[0], {name: value.item() for name, value in jax.device_get(held[1]).items()}
        before, now = self.progress, time.monotonic()
        self._report_slow(step, now - self._time)
        mixed = metrics.get("mixed_tokens", 0)
        self.progress = Progress(
            step, before.tokens + metrics["tokens"] - mixed,
            before.loss_tokens + metrics["loss_tokens"] - metrics.get("mixed_loss_tokens", 0),
            before.seconds + now - self._time, before.mixed_tokens + mixed)
        self._time, self._loss = now, metrics["loss"]
        self.sound = metrics["skip_reason"] != NOT_FINITE
        if step % self._every == 0 or step in (1, self._total) or metrics["skip_reason"]:
            self._write(metrics, now)
        if metrics["skip_reason"]:
            self._report_skip(step, metrics)

    def _report_slow(self, step: int, seconds: float) -> None:
        times = self._slow.times_median(seconds) if self._judged else None
        self._judged = True
        if times is not None and self._slow_said < _SAID:
            self._slow_said += 1
            console.say(f"step {step}: took {seconds:.1f} s, {times:.1f} times as long as usual")

    def _report_skip(self, step: int, metrics: dict[str, float]) -> None:
        reason, number, in_a_row = REASONS[metrics["skip_reason"]], metrics["skipped"], metrics["skipped_in_a_row"]
        what = (f"step {step}: loss {metrics['loss']:.4g}, gradient norm {metrics['grad_norm']:.4g}, learning rate "
                f"{metrics['learning_rate']:.3g}: ")
        if in_a_row > self._max_skips or (step == self._total and not self.sound):
            cure = ("Raise optimizer.spike_factor, or lower optimizer.learning_rate" if self.sound else
                    "Lower optimizer.learning_rate, lengthen optimizer.warmup or set optimizer.clip")
            raise UserError(f"{what}training has diverged and stops here (updates in a row skipped: {in_a_row}, "
                            f"{reason}). {cure}, in a new workdir; the newest checkpoint is of before")
        if number <= _SAID or number % 100 == 0:
            rest = "; from now on only each hundredth is shown, metrics.jsonl has all" if number == _SAID else ""
            console.say(f"{what}skipped ({reason}), {number} so far{rest}")

    def _write(self, metrics: dict[str, float], now: float) -> None:
        progress, (since, tokens) = self.progress, self._window
        self._window = (now, _all_tokens(progress))
        line = {
            "step": progress.step, "loss": metrics["loss"], "z_loss": metrics["z_loss"],
            "learning_rate": metrics["learning_rate"], "grad_norm": metrics["grad_norm"], "tokens": progress.tokens,
            "loss_tokens": progress.loss_tokens, "seconds": progress.seconds,
            "tokens_per_second": (_all_tokens(progress) - tokens) / max(now - since, 1e-9),
            "skipped": metrics["skipped"]}
        if "divergence" in metrics:
            line["divergence"] = metrics["divergence"]
        if "mixed_tokens" in metrics:
            line["mixed_tokens"] = progress.mixed_tokens
        if self._speed is not None:
            line |= self._speed.of(line["tokens_per_second"])
        if math.isfinite(metrics["loss"]):
            self.last = line
        reason = REASONS[metrics["skip_reason"]]
        self._log.write(line | {"skip_reason": reason} if reason else line)


def _all_tokens(progress: Progress) -> int:
    return progress.tokens + progress.mixed_tokens
