#!/usr/bin/env bash
# A TPU pod of Google Cloud: check, create, setup, run, up (all of them, and again after a preemption), logs, status, stop, delete.
# Usage: bash launch/tpu_pod.sh up NAME --type v5e-64 --spot -- easylm-imitation train ...      (docs/pods.md; --help)
set -euo pipefail
PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -P -m easylm_imitation.pods tpu "$@"
