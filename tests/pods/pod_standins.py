"""A stand-in for `gcloud`: it keeps a state as the cloud does (waiting, active, preempted), fails now and then, and
runs what is sent to hosts for real, each host being a home folder. All calls are noted."""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
_GCLOUD = '''#!%(python)s
import fcntl, json, os, pathlib, re, shutil, signal, subprocess, sys
CLOUD = pathlib.Path(os.environ["CLOUD"])
argv = sys.argv[1:]
flags = dict(w[2:].partition("=")[::2] for w in argv if w.startswith("--"))
words = [w for w in argv if not w.startswith("--")]

def fail(text):
    print("ERROR: (gcloud) " + text, file=sys.stderr)
    sys.exit(1)

def locked():
    lock = open(CLOUD / "lock", "a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock

def state(change=lambda all: None):
    with locked():
        file = CLOUD / "state.json"
        all = json.loads(file.read_text()) if file.exists() else {}
        change(all)
        file.write_text(json.dumps(all))
        return all

def hosts(node):
    return [CLOUD / "hosts" / f"{node}-{i}" for i in range(2)]

def gone(nodes):
    for host in (h for n in nodes for h in hosts(n)):
        for pid in host.glob(".easylm_pod/*/pid"):
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(host, ignore_errors=True)

with locked():
    with open(CLOUD / "calls", "a") as calls:
        calls.write(json.dumps(argv) + "\\n")
    number = len((CLOUD / "calls").read_text().splitlines())
if (CLOUD / "hangs").exists() and words[3:4] == ["describe"]:
    (CLOUD / "hangs").unlink()
    subprocess.run(["sleep", "100"])        # holds on to the pipes, as ssh would
if (CLOUD / "flaky").exists() and number %% int((CLOUD / "flaky").read_text()) == 0:
    fail("UNAVAILABLE: the service is currently unavailable")
if (CLOUD / "preempt").exists():
    (CLOUD / "preempt").unlink()
    def take(all):
        for made in all.values():
            made["state"] = "SUSPENDED"
            gone(made["nodes"])
    state(take)

if words[:3] == ["compute", "tpus", "queued-resources"]:
    name = words[4]
    if words[3] == "create":
        nodes = [flags["node-id"]] if "node-id" in flags else [
            f"{flags['node-prefix']}-{i}" for i in range(int(flags["node-count"]))]
        if name in state():
            fail("ALREADY_EXISTS: " + name)
        for host in (h for n in nodes for h in hosts(n)):
            host.mkdir(parents=True)
        first = "FAILED" if (CLOUD / "refuse").exists() else "WAITING_FOR_RESOURCES"
        state(lambda all: all.update({name: {"state": first, "nodes": nodes}}))
    elif name not in state():
        fail("NOT_FOUND: " + name)
    elif words[3] == "delete":
        if state()[name]["state"] == "SUSPENDING":
            fail("FAILED_PRECONDITION: " + name)
        gone(state()[name]["nodes"])
        state(lambda all: all.pop(name))
    else:
        print(json.dumps({"name": name, "state": {"state": state()[name]["state"]}}))
        after = {"WAITING_FOR_RESOURCES": "PROVISIONING", "PROVISIONING": "ACTIVE", "SUSPENDING": "SUSPENDED"}
        if state()[name]["state"] == "WAITING_FOR_RESOURCES" and (CLOUD / "take_early").exists():
            (CLOUD / "take_early").unlink()
            after["WAITING_FOR_RESOURCES"] = "SUSPENDING"
        state(lambda all: all[name].update(state=after.get(all[name]["state"], all[name]["state"])))
elif words[:3] == ["compute", "tpus", "tpu-vm"] and words[3] == "describe":
    owner = [made for made in state().values() if words[4] in made["nodes"]]
    if not owner:
        fail("NOT_FOUND: " + words[4])
    print(json.dumps({"state": "READY" if owner[0]["state"] == "ACTIVE" else "PREEMPTED"}))
elif words[:4] == ["compute", "tpus", "tpu-vm", "ssh"]:
    here = hosts(words[4]) if flags["worker"] == "all" else [hosts(words[4])[int(flags["worker"])]]
    if not here[0].exists():
        fail("NOT_FOUND: " + words[4])
    code = 0
    for host in here:
        env = {"HOME": str(host), "PATH": f"{CLOUD}/host_bin:/usr/bin:/bin", "HOST": host.name, "CLOUD": str(CLOUD)}
        code |= subprocess.run(["bash", "-c", flags["command"]], cwd=host, env=env).returncode
    sys.exit(code)
elif words[:4] == ["compute", "tpus", "tpu-vm", "scp"]:
    node, _, to = words[5].partition(":")
    for host in hosts(node):
        shutil.copy(words[4], host / to)
elif words[:4] == ["compute", "tpus", "tpu-vm", "versions"] or words[2:3] == ["accelerator-types"]:
    wanted = words[5 if words[2] == "tpu-vm" else 4]
    if "nothing" in wanted or wanted.endswith("-3"):
        fail("NOT_FOUND: " + wanted)
    print(json.dumps({"name": wanted}))
elif words[:2] == ["auth", "list"]:
    print("somebody@example.org" if not (CLOUD / "nobody").exists() else "")
elif words[:2] == ["services", "list"]:
    print("tpu.googleapis.com" if not (CLOUD / "no_api").exists() else "")
elif words[:2] == ["config", "get-value"]:
    print({"project": "a-project", "compute/zone": "us-west4-a"}[words[2]])
elif words[:2] in (["auth", "login"], ["config", "set"], ["services", "enable"]):
    print("done")
elif words[:4] == ["beta", "quotas", "info", "list"]:
    print(json.dumps([{"quotaId": f"TPUV5s{kind}LitepodPerProjectPerZoneForTPUAPI", "dimensionsInfos": [
        {"applicableLocations": ["us-west4-a"], "details": {"value": value}}]}
        for kind, value in (("", "16"), ("Preemptible", "128"))]))
elif words[0] == "storage":
    place = lambda uri: CLOUD / uri.replace("gs://", "buckets/")
    if words[1:3] == ["buckets", "create"]:
        place(words[3]).mkdir(parents=True)
    elif words[1] == "cp" and "recursive" in flags:
        shutil.copytree(words[2], place(words[3]))
    elif words[1] == "cp":
        if not place(words[3]).parent.exists():
            fail("PERMISSION_DENIED: somebody@example.org has no storage.objects.create")
        shutil.copy(words[2], place(words[3]))
    elif words[1] == "rsync":
        shutil.copytree(place(words[2]), words[3], dirs_exist_ok=True)
    elif words[1] == "cat":
        print(place(words[2]).read_text())
    elif words[1] == "rm":
        place(words[2]).unlink()
else:
    fail("Invalid choice: " + " ".join(words))
'''
_PYTHON = '''#!/usr/bin/env bash
case "${1:-} ${2:-}" in
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip") ;;
  *) exec %(python)s "$@" ;;
esac
'''


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Cloud:
    """The stand-in's folder, a checkout, and the scripts run against them."""

    def __init__(self, folder):
        self.folder, self.checkout = folder / "cloud", folder / "check out"
        (self.folder / "buckets/mine").mkdir(parents=True)
        executable(folder / "bin/gcloud", _GCLOUD % {"python": sys.executable})
        executable(self.folder / "host_bin/python3.13", _PYTHON % {"python": sys.executable})
        executable(self.folder / "host_bin/hostname", '#!/usr/bin/env bash\necho "$HOST"\n')
        executable(self.folder / "host_bin/mountpoint", '#!/usr/bin/env bash\n[ -L "$2" ]\n')
        executable(self.folder / "host_bin/gcsfuse",
                   '#!/usr/bin/env bash\nset -e\nrmdir "${@: -1}"\nln -s "$CLOUD/buckets/${@: -2:1}" "${@: -1}"\n')
        executable(self.folder / "host_bin/gcloud", f'#!/usr/bin/env bash\nexec "{folder}/bin/gcloud" "$@"\n')
        self.environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "CLOUD": str(self.folder),
                            "EASYLM_POD_PAUSE": "0.02", "EASYLM_PODS": str(folder / "pods"), "PYTHON": sys.executable,
                            "LANG": "C.UTF-8"}
        tracked = ["launch", "setup.py", "constraints.txt", "easylm_imitation/__init__.py",
                   "easylm_imitation/schema.py", "easylm_imitation/pods"]
        self.checkout.mkdir()
        for name in tracked:
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", str(ROOT / name), str(self.checkout / name)], check=True)
        (self.checkout / ".gitignore").write_text("__pycache__/\n.venv/\n")
        self.commit("first")

    def commit(self, message):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "--allow-empty", "-m", message]):
            subprocess.run(["git", "-C", str(self.checkout), *words], check=True)

    def run(self, *words, script="tpu_pod.sh", timeout=120, **environment):
        """(exit code, stdout, stderr)."""
        done = subprocess.run(["bash", str(self.checkout / "launch" / script), *words], capture_output=True, text=True,
                              env=self.environment | environment, timeout=timeout, check=False, cwd=self.checkout)
        return done.returncode, done.stdout, done.stderr

    @property
    def calls(self):
        """All calls of gcloud so far."""
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def count(self, *words):
        """How many calls begin with these words."""
        return sum(call[:len(words)] == list(words) for call in self.calls)

    def host(self, node, index=0):
        return self.folder / "hosts" / f"{node}-{index}"
