#!/usr/bin/env bash
# Runs the tests in the checkout's own environment, which it makes when absent. Usage: bash launch/test.sh [--slow] [pytest arguments]
# Files are spread over processes, one a core, at most four; `-n 0` runs all in one.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=serve,eval,test
source launch/environment.sh
choose=(-m "not slow and not gpu" --timeout 900)     # seconds that a test may take: one that hangs fails, and is named
if [ "${1:-}" = "--slow" ]; then shift; choose=(-m "not gpu" --timeout 3600); source launch/llama_cpp.sh; fi
# The TPU's compiler stands beside the environment, for tests alone: within it, jax would look for a TPU at every start.
tpu=.venv/tpu
compiler=$(grep -o 'libtpu==[0-9.]*' setup.py)
if [ "$(uname -sm)" = "Linux x86_64" ] && ! grep -qxF "$compiler" $tpu/.installed 2>/dev/null; then
  mkdir -p $tpu
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $tpu -c constraints.txt \
    "$compiler" >.venv/tpu.log 2>&1 && echo "$compiler" >$tpu/.installed ||
    echo "$compiler could not be installed (.venv/tpu.log): tests that compile for TPUs are skipped" >&2
fi
export JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/$tpu${PYTHONPATH:+:$PYTHONPATH}"
.venv/bin/ruff check .
spread=(-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
exec .venv/bin/python -m pytest "${choose[@]}" "${spread[@]}" "$@"
