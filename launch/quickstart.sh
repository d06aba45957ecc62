#!/usr/bin/env bash
# The main job, end to end, on the embedded world: makes .venv when absent, runs `reproduce --quick`, says what to try next.
# Usage: bash launch/quickstart.sh [flags of `easylm-imitation reproduce`]
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=serve,eval
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then EXTRAS+=,cuda
elif compgen -G "/dev/accel*" >/dev/null || compgen -G "/dev/vfio/[0-9]*" >/dev/null; then EXTRAS+=,tpu; fi
source launch/environment.sh
work=runs/reproduce before=
for word in "$@"; do        # where the flags say that the work goes
  case "$before $word" in "--workdir "*) work=$word ;; *" --workdir="*) work=${word#--workdir=} ;; esac
  before=$word
done
work=$(printf %q "$work")
.venv/bin/easylm-imitation reproduce --quick "$@"
cat <<NEXT

Enter the environment:   source .venv/bin/activate
Then try:
  easylm-imitation serve --model $work/imitation --port 8000      serve what you just trained (OpenAI-compatible)
  easylm-imitation evaluate --model $work/imitation --tasks $work/world/tasks/world_heldout_chat.yaml --prompt chat --out runs/again.json
  easylm-imitation build --help                                            then collect, train: your own data; see docs/
NEXT
