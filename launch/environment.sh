# Sourced by the launch scripts: makes .venv in the checkout if it is absent or stale, with the extras named in $EXTRAS.
# The stamp file names each set of extras that was installed, with a checksum of what decided their versions; a changed
# setup.py or constraints.txt makes all of them stale, even when it is changed back.
python=${PYTHON:-python3}
"$python" - <<'PY' || { echo "error: $python is too old: easylm_imitation needs Python 3.11 or later; set PYTHON=/path/to/python3.11" >&2; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
PY
stamp=.venv/.installed
sum=$(cat setup.py constraints.txt | cksum)
if [ ! -x .venv/bin/python ] || ! grep -qxF "$EXTRAS $sum" "$stamp" 2>/dev/null; then
  echo "Installing easylm_imitation[$EXTRAS] into .venv: some minutes the first time; the log is .venv/install.log ..." >&2
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  valid=$(grep -F " $sum" "$stamp" 2>/dev/null || true)
  rm -f "$stamp"      # an installation that breaks off leaves nobody knows what
  log=.venv/install.log
  { .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel -c constraints.txt &&
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$EXTRAS]"
  } >"$log" 2>&1 || { cat "$log" >&2; echo "error: the installation failed; the lines above say why, the same command tries again" >&2; exit 2; }
  printf '%s\n' ${valid:+"$valid"} "$EXTRAS $sum" > "$stamp"
fi
