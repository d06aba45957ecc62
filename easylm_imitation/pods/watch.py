"""A run that is looked after: made, started, followed, and brought back when the cloud takes the machines away."""
import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

from easylm_imitation.pods import remote
from easylm_imitation.pods.commands import Commands, Failed
from easylm_imitation.pods.preflight import archive_of
from easylm_imitation.pods.tpu import TpuPod
from easylm_imitation.schema import UserError

_MENDABLE = 2       # the exit code of a mistake that starting again does not mend
_SOON = 600         # seconds: a run that fails within is not helped by starting it often
_CLOSE = 3          # such failures in a row, after which it is given up


@dataclasses.dataclass(frozen=True)
class Job:
    """What shall run on every host."""
    command: Sequence[str]
    environment: dict[str, str]
    secrets: dict[str, str]
    bucket: str | None = None                                               # mounted
    stages: dict[str, str] = dataclasses.field(default_factory=dict)        # {name: gs://... that is copied}


def prepare(pod: TpuPod, job: Job, commit: str, checkout: pathlib.Path) -> None:
    """Machines, code and environment, and the command started; what is there already is left alone."""
    pod.create()
    if pod.at_work(job.command, job.environment):
        return
    set_up(pod, commit, checkout)
    pod.attach(job.bucket, job.stages)
    pod.start(job.command, job.environment, job.secrets)


def set_up(pod: TpuPod, commit: str, checkout: pathlib.Path) -> None:
    """The code of a commit, and its environment, on every host."""
    with tempfile.TemporaryDirectory() as folder:
        pod.setup(commit, archive_of(checkout, commit, pathlib.Path(folder)))


def up(pod: TpuPod, job: Job, commit: str, checkout: pathlib.Path, commands: Commands) -> None:
    """Runs a job to its end, through preemptions and failures; training continues from its newest checkpoint.

    Raises UserError when the command itself is at fault (exit code 2), or fails again and again at once.
    """
    failures = 0
    while True:
        started = time.monotonic()
        try:
            prepare(pod, job, commit, checkout)
            if commands.dry_run:
                commands.say("would follow the first host's log until every host has ended; after a preemption, all "
                             "of this again")
                return
            failed = follow(pod, commands)
        except Failed as error:         # the cloud, not the command: it may have taken the machines just now
            failed = f"the cloud failed: {error}"
        if failed is None:
            commands.say(f"{pod.spec.name}: done on every host")
            return
        if "\nlost" in f"\n{failed}":
            commands.say(f"{pod.spec.name}: {failed}; making it again")
            failures = 0
            continue
        failures = failures + 1 if time.monotonic() - started < _SOON else 1
        if failures >= _CLOSE:
            raise UserError(f"{pod.spec.name}: {failed}; {failures} times in a row, so it is given up. The pod still "
                            f"costs money: `delete {pod.spec.name}` gives it back")
        commands.say(f"{pod.spec.name}: {failed}; stopping what still runs, and starting again")
        try:
            pod.stop()
        except Failed as error:
            commands.say(f"{pod.spec.name}: {error}")
        commands.sleep()


def follow(pod: TpuPod, commands: Commands) -> str | None:
    """Shows the first host's log until every host has ended. None: all ended well; else what happened ("lost: ..."
    when the machines are gone). Raises UserError for a mistake in the command."""
    position = 0
    while True:
        state = pod.state()
        if state != "ACTIVE":
            return f"lost: {state}"
        text, position = pod.log(position)
        sys.stdout.write(commands.hidden(text))
        sys.stdout.flush()
        hosts = pod.status()
        bad = [host for host in hosts if host["state"] == "absent" or host["code"] not in ("-", "0")]
        if bad:
            words = "; ".join(map(remote.shown, bad))
            if any(host["code"] == str(_MENDABLE) for host in bad):
                raise UserError(f"{pod.spec.name}: {words}. Mend that, and the same command starts it again")
            return words
        if hosts and all(host["state"] == "ended" for host in hosts):
            text, position = pod.log(position)
            sys.stdout.write(commands.hidden(text))
            return None
        commands.sleep(2)
