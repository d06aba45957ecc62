"""The verb in a process of its own, ended from outside at a moment of nobody's choosing."""
import contextlib
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from train_helpers import ROOT, history, lines_logged, tiny_config, wait_for, weights, write_config

from easylm_imitation.data import LoaderConfig
from easylm_imitation.train import TrainConfig, read_metrics, train
from easylm_imitation.weights import RunDir

_LONG = tiny_config(steps=60, checkpoint_every=7)
# 150 MB of weights and optimizer, saved after every update: a save that lasts long enough to be hit
_HEAVY = tiny_config(steps=40, checkpoint_every=1, model={"preset": "llama-debug", "d_ff": 2**16},
                     data=LoaderConfig(context=64, batch=8))


def _start(data, workdir, config: TrainConfig = _LONG) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "easylm_imitation", "train", "--config", write_config(workdir.parent, config),
         "--data", data, "--workdir", workdir, "--json", "--quiet"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _saving(workdir, since: float = 0.0) -> bool:
    """Whether a checkpoint is being written, or was when the process ended; begun after `since`."""
    def begun(path) -> float:
        with contextlib.suppress(FileNotFoundError):        # just renamed
            return path.stat().st_mtime
        return -1.0
    folder = RunDir(workdir).checkpoints
    return any(begun(path) >= since for path in folder.glob("*.orbax-checkpoint-tmp"))


def _result(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=900)
    assert (process.returncode, err) == (0, "")
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("number", [
    signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_at_the_very_update_and_exits_zero(data, tmp_path, number):
    workdir = tmp_path / "run"
    process = _start(data, workdir)
    wait_for(process, lambda: lines_logged(workdir) >= 10)
    process.send_signal(number)
    result = _result(process)
    assert result["interrupted"]
    assert 10 <= result["step"] < 60
    assert RunDir(workdir).steps()[-1] == result["step"] == read_metrics(RunDir(workdir).metrics)[-1]["step"]
    assert RunDir(workdir).read_lineage().step == result["step"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [
    signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_during_a_save_loses_neither_that_save_nor_the_last_update(data, tmp_path, number):
    workdir = tmp_path / "run"
    process = _start(data, workdir, _HEAVY)
    wait_for(process, lambda: lines_logged(workdir) >= 2 and _saving(workdir))
    process.send_signal(number)
    result = _result(process)
    assert result["interrupted"]
    assert RunDir(workdir).steps()[-1] == result["step"] == read_metrics(RunDir(workdir).metrics)[-1]["step"] < 40
    assert not _saving(workdir)


@pytest.mark.slow
def test_a_second_ctrl_c_waits_for_nothing_and_leaves_a_run_that_goes_on(data, tmp_path):
    workdir = tmp_path / "run"
    process = _start(data, workdir, _HEAVY)
    wait_for(process, lambda: lines_logged(workdir) >= 4 and _saving(workdir))
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)                         # two at once would be one
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "error: interrupted; what was saved is kept, the same command continues "
                                              "from the newest checkpoint\n")
    saved = RunDir(workdir).steps()[-1]
    process = _start(data, workdir, _HEAVY)
    wait_for(process, lambda: RunDir(workdir).steps()[-1] > saved + 1)
    process.send_signal(signal.SIGTERM)
    assert _result(process)["step"] > saved
    assert not _saving(workdir)             # what the first attempt left half-written is gone


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_bit(data, tmp_path):
    config = tiny_config(steps=60, checkpoint_every=2)
    train(config, data_dir=data, workdir=tmp_path / "whole")
    workdir, during = tmp_path / "run", 0
    for number, lines in enumerate(sorted(random.SystemRandom().sample(range(1, 58), 20))):
        started, process = time.time(), _start(data, workdir, config)
        wait_for(process, lambda lines=lines: lines_logged(workdir) >= lines)
        if number % 2:
            wait_for(process, lambda started=started: _saving(workdir, started))
        process.kill()
        process.communicate()
        during += _saving(workdir, since=started)
        print(f"killed after {lines_logged(workdir)} lines, {'in' if _saving(workdir, started) else 'not in'} a save")
        assert RunDir(workdir).read_lineage().step == (RunDir(workdir).steps() or [0])[-1]
    assert during >= 5, "too few of the kills fell into a save"
    process = _start(data, workdir, config)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err     # a kill while an old checkpoint was being deleted leaves Orbax a warning
    assert [line["step"] for line in history(workdir)] == list(range(1, 61))
    assert history(workdir) == history(tmp_path / "whole")
    for ours, theirs in zip(weights(workdir), weights(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not _saving(workdir)
