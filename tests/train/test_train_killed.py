"""The verb in a process of its own, ended from outside at a moment of nobody's choosing."""
import json
import random
import signal
import subprocess
import sys

import pytest
from train_helpers import ROOT, lines_logged, tiny_config, wait_for, write_config

from easylm_imitation.train import read_metrics, train
from easylm_imitation.weights import RunDir

_LONG = tiny_config(steps=60, checkpoint_every=7)


def _start(data, workdir) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "easylm_imitation", "train", "--config", write_config(workdir.parent, _LONG),
         "--data", data, "--workdir", workdir, "--json", "--quiet"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sigterm_saves_at_the_very_update_and_exits_zero(data, tmp_path):
    workdir = tmp_path / "run"
    process = _start(data, workdir)
    wait_for(process, lambda: lines_logged(workdir) >= 10)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    result = json.loads(out.splitlines()[-1])
    assert result["interrupted"]
    assert 10 <= result["step"] < 60
    assert RunDir(workdir).steps()[-1] == result["step"] == read_metrics(RunDir(workdir).metrics)[-1]["step"]
    assert RunDir(workdir).read_lineage().step == result["step"]


@pytest.mark.slow
def test_kill_nine_at_random_updates_changes_no_bit(data, tmp_path):
    train(_LONG, data_dir=data, workdir=tmp_path / "whole")
    workdir = tmp_path / "run"
    killed = sorted(random.SystemRandom().sample(range(1, 58), 3))
    print(f"killed at lines {killed}")
    for lines in killed:
        process = _start(data, workdir)
        wait_for(process, lambda lines=lines: lines_logged(workdir) >= lines)
        process.kill()
        process.communicate()
        assert RunDir(workdir).read_lineage().step == (RunDir(workdir).steps() or [0])[-1]
    process = _start(data, workdir)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err     # a kill while an old checkpoint was being deleted leaves Orbax a warning
    clock = ("seconds", "tokens_per_second")
    whole, pieces = ([{k: v for k, v in line.items() if k not in clock} for line in read_metrics(RunDir(run).metrics)]
                     for run in (tmp_path / "whole", workdir))
    assert [line["step"] for line in pieces] == list(range(1, 61))
    assert pieces == whole
