"""One TPU pod of Google Cloud: a queued resource and its nodes (slices), through `gcloud`.

Every method may be called again: what is there already is left alone, what is gone already is not missed.
"""
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

from easylm_imitation.pods import remote
from easylm_imitation.pods.commands import Commands, Failed
from easylm_imitation.schema import UserError, build, plain

_ALIASES = {"v5e": "v5litepod"}      # our names of accelerators, where the cloud's differs
_RUNTIMES = {"v4": "tpu-ubuntu2204-base", "v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5",
             "v6e": "v2-alpha-tpuv6e"}
_LOST_REQUEST = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")
_GOING = ("SUSPENDING", "DELETING")     # nothing can be done about these but to wait
_LOST_NODE = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING", "HIDDEN", "HIDING")
_FOLDER = "EASYLM_PODS"      # names the folder in which pods are remembered


@dataclasses.dataclass(frozen=True)
class PodSpec:
    """What is asked of the cloud."""
    name: str
    project: str
    zone: str
    type: str                   # as the cloud calls it: v5litepod-64
    version: str                # of the machines' software
    slices: int = 1
    spot: bool = False
    reserved: bool = False
    network: str = ""

    @property
    def nodes(self) -> list[str]:
        """Names of the slices."""
        return [self.name] if self.slices == 1 else [f"{self.name}-{i}" for i in range(self.slices)]


def cloud_type(name: str) -> str:
    """The cloud's name of an accelerator: v5litepod-64 for v5e-64. Raises UserError for what is none."""
    found = re.fullmatch(r"([a-z0-9]+)-(\d+)", name)
    if not found:
        raise UserError(f"--type {name}: no accelerator type; name one as in v5e-64, v4-128, v5p-64, v6e-16 "
                        "(--slices N for several slices)")
    return f"{_ALIASES.get(found[1], found[1])}-{found[2]}"


def default_version(kind: str) -> str:
    """Runtime software for an accelerator type. Raises UserError for one that is not known."""
    family = kind.partition("-")[0]
    if family not in _RUNTIMES:
        raise UserError(f"--type {kind}: name its software with --version; known without are {', '.join(_RUNTIMES)}")
    return _RUNTIMES[family]


def remembered(name: str) -> PodSpec | None:
    """The pod of that name that was created from this machine, if any."""
    file = _file(name)
    return build(PodSpec, json.loads(file.read_text()), str(file)) if file.exists() else None


def remember(spec: PodSpec) -> None:
    """Keeps the description, so that other commands need the name alone."""
    _file(spec.name).parent.mkdir(parents=True, exist_ok=True)
    _file(spec.name).write_text(json.dumps(plain(spec), indent=1) + "\n")


def forget(name: str) -> None:
    """The pod is gone."""
    _file(name).unlink(missing_ok=True)


def _file(name: str) -> pathlib.Path:
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", name):
        raise UserError(f"'{name}' is no name of a pod: small letters, digits and dashes, at most 52, a letter first")
    return pathlib.Path(os.environ.get(_FOLDER) or pathlib.Path.home() / ".easylm_pods") / f"{name}.json"


class TpuPod:
    """The pod that `spec` describes, there or not."""

    def __init__(self, spec: PodSpec, commands: Commands) -> None:
        self.spec, self._commands = spec, commands
        self._where = [f"--zone={spec.zone}", f"--project={spec.project}"]

    # ── the machines ──────────────────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> str:
        """ABSENT, the queued resource's own state, or LOST when one of its nodes is gone. Raises Failed."""
        found = self._describe("queued-resources", self.spec.name)
        if found is None:
            return "ABSENT"
        state = (found.get("state") or {}).get("state", "UNKNOWN")
        if state in _LOST_REQUEST or state != "ACTIVE":
            return state
        nodes = [self._describe("tpu-vm", node) for node in self.spec.nodes]
        lost = any(node is None or node.get("state") in _LOST_NODE for node in nodes)
        return "LOST" if lost else state if all(node.get("state") == "READY" for node in nodes) else "PREPARING"

    def create(self, patience: float = float("inf")) -> None:
        """Asks for the pod and waits until it is there; one that is lost, now or while it comes, is cleared away and
        asked for anew. Raises UserError when the cloud refuses, or nothing comes within `patience` looks."""
        remember(self.spec) if not self._commands.dry_run else None
        before, looks, asked = "", 0, False
        while (state := self.state()) != "ACTIVE":
            if before and state != before:
                self._commands.say(f"{self.spec.name}: {state}")
            if state == "FAILED" and asked:
                raise UserError(f"{self.spec.name}: the cloud answers {state} to the request ({self._reason()}); "
                                "try another --zone or --type, or ask again later")
            if state in (*_LOST_REQUEST, "LOST") and state not in _GOING:
                self.delete(keep_name=True)
                state = "ABSENT"
            if state == "ABSENT":
                self._commands.run(self._creation())
                asked = True
            if self._commands.dry_run:
                break
            before, looks = state, looks + 1
            if looks > patience:
                raise UserError(f"{self.spec.name}: still {state}; the same command goes on waiting")
            self._commands.sleep(2)
        self._commands.say(f"{self.spec.name}: {'would be there' if self._commands.dry_run else 'ACTIVE'}")

    def delete(self, keep_name: bool = False) -> None:
        """Gives the machines back and waits until nothing of them is left; nothing to delete is fine."""
        if self._commands.dry_run or self.state() != "ABSENT":
            self._commands.run(["gcloud", "compute", "tpus", "queued-resources", "delete", self.spec.name,
                                *self._where, "--force", "--quiet"])
            while not self._commands.dry_run and self.state() != "ABSENT":
                self._commands.sleep()
        if not keep_name and not self._commands.dry_run:
            forget(self.spec.name)
        self._commands.say(f"{self.spec.name}: {'would be gone' if self._commands.dry_run else 'gone'}")

    # ── what runs on them ─────────────────────────────────────────────────────────────────────────────────────────────

    def setup(self, commit: str, archive: pathlib.Path) -> None:
        """Brings the code of a commit and its environment to every host, and sees that all have the same."""
        folder = remote.folder(self.spec.name)
        self.everywhere(f"mkdir -p {folder}")
        self._copy(archive, f"{folder}/{commit}.tar.gz")
        self.everywhere(remote.setup(self.spec.name, commit), "the code, and its environment: some minutes")
        self.check_alike()

    def check_alike(self) -> None:
        """Raises UserError, naming the host, unless all have the same commit, Python and jax."""
        found = {host["host"]: host["versions"] for host in self._reports(remote.versions(self.spec.name))}
        if self._commands.dry_run or not found:
            return
        usual = max(found.values(), key=list(found.values()).count)
        for host, versions in found.items():
            if versions != usual:
                raise UserError(f"{self.spec.name}: {host} has {versions}, the others {usual}; `setup` mends that")
        self._commands.say(f"{self.spec.name}: {len(found)} hosts, all of {usual}")

    def attach(self, bucket: str | None, stages: dict[str, str]) -> None:
        """Mounts a bucket, and copies data from buckets ({name: gs://...}), on every host."""
        if bucket:
            self.everywhere(remote.mount(self.spec.name, bucket), f"{bucket} as ../bucket of the command")
        for name, source in stages.items():
            self.everywhere(remote.stage(self.spec.name, source, name), f"{source} as ../stage/{name} of the command")

    def at_work(self, command: Sequence[str], environment: dict[str, str]) -> bool:
        """Whether this command runs already, on some host. Raises UserError when another one does."""
        found = self._reports(remote.running(self.spec.name))
        own = hashlib.sha256(remote.job(self.spec.name, command, environment).encode()).hexdigest()[:16]
        if other := next((host for host in found if host["last"] != own), None):
            raise UserError(f"{self.spec.name}: another command runs on {other['host']} (or this one with another "
                            f"--env); `stop {self.spec.name}` has it save and end")
        if found:
            self._commands.say(f"{self.spec.name}: the command runs already, with the code of commit "
                               f"{found[0]['code']}")
        return bool(found)

    def start(self, command: Sequence[str], environment: dict[str, str], secrets: dict[str, str]) -> None:
        """Starts a command on all hosts, in the background; one that runs already goes on."""
        folder = remote.folder(self.spec.name)
        self.everywhere(f"mkdir -p {folder}")
        if secrets:
            with tempfile.TemporaryDirectory() as temporary:        # mode 0700
                file = pathlib.Path(temporary) / "secrets"
                file.write_text(remote.exports(secrets))
                file.chmod(0o600)
                self._copy(file, f"{folder}/secrets", f"the values of {', '.join(secrets)}")
        self.everywhere(remote.start(self.spec.name, command, environment), shown=False)

    def status(self) -> list[dict[str, str]]:
        """What each host says of its command: host, state (absent, running, ended), code, last (line of its log)."""
        return self._reports(remote.status(self.spec.name))

    def stop(self) -> None:
        """SIGTERM to the command on all hosts, of which training saves; waits for its end."""
        self.everywhere(remote.stop(self.spec.name))

    def log(self, start: int = 0) -> tuple[str, int]:
        """What the first host's log has from byte `start`, and where it ends."""
        text = self._ssh(self.spec.nodes[0], "0", remote.log(self.spec.name, start), question=True) or ""
        return text, start + len(text.encode("utf-8", "surrogateescape"))

    def everywhere(self, script: str, note: str = "", shown: bool = True) -> list[str]:
        """Runs a script on all hosts of all slices at once; what they say, by slice. Raises Failed."""
        if self._commands.dry_run or len(self.spec.nodes) == 1:
            return [self._ssh(node, "all", script, note=note, shown=shown) for node in self.spec.nodes]
        with concurrent.futures.ThreadPoolExecutor(len(self.spec.nodes)) as pool:
            return list(pool.map(lambda node: self._ssh(node, "all", script, note=note, shown=shown),
                                 self.spec.nodes))

    # ── gcloud ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _creation(self) -> list[str]:
        spec = self.spec
        nodes = [f"--node-id={spec.name}"] if spec.slices == 1 else [f"--node-count={spec.slices}",
                                                                     f"--node-prefix={spec.name}"]
        return ["gcloud", "compute", "tpus", "queued-resources", "create", spec.name, *self._where, *nodes,
                f"--accelerator-type={spec.type}", f"--runtime-version={spec.version}",
                *(["--spot"] if spec.spot else []), *(["--reserved"] if spec.reserved else []),
                *([f"--network={spec.network}"] if spec.network else []), "--quiet"]

    def _describe(self, kind: str, name: str) -> dict | None:
        said = self._commands.ask(["gcloud", "compute", "tpus", kind, "describe", name, *self._where, "--format=json"])
        try:
            return None if said is None else json.loads(said)
        except ValueError:
            raise Failed(f"gcloud describe {name}: answered no JSON ({said[:100]!r})", said) from None

    def _reason(self) -> str:
        found = self._describe("queued-resources", self.spec.name) or {}
        return json.dumps(found.get("state", {}))[:300]

    def _ssh(self, node: str, worker: str, script: str, note: str = "", shown: bool = True,
             question: bool = False) -> str:
        argv = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", node, *self._where, f"--worker={worker}",
                *(["--batch-size=all"] if worker == "all" else []), f"--command={script}", "--quiet"]
        if question:
            return self._commands.ask(argv) or ""
        return self._commands.run(argv, note, shown=shown)

    def _copy(self, file: pathlib.Path, to: str, note: str = "") -> None:
        for node in self.spec.nodes:
            self._commands.run(["gcloud", "compute", "tpus", "tpu-vm", "scp", str(file), f"{node}:{to}", *self._where,
                                "--worker=all", "--batch-size=all", "--quiet"], note)

    def _reports(self, script: str) -> list[dict[str, str]]:
        said = "\n".join(self.everywhere(script, shown=False))
        return [remote.read_report(line) for line in said.splitlines() if remote.REPORT in line]
