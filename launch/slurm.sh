#!/usr/bin/env bash
# A job on a GPU cluster under Slurm: submit, status, logs, stop.
# Usage: bash launch/slurm.sh submit NAME --nodes 2 --gpus 8 -- easylm-imitation train ...      (docs/pods.md; --help)
set -euo pipefail
PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -P -m easylm_imitation.pods slurm "$@"
