#!/usr/bin/env bash
# N real processes with M CPU devices each as one pod on this machine, to try out what a pod will do.
# Usage: bash launch/local_pod.sh N M [--restarts R] -- easylm-imitation train ...      (docs/pods.md; --help)
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
[ -x "$root/.venv/bin/python" ] && PATH="$root/.venv/bin:$PATH"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -P -m easylm_imitation.pods local "$@"
