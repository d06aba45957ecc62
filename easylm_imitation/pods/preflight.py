"""What has to be right before a pod is asked for: each check says what it found, or what to do about it."""
import io
import json
import pathlib
import re
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence

from easylm_imitation.pods.commands import Commands, Failed
from easylm_imitation.pods.tpu import PodSpec
from easylm_imitation.schema import UserError

_QUOTAS = {"v4": "tpuv4", "v5litepod": "litepod", "v5p": "v5p", "v6e": "v6e"}     # parts of the quotas' names
_CORES_COUNTED = ("v4", "v5p")      # types whose number counts cores, two a chip


def preflight(spec: PodSpec, buckets: Sequence[str], checkout: pathlib.Path, commands: Commands) -> str:
    """Runs every check, says all that is wrong in one UserError; returns the commit that hosts will be given."""
    wrong, commit = [], ""
    for name, check in _checks(spec, buckets, checkout, commands):
        try:
            found = check()
        except UserError as error:
            wrong.append(f"{name}: {error}")
            commands.say(f"check {name}: NOT SO, {error}")
        else:
            commit = found if name == "code" else commit
            commands.say(f"check {name}: {found}")
    if wrong:
        raise UserError(f"{spec.name}: {len(wrong)} of the checks failed: " + "; ".join(wrong))
    return commit


def _checks(spec: PodSpec, buckets: Sequence[str], checkout: pathlib.Path,
            commands: Commands) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "account", lambda: _account(commands)
    yield "TPU API", lambda: _api(spec, commands)
    yield "type", lambda: _offered(spec, commands, ["accelerator-types", "describe", spec.type],
                                   f"{spec.zone} has no {spec.type}; see `gcloud compute tpus accelerator-types list`")
    yield "software", lambda: _offered(spec, commands, ["tpu-vm", "versions", "describe", spec.version],
                                       f"no such software {spec.version}; see `gcloud compute tpus tpu-vm versions "
                                       "list`, and name one with --version")
    yield "quota", lambda: _quota(spec, commands)
    for bucket in buckets:
        yield f"bucket {bucket}", lambda bucket=bucket: _writable(bucket, commands)
    yield "code", lambda: head_commit(checkout)


def _account(commands: Commands) -> str:
    said = commands.ask(["gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"])
    if said is not None and not said.strip():
        raise UserError("nobody is logged in; run `gcloud auth login`")
    return (said or "not asked").strip()


def _api(spec: PodSpec, commands: Commands) -> str:
    said = commands.ask(["gcloud", "services", "list", "--enabled", f"--project={spec.project}",
                         "--filter=config.name=tpu.googleapis.com", "--format=value(config.name)"])
    if said is not None and "tpu.googleapis.com" not in said:
        raise UserError(f"not enabled in {spec.project}; run `gcloud services enable tpu.googleapis.com "
                        f"--project={spec.project}`")
    return "enabled" if said else "not asked"


def _offered(spec: PodSpec, commands: Commands, what: list[str], wrong: str) -> str:
    said = commands.ask(["gcloud", "compute", "tpus", *what, f"--zone={spec.zone}", f"--project={spec.project}",
                         "--format=json"])
    if said is None and not commands.dry_run:
        raise UserError(wrong)
    return f"{what[-1]} is in {spec.zone}" if said else "not asked"


def _quota(spec: PodSpec, commands: Commands) -> str:
    """The largest limit that can be meant; where quotas cannot be read that is said, and the cloud decides."""
    try:
        said = commands.ask(["gcloud", "beta", "quotas", "info", "list", "--service=tpu.googleapis.com",
                             f"--project={spec.project}", "--format=json"])
        limits = [limit for limit in _limits(json.loads(said or "[]"), spec)]
    except (Failed, ValueError) as error:
        return f"could not be read ({str(error)[:120]}); the cloud will say when it is too small"
    if not limits:
        return "not asked" if commands.dry_run else "no limit of this type was found; the cloud decides"
    family, _, number = spec.type.partition("-")
    chips = int(number) // (2 if family in _CORES_COUNTED else 1) * spec.slices
    if max(limits) < chips:
        kind = "spot (preemptible)" if spec.spot else "on-demand"
        raise UserError(f"{spec.slices} x {spec.type} are {chips} chips, but the {kind} quota in {spec.zone} is "
                        f"{max(limits)}; ask for more on the console's quota page, take a smaller --type, or "
                        f"{'leave out' if spec.spot else 'try'} --spot")
    return f"{max(limits)} for {chips} chips"


def _limits(infos: list[dict], spec: PodSpec) -> Iterator[int]:
    for info in infos:
        name = re.sub(r"[^a-z0-9]", "", info.get("quotaId", "").lower())
        part = _QUOTAS.get(spec.type.partition("-")[0], spec.type.partition("-")[0])
        if part not in name or ("preemptible" in name or "spot" in name) != spec.spot:
            continue
        for place in info.get("dimensionsInfos", []):
            where = place.get("applicableLocations") or [spec.zone]
            value = str((place.get("details") or {}).get("value", ""))
            if (spec.zone in where or spec.zone.rpartition("-")[0] in where) and value.lstrip("-").isdigit():
                yield int(value) if int(value) >= 0 else 2**31      # -1: without a limit


def _writable(bucket: str, commands: Commands) -> str:
    """Writes an object, reads it back, removes it."""
    probe = f"{bucket.rstrip('/')}/.easylm-probe-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "probe"
        file.write_text(probe)
        try:
            commands.run(["gcloud", "storage", "cp", str(file), probe], shown=False)
            back = commands.ask(["gcloud", "storage", "cat", probe])
            commands.run(["gcloud", "storage", "rm", probe], shown=False)
        except Failed as error:
            raise UserError(f"cannot be written ({error}); make it with `gcloud storage buckets create`, or ask its "
                            "owner for the role Storage Object Admin") from None
    if back is not None and back.strip() != probe:
        raise UserError("does not give back what was written there")
    return "can be written" if back else "not asked"


def head_commit(checkout: pathlib.Path) -> str:
    """The commit checked out, which all hosts are given. Raises UserError for changes that are in no commit."""
    if _git(checkout, "status", "--porcelain", "--untracked-files=no").strip():
        raise UserError(f"{checkout} has changes that are in no commit, and hosts are given a commit; commit them")
    return _git(checkout, "rev-parse", "HEAD").strip()


def archive_of(checkout: pathlib.Path, commit: str, to: pathlib.Path) -> pathlib.Path:
    """The files of a commit as a .tar.gz in the folder `to`."""
    made = to / f"{commit}.tar.gz"
    _git(checkout, "archive", "--format=tar.gz", f"--output={made}", commit)
    with tarfile.open(fileobj=io.BytesIO(made.read_bytes())) as tar:
        if "launch/environment.sh" not in tar.getnames():
            raise UserError(f"{checkout}: the commit {commit[:12]} has no launch/environment.sh; is it this project?")
    return made


def _git(checkout: pathlib.Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"git {words[0]} in {checkout}: {done.stderr.strip()[:200]}")
    return done.stdout
