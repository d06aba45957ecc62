"""Every command of docs/pods.md, line by line in its order, against the stand-ins."""
import pathlib
import re
import shlex
import subprocess

import pytest
from pod_standins import executable

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/pods.md"
SLURM = '#!/usr/bin/env bash\n[ "$(basename "$0")" != sbatch ] || echo 4711\n'


def lines():
    """The commands of the page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_page_has_all_actions_of_the_scripts():
    from easylm_imitation.pods import main
    text = "\n".join(lines())
    assert all(f"tpu_pod.sh {action} " in text for action in main._TPU)
    assert {"submit", "status", "stop"} <= set(re.findall(r"slurm.sh (\w+)", text))
    assert "local_pod.sh" in text


@pytest.mark.slow
def test_every_command_of_the_page_runs(cloud):
    note = '#!/usr/bin/env bash\nprintf "%q " "$@" >> "$CLOUD/verbs"; echo >> "$CLOUD/verbs"\n'
    for place in (cloud.folder.parent / "bin", cloud.folder / "host_bin"):
        executable(place / "easylm-imitation", note)
    for name in ("sbatch", "squeue", "scancel"):
        executable(cloud.folder.parent / "bin" / name, SLURM)
    executable(cloud.checkout / ".venv/bin/python", "")
    (cloud.checkout / ".gitignore").write_text("__pycache__/\n.venv/\nDATA/\nruns/\n")
    cloud.commit("second")
    (cloud.checkout / "DATA").mkdir()
    (cloud.checkout / "DATA/shard").write_text("tokens")
    for line in lines():
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300, check=False,
                              env=cloud.environment, cwd=cloud.checkout)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        name = shlex.split(line)
        if name[1:4] == ["launch/tpu_pod.sh", "up", "run1"] and "--dry-run" not in name:
            assert (cloud.host("run1", 1) / ".easylm_pod/run1/stage/data/shard").read_text() == "tokens"
    verbs = (cloud.folder / "verbs").read_text()
    assert verbs.count("train --config configs/train/base.py:llama-7b --data ../stage/data --workdir ") == 2
    assert verbs.count("--mesh replica:2\\,fsdp:-1") == 4
    assert (cloud.folder / "state.json").read_text() == "{}"        # nothing is left that costs
