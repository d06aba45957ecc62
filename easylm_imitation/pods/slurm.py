"""GPU clusters under Slurm: a batch script that starts one process a GPU, and comes back after a preemption."""
import os
import pathlib
import re
import shlex
from collections.abc import Sequence

from easylm_imitation.pods.commands import Commands
from easylm_imitation.schema import UserError

_NOTICE = 120       # seconds before its end at which a job is told, so that training saves


def script(name: str, nodes: int, gpus: int, hours: str, options: Sequence[str], checkout: pathlib.Path,
           command: Sequence[str]) -> str:
    """The batch script. `options`: further ones of sbatch, such as --partition=gpu."""
    extra = "".join(f"#SBATCH {option}\n" for option in options)
    return f"""#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --time={hours}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@{_NOTICE}
{extra}set -u
cd {shlex.quote(str(checkout))}
export PATH="$PWD/.venv/bin:$PATH"
told=
srun --kill-on-bad-exit=1 --export=ALL {shlex.join(command)} &
step=$!
trap 'told=yes; kill -TERM "$step"' TERM      # srun hands it on to every process; training saves and ends with 0
code=0; wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do code=0; wait "$step" || code=$?; done
if [ -n "$told" ]; then echo "told to stop: queued again, to continue"; scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def submit(name: str, nodes: int, gpus: int, hours: str, options: Sequence[str], checkout: pathlib.Path,
           command: Sequence[str], commands: Commands) -> None:
    """Submits a job, unless one of that name is there. Raises UserError when the cluster refuses."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UserError(f"--name {name}: letters, digits, dots and dashes only")
    if not (checkout / ".venv/bin/python").exists() and not commands.dry_run:
        raise UserError(f"{checkout} has no .venv that the nodes could use; on a machine that sees the GPUs run "
                        "`bash launch/quickstart.sh --help`, which makes it, on a disk that all nodes share")
    if bad := next((option for option in options if not re.fullmatch(r"-.+", option)), None):
        raise UserError(f"--sbatch {bad!r}: one option of sbatch in a line, as in --sbatch=--partition=gpu")
    text = script(name, nodes, gpus, hours, options, checkout, command)
    file = checkout / "runs/slurm" / f"{name}.sh"
    if there := job(name, commands):
        if not file.exists() or file.read_text() != text:
            raise UserError(f"{name}: is {there[1]} as job {there[0]}, with another command or other options ({file}); "
                            f"`stop {name}` ends it, or take another name")
        commands.say(f"{name}: is {there[1]} already, as job {there[0]}")
        return
    if commands.dry_run:
        commands.say(f"would write {file}:\n{text}")
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    said = commands.run(["sbatch", "--parsable", f"--output={file.with_suffix('.log')}", str(file)], tries=1)
    commands.say(f"{name}: submitted {said.strip()}; its log is {file.with_suffix('.log')}")


def job(name: str, commands: Commands) -> tuple[str, str] | None:
    """(number, state) of the user's job of that name; None when there is none."""
    said = commands.ask(["squeue", "--me", "--noheader", f"--name={name}", "--format=%i %T"])
    words = (said or "").split()
    return (words[0], words[1]) if len(words) >= 2 else None


def status(name: str, commands: Commands) -> None:
    """Prints number and state."""
    there = job(name, commands)
    print(f"{name}: job {there[0]}, {there[1]}" if there else f"{name}: no such job is queued or running")


def stop(name: str, commands: Commands) -> None:
    """Ends a job; training is told first, and saves. Nothing to end is fine."""
    there = job(name, commands)
    if there or commands.dry_run:
        number = there[0] if there else "JOB"
        waits = there is not None and there[1] == "PENDING"     # a signal would not take it out of the queue
        signal = [] if waits else ["--signal=TERM"]             # to srun's processes, not to the batch script
        commands.run(["scancel", *signal, number])
    commands.say(f"{name}: {'told to stop' if there else 'nothing to stop'}")


def logs(name: str, checkout: pathlib.Path, follow: bool) -> None:
    """Shows a job's log. Raises UserError when it has none yet."""
    file = checkout / "runs/slurm" / f"{name}.log"
    if not file.exists():
        raise UserError(f"{file}: no log yet; the job may still be waiting, see `status {name}`")
    if follow:
        os.execvp("tail", ["tail", "-n", "100", "-F", str(file)])
    print(file.read_text(), end="")
