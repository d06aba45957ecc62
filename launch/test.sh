#!/usr/bin/env bash
# Runs the tests in the checkout's own environment, which it makes when absent. Usage: bash launch/test.sh [--slow] [pytest arguments]
# Files are spread over processes, one a core, at most four; `-n 0` runs all in one.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=serve,eval,test
source launch/environment.sh
choose=(-m "not slow and not gpu")
if [ "${1:-}" = "--slow" ]; then shift; choose=(-m "not gpu"); source launch/llama_cpp.sh; fi
export JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1
.venv/bin/ruff check .
spread=(-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
exec .venv/bin/python -m pytest "${choose[@]}" "${spread[@]}" "$@"
