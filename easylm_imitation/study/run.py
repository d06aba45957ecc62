"""Carrying out a study: what is done stays done, what fails does not stop what does not need it.

A finished stage leaves WORK/done/STAGE.json. The verbs resume their own work, so a study that was killed goes on with
the same command: finished stages are passed over, the one that was under way is continued.
"""
import dataclasses
import fcntl
import fnmatch
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from easylm_imitation import console
from easylm_imitation.files import read_json, write_json
from easylm_imitation.schema import UserError
from easylm_imitation.study.config import StudyConfig
from easylm_imitation.study.grid import Stage, Study

Runner = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a command line; its exit status, and the last line that it printed."""
_INCOMPLETE = 3     # the work is done, but for malformed input
State = Literal["done", "failed", "waits", "to do"]


@dataclasses.dataclass(frozen=True)
class Done:
    """`done/STAGE.json`."""
    command: str
    identity: str
    seconds: float                  # of the last attempt
    work: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Where a study stands. `failed`: stage -> what its command ended with."""
    states: Mapping[str, State]
    failed: Mapping[str, int]
    seconds: Mapping[str, float | None]     # of finished stages; of the others, what those suggest


def run_study(study: Study, *, only: str = "*", without: Sequence[str] = (), again: Sequence[str] = (),
              runner: Runner | None = None) -> Outcome:
    """Runs what is missing among the stages that match the pattern `only`, in order; one process a study at a time.

    `without` and `again` are names of stages: some that are left out, and some that run also where they are finished.
    Raises UserError when the folder holds another study, or a finished stage that was made otherwise than it would be
    now, and KeyboardInterrupt after the stage under way was told to save.
    """
    runner = runner or run_command
    with _claimed(study):
        for name in again:
            _record(study, study.stage(name)).unlink(missing_ok=True)
        done, failed = finished(study), {}
        wanted = [stage for stage in study.stages if stage.name not in done and stage.name not in without and
                  fnmatch.fnmatchcase(stage.name, only)]
        for place, stage in enumerate(wanted):
            if any(name not in done for name in stage.after):
                continue
            console.say(f"── {stage.name} ({place + 1} of {len(wanted)})")
            start = time.monotonic()
            status, said = runner(_launched(study.config, stage))
            if status == 0 and _stopped(said):
                raise KeyboardInterrupt
            if status == 0 or (status == _INCOMPLETE and (study.work / stage.makes).exists()):
                record = Done(shlex.join(stage.command), stage.identity, time.monotonic() - start, stage.work)
                write_json(_record(study, stage), record)
                done[stage.name] = record
            else:
                failed[stage.name] = status
                console.error(f"{stage.name} ended with {status}; to try it alone: "
                              f"easylm-imitation {shlex.join(stage.command)}")
    return outcome(study, done, failed)


def finished(study: Study) -> dict[str, Done]:
    """The finished stages. Raises UserError for one that was made by another command, from other models or configs."""
    found = {}
    for stage in study.stages:
        path = _record(study, stage)
        if not path.is_file() or not (study.work / stage.makes).exists():
            continue
        record = read_json(Done, path)
        if stage.verb == "report" and record.identity != stage.identity:
            continue        # cheap, and there are more cells now
        if record.identity != stage.identity:
            raise UserError(f"{study.work / stage.makes}: was made by '{record.command}' and would now be made by "
                            f"'{shlex.join(stage.command)}', or a config, model or file of prompts or answers "
                            "that it names has changed; take another --workdir, or delete it to make it anew")
        found[stage.name] = record
    return found


def outcome(study: Study, done: Mapping[str, Done], failed: Mapping[str, int]) -> Outcome:
    """Each stage's state, and its seconds as far as they are known."""
    states: dict[str, State] = {}
    for stage in study.stages:
        blocked = any(states[name] in ("failed", "waits") for name in stage.after)
        states[stage.name] = ("done" if stage.name in done else "failed" if stage.name in failed else
                              "waits" if blocked else "to do")
    seconds = {stage.name: done[stage.name].seconds if stage.name in done else _expected(stage, study, done)
               for stage in study.stages}
    return Outcome(states, failed, seconds)


def shown(study: Study, found: Outcome, dollars: float | None = None) -> None:
    """A table of all stages. `dollars`: what an hour costs."""
    rows = []
    for stage in study.stages:
        state, seconds = found.states[stage.name], found.seconds[stage.name]
        time_said = "?" if seconds is None else f"{'' if state == 'done' else 'about '}{_duration(seconds)}"
        cost = [] if dollars is None else ["?" if seconds is None else f"{seconds / 3600 * dollars:.2f}"]
        rows.append([stage.name, state, f"{stage.work:.2g}" if stage.verb == "train" and stage.work else "", time_said,
                     *cost])
    console.table(f"{study.config.name}: {len(study.cells)} cells", ["stage", "state", "FLOPs", "time",
                                                                      *([] if dollars is None else ["$"])], rows)
    left = [found.seconds[name] for name, state in found.states.items() if state != "done"]
    known = [seconds for seconds in left if seconds is not None]
    unknown = f", {len(left) - len(known)} stages of unknown length" if len(known) < len(left) else ""
    price = f", ${sum(known) / 3600 * dollars:,.2f}" if dollars is not None else ""
    console.say(f"{len(left)} of {len(study.stages)} stages to do: about {_duration(sum(known))}{price}{unknown}")


def run_command(command: Sequence[str]) -> tuple[int, str]:
    """Runs it in a process of its own. At Ctrl-C or SIGTERM that process is told once to save, and waited for."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            said = process.communicate()[0]
        except KeyboardInterrupt:
            process.terminate()
            process.communicate()
            raise
    return process.returncode, (said.rstrip().splitlines() or [""])[-1]


def _stopped(said: str) -> bool:
    """Whether a training that ended well did so because it was told to stop."""
    try:
        return json.loads(said)["interrupted"]
    except (ValueError, TypeError, KeyError):
        return False


def _launched(config: StudyConfig, stage: Stage) -> list[str]:
    """The whole command line: with this Python, or handed to what `launch` names for its verb."""
    prefix = config.launch.get(stage.verb)
    ours = [sys.executable, "-m", "easylm_imitation"] if prefix is None else [*shlex.split(prefix), "easylm-imitation"]
    return [*ours, *stage.command, "--json"]


def _expected(stage: Stage, study: Study, done: Mapping[str, Done]) -> float | None:
    """Seconds, at the pace of the finished stages of this kind; None while there are none. Printed scores take none."""
    if "--published" in stage.command:
        return 0.0
    alike = [done[s.name] for s in study.stages if s.name in done and s.name.partition("-")[0] ==
             stage.name.partition("-")[0]]
    if not alike:
        return stage.planned
    with_work = [record for record in alike if record.work]
    if stage.work and with_work:
        return stage.work * sum(r.seconds for r in with_work) / sum(r.work for r in with_work)
    return sum(r.seconds for r in alike) / len(alike)


@contextmanager
def _claimed(study: Study) -> Iterator[None]:
    """Writes the config into the folder and holds its lock. A study may grow (more cells); what is done is checked."""
    path = study.work / "study.json"
    if not path.is_file() and study.work.is_dir() and any(study.work.iterdir()):
        raise UserError(f"{study.work}: is not empty and no work of `study`; give another --workdir")
    if path.is_file() and (name := read_json(StudyConfig, path).name) != study.config.name:
        raise UserError(f"{study.work}: holds the study '{name}', not '{study.config.name}'; give another --workdir")
    write_json(path, study.config)
    lock = os.open(study.work / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{study.work}: another process is at work on this study; wait for it, or stop it") from None
    finally:
        os.close(lock)


def _record(study: Study, stage: Stage) -> pathlib.Path:
    return study.work / "done" / f"{stage.name}.json"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def summary(study: Study, found: Outcome) -> dict[str, Any]:
    """What `--json` prints."""
    return {"cells": [cell.name for cell in study.cells], "states": dict(found.states), "failed": dict(found.failed),
            "seconds": dict(found.seconds), "verdict": str(study.work / "verdict" / "report.html")}
