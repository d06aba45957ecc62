"""The flags of the launch scripts. What follows `--` is the command, taken as it is, spaces and quotes included."""
import argparse
import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

from easylm_imitation.pods import local, preflight, remote, slurm, tpu, watch
from easylm_imitation.pods.commands import Commands
from easylm_imitation.schema import UserError

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_TPU = ("check", "create", "setup", "run", "up", "logs", "status", "stop", "delete")
_SLURM = ("submit", "logs", "status", "stop")


def main(argv: Sequence[str]) -> int:
    """Runs `tpu`, `slurm` or `local`; returns the exit code, 2 for what the user can mend."""
    kinds: dict[str, Callable[[list[str], list[str]], int]] = {"tpu": _tpu, "slurm": _slurm, "local": _local}
    kind, words = (argv[0] if argv else ""), list(argv[1:])
    try:
        if kind not in kinds:
            raise UserError(f"'{kind}': expected one of {', '.join(kinds)}")
        before, command = (words[:words.index("--")], words[words.index("--") + 1:]) if "--" in words else (words, [])
        return kinds[kind](before, command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what runs on the machines goes on, and `stop` ends it", file=sys.stderr)
        return 130


def _parser(script: str, about: str, actions: Sequence[str] | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"bash launch/{script}", description=about, allow_abbrev=False)
    if actions:
        parser.add_argument("action", choices=actions)
        parser.add_argument("name", help="the pod's or job's name")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done; ask and change nothing")
    return parser


# ── TPU ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tpu(words: list[str], command: list[str]) -> int:
    parser = _parser("tpu_pod.sh", "A TPU pod of Google Cloud, from its checks to its end; a command for its hosts "
                     "follows `--`.", _TPU)
    parser.add_argument("--type", help="v5e-64, v4-128, v5p-64, v6e-16, ...")
    parser.add_argument("--slices", type=int, help="slices, joined by the data centre's network (default 1)")
    parser.add_argument("--zone", help="default: gcloud's own")
    parser.add_argument("--project", help="default: gcloud's own")
    parser.add_argument("--version", help="software of the machines (default: the one for the type)")
    parser.add_argument("--network", help="the VPC network, where it is not the default one")
    parser.add_argument("--spot", action="store_true", default=None, help="cheap, and taken away without notice")
    parser.add_argument("--reserved", action="store_true", default=None, help="from your reservation")
    parser.add_argument("--bucket", action="append", default=[], metavar="gs://B",
                        help="checked to be writable, as is --mount's")
    parser.add_argument("--mount", metavar="gs://B", help="a bucket that every host sees as ../bucket, for runs")
    parser.add_argument("--stage", action="append", default=[], metavar="NAME=gs://B/PATH",
                        help="data that is copied to every host, as ../stage/NAME")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the command")
    parser.add_argument("--secret", action="append", default=[], metavar="NAME",
                        help="a variable of this environment for the command; its value is never shown")
    parser.add_argument("--follow", action="store_true", help="logs: go on until the command ends")
    args = parser.parse_args(words)
    secrets = {name: _secret(name) for name in args.secret}
    commands = Commands(args.dry_run, list(secrets.values()))
    stages = dict(_pair(text, "--stage") for text in args.stage)
    for place in [*args.bucket, *filter(None, [args.mount]), *stages.values()]:
        if not re.fullmatch(r"gs://[a-z0-9][-_.a-z0-9]+(/.*)?", place):
            raise UserError(f"'{place}': only buckets of Google Cloud Storage are known, as gs://BUCKET; other stores "
                            "have other clients, so copy the data to one first")
    job = watch.Job(command, dict(_pair(text, "--env") for text in args.env), secrets, args.mount, stages)
    if (args.action in ("run", "up")) != bool(command):
        raise UserError(f"{args.action}: " + ("takes no command" if command else "the command is missing; put it "
                                              "after `--`, as in `-- easylm-imitation train --config ...`"))
    pod = tpu.TpuPod(_spec(args, commands), commands)
    _ACTIONS[args.action](pod, args, job, commands)
    return 0


def _check(pod: tpu.TpuPod, args: argparse.Namespace, job: watch.Job, commands: Commands) -> None:
    _checked(pod, args, job, commands)


def _checked(pod: tpu.TpuPod, args: argparse.Namespace, job: watch.Job, commands: Commands) -> str:
    written = list(dict.fromkeys([*args.bucket, *filter(None, [args.mount])]))
    return preflight.preflight(pod.spec, written, _CHECKOUT, commands)


def _set_up(pod: tpu.TpuPod, args: argparse.Namespace, job: watch.Job, commands: Commands) -> None:
    watch.set_up(pod, preflight.head_commit(_CHECKOUT), _CHECKOUT)


def _run(pod: tpu.TpuPod, args: argparse.Namespace, job: watch.Job, commands: Commands) -> None:
    if pod.at_work(job.command, job.environment | _hosts(pod)):
        return
    pod.check_alike()
    pod.attach(job.bucket, job.stages)
    pod.start(job.command, job.environment | _hosts(pod), job.secrets)


def _up(pod: tpu.TpuPod, args: argparse.Namespace, job: watch.Job, commands: Commands) -> None:
    commit = _checked(pod, args, job, commands)
    made = dataclasses.replace(job, environment=job.environment | _hosts(pod))
    watch.up(pod, made, commit, _CHECKOUT, commands)


def _hosts(pod: tpu.TpuPod) -> dict[str, str]:
    """Tells the command that it is one of several; jax finds the others by itself."""
    return {"EASYLM_POD": pod.spec.name}


def _logs(pod: tpu.TpuPod, args: argparse.Namespace, job: watch.Job, commands: Commands) -> None:
    if args.follow and not commands.dry_run:
        failed = watch.follow(pod, commands)
        commands.say(f"{pod.spec.name}: {failed or 'done on every host'}")
    else:
        print(commands.hidden(pod.log()[0]), end="")


def _status(pod: tpu.TpuPod, args: argparse.Namespace, job: watch.Job, commands: Commands) -> None:
    state = pod.state()
    print(f"{pod.spec.name}: {'not asked' if commands.dry_run else state}")
    for host in pod.status() if state == "ACTIVE" or commands.dry_run else ():
        print(f"  {remote.shown(host)}")


_ACTIONS = {"check": _check, "create": lambda pod, *_: pod.create(), "setup": _set_up, "run": _run, "up": _up,
            "logs": _logs, "status": _status, "stop": lambda pod, *_: pod.stop(),
            "delete": lambda pod, *_: pod.delete()}


def _spec(args: argparse.Namespace, commands: Commands) -> tpu.PodSpec:
    """The pod of the flags, or the one remembered by its name. Raises UserError where they contradict each other."""
    known = tpu.remembered(args.name)
    kind = tpu.cloud_type(args.type) if args.type else None
    given = {"type": kind, **{key: getattr(args, key) for key in ("zone", "project", "version", "slices", "spot",
                                                                    "reserved", "network")}}
    given = {key: value for key, value in given.items() if value is not None}
    if known:
        for key, value in given.items():
            if getattr(known, key) != value:
                raise UserError(f"{args.name} was made with {key} {getattr(known, key)}, not {value}; `delete "
                                f"{args.name}` first, or choose another name")
        return known
    if "type" not in given and args.action == "delete":     # of one made elsewhere, or deleted before
        given |= {"type": "unknown", "version": "unknown"}
    if "type" not in given:
        raise UserError(f"no pod '{args.name}' was made from this machine; say --type, as in v5e-64")
    if given.get("slices", 1) < 1:
        raise UserError(f"--slices {args.slices}: at least 1")
    for key, setting in (("project", "project"), ("zone", "compute/zone")):
        given.setdefault(key, _setting(setting, commands))
    if "version" not in given:
        given["version"] = tpu.default_version(given["type"])
    return tpu.PodSpec(args.name, **given)


def _setting(name: str, commands: Commands) -> str:
    if commands.dry_run:
        return name.rpartition("/")[2].upper()
    found = (commands.ask(["gcloud", "config", "get-value", name]) or "").strip()
    if not found or found == "(unset)":
        word = name.rpartition("/")[2]
        raise UserError(f"no {word}: say --{word}, or `gcloud config set {name} {word.upper()}`")
    return found


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UserError(f"{flag} {name}: write it as NAME=VALUE")
    return name, value


def _secret(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or not os.environ.get(name):
        raise UserError("--secret takes the name of a variable that is set here, not its value" +
                        (f"; {name} is not set" if re.fullmatch(r"[A-Za-z_]\w*", name) else ""))
    return os.environ[name]


# ── Slurm, and this machine ───────────────────────────────────────────────────────────────────────────────────────────


def _slurm(words: list[str], command: list[str]) -> int:
    parser = _parser("slurm.sh", "A job on a GPU cluster under Slurm, one process a GPU; its command follows `--`.",
                     _SLURM)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="of each node (default 8)")
    parser.add_argument("--time", default="24:00:00", help="hours:minutes:seconds (default 24:00:00)")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION",
                        help="a further option of sbatch, as in --sbatch=--partition=gpu")
    parser.add_argument("--follow", action="store_true", help="logs: go on")
    args = parser.parse_args(words)
    commands = Commands(args.dry_run)
    if (args.action == "submit") != bool(command):
        raise UserError(f"{args.action}: " + ("takes no command" if command else "put the command after `--`"))
    if args.action == "submit":
        if args.nodes < 1 or args.gpus < 1:
            raise UserError(f"--nodes {args.nodes} --gpus {args.gpus}: both count from 1")
        slurm.submit(args.name, args.nodes, args.gpus, args.time, args.sbatch, _CHECKOUT, command, commands)
    elif args.action == "logs":
        slurm.logs(args.name, _CHECKOUT, args.follow)
    else:
        {"status": slurm.status, "stop": slurm.stop}[args.action](args.name, commands)
    return 0


def _local(words: list[str], command: list[str]) -> int:
    parser = _parser("local_pod.sh", "N real processes with M CPU devices each as one pod on this machine; their "
                     "command follows `--`.", None)
    parser.add_argument("processes", metavar="N", type=int)
    parser.add_argument("devices", metavar="M", type=int)
    parser.add_argument("--restarts", type=int, default=0, help="start all again after a failure, so often")
    args = parser.parse_args(words)
    if not command:
        raise UserError("put the command after `--`, as in `-- easylm-imitation train --config ...`")
    return local.local_pod(args.processes, args.devices, command, Commands(args.dry_run), args.restarts)
