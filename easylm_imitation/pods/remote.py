"""What is run on the hosts of a pod: bash, composed here so that any space or quote in an argument survives.

A pod's folder on a host, ~/.easylm_pod/NAME, holds COMMIT.tar.gz, code/ (the checkout), commit, job (the command), log,
pid (of the job's process group), exit_code, secrets, bucket/ (a mounted bucket), stage/ (copies of data). The job runs
in code/, so it names them ../bucket and ../stage.
"""
import json
import shlex
from collections.abc import Mapping, Sequence

REPORT = "easylm-pod-report "


def folder(name: str) -> str:
    """Relative to the home of whoever logs in there."""
    return f".easylm_pod/{name}"


def exports(variables: Mapping[str, str]) -> str:
    """Lines that set environment variables."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def setup(name: str, commit: str) -> str:
    """Unpacks a commit and makes its environment, unless that is done; finds or fetches a Python of 3.11 or later."""
    return f"""set -eu
cd {folder(name)}
[ "$(cat commit 2>/dev/null)" = {commit} ] && exit 0
rm -rf code.new && mkdir code.new && tar -xzf {commit}.tar.gz -C code.new
[ -d code/.venv ] && mv code/.venv code.new/.venv
rm -rf code && mv code.new code && cd code
new='import sys; sys.exit(sys.version_info < (3, 11))'
for PYTHON in "${{PYTHON:-}}" python3.13 python3.12 python3.11 python3; do
  [ -n "$PYTHON" ] && command -v "$PYTHON" >/dev/null && "$PYTHON" -c "$new" && break
  PYTHON=
done
if [ -z "$PYTHON" ]; then
  python3 -m pip install --quiet --user uv && python3 -m uv python install --quiet 3.12
  PYTHON=$(python3 -m uv python find 3.12)
fi
export PYTHON
EXTRAS=tpu bash -c 'set -euo pipefail; source launch/environment.sh'
echo {commit} > ../commit
"""


def mount(name: str, bucket: str) -> str:
    """Mounts a bucket as bucket/ by gcsfuse, which is installed where it is absent, and sees that it can be written."""
    repository = "https://packages.cloud.google.com/apt"
    return f"""set -eu
cd {folder(name)}
if ! command -v gcsfuse >/dev/null; then
  curl -fsS {repository}/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
  echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] {repository} gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq && sudo apt-get install -qq -y gcsfuse
fi
mkdir -p bucket
mountpoint -q bucket || gcsfuse --implicit-dirs --rename-dir-limit=1000000 {shlex.quote(bucket.removeprefix("gs://"))} \
  "$PWD/bucket" >/dev/null
probe="bucket/.easylm-probe-$(hostname)"
echo here >"$probe" && rm "$probe"
"""


def stage(name: str, source: str, to: str) -> str:
    """Copies what a bucket has under `source` to stage/`to`; what is there already is not copied again."""
    return f"""set -eu
cd {folder(name)}
mkdir -p stage/{shlex.quote(to)}
gcloud storage rsync --recursive --quiet {shlex.quote(source)} stage/{shlex.quote(to)} >stage.log 2>&1 ||
  {{ cat stage.log >&2; exit 1; }}
"""


def versions(name: str) -> str:
    """Reports the commit and the versions that decide whether hosts can work together."""
    look = ("import importlib.metadata as m, platform; print(platform.python_version(), *(f'{p} {m.version(p)}' "
            "for p in ('jax', 'jaxlib')))")
    return f"""cd {folder(name)}
echo {shlex.quote(REPORT)}"$(hostname)" "commit $(cut -c1-12 commit 2>/dev/null || echo none), Python \
$(code/.venv/bin/python -c {shlex.quote(look)} 2>/dev/null || echo absent)"
"""


def job(name: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The script of a command."""
    # exec: a SIGTERM to the group must not end a shell around the command before the command has saved
    return f"""cd ~/{folder(name)}/code
[ -f ../secrets ] && . ../secrets
{exports(environment)}export PATH="$PWD/.venv/bin:$PATH"
exec {shlex.join(command)}
"""


def running(name: str) -> str:
    """Reports, where a job runs: running, its commit, and a hash of its script."""
    return f"""cd {folder(name)} 2>/dev/null || exit 0
[ -f pid ] && [ ! -f exit_code ] && kill -0 "$(cat pid)" 2>/dev/null || exit 0
echo {shlex.quote(REPORT)}"$(hostname)" running "$(cut -c1-12 commit)" "$(sha256sum <job | cut -c1-16)"
"""


def start(name: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Starts a job in a session of its own, which outlives the login; does nothing while one runs."""
    whole = f"trap : TERM; cd ~/{folder(name)}; bash job >log 2>&1; echo $? >exit_new; mv exit_new exit_code"
    return f"""set -eu
cd {folder(name)}
[ -f pid ] && [ ! -f exit_code ] && kill -0 "$(cat pid)" 2>/dev/null && exit 0
printf %s {shlex.quote(job(name, command, environment))} >job
rm -f exit_code
[ -f log ] && mv log log.before
: >log
setsid nohup bash -c {shlex.quote(whole)} >/dev/null 2>&1 </dev/null &
echo $! >pid
"""


def status(name: str) -> str:
    """Reports whether the job is absent, running or ended, its exit code, and the last line of its log."""
    return f"""cd {folder(name)} 2>/dev/null || cd /
state=absent code=
if [ -f exit_code ]; then state=ended code=$(cat exit_code)
elif [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; then state=running
elif [ -f pid ]; then state=ended code=137; fi
echo {shlex.quote(REPORT)}"$(hostname)" "$state" "${{code:--}}" "$(tail -n 1 log 2>/dev/null | cut -c1-300)"
"""


def stop(name: str) -> str:
    """SIGTERM to all of the job; after five minutes SIGKILL."""
    return f"""cd {folder(name)} 2>/dev/null || exit 0
[ -f pid ] && [ ! -f exit_code ] || exit 0
own=$(cat pid)
kill -TERM -- "-$own" 2>/dev/null || exit 0
for _ in $(seq 600); do
  if [ -f exit_code ] || ! kill -0 -- "-$own" 2>/dev/null; then exit 0; fi
  sleep 0.5
done
kill -KILL -- "-$own" 2>/dev/null || true
"""


def log(name: str, start: int) -> str:
    """The log from a byte on."""
    return f"tail -c +{start + 1} {folder(name)}/log 2>/dev/null || true"


def read_report(line: str) -> dict[str, str]:
    """The words of a report's line, of `status` or `versions`."""
    words = line[line.index(REPORT) + len(REPORT):].split(" ", 3)
    words += [""] * (4 - len(words))
    return {"host": words[0], "state": words[1], "code": words[2], "last": words[3],
            "versions": " ".join(words[1:]).strip()}


def shown(report: Mapping[str, str]) -> str:
    """A status in a line."""
    code = f" (exit code {report['code']})" if report["state"] == "ended" else ""
    return f"{report['host']}: {report['state']}{code} {json.dumps(report['last']) if report['last'] else ''}".strip()
