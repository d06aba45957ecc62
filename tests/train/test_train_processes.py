"""Two processes of four devices train as one process of eight, and stop together."""
import json
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from train_helpers import ROOT, history, lines_logged, tiny_config, wait_for, write_config

from easylm_imitation.train import read_metrics, train
from easylm_imitation.weights import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

GLOO = re.compile(r"(\[Gloo\]|Rank|\d+|is|connected|to|peer|ranks\.?|Expected|number|of|:|\s)*")


def _pod(config, data, workdir) -> list[subprocess.Popen]:
    """Two processes of one run on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    return [subprocess.Popen(
        [sys.executable, "-m", "easylm_imitation", "train", "--config", write_config(workdir.parent, config),
         "--data", data, "--workdir", workdir, "--json", "--quiet"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2",
             "JAX_PROCESS_ID": str(index)}) for index in range(2)]


def _finish(processes: list[subprocess.Popen]) -> list[dict]:
    ended = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    # the first alone talks; jax's own runtime writes to stderr at a SIGTERM, and its collectives to stdout, a sentence
    # of several threads at once
    assert [line for line in ended[1][0].splitlines() if not GLOO.fullmatch(line)] == []
    return json.loads(ended[0][0].splitlines()[-1])


def test_two_processes_equal_one_and_stop_together(data, tmp_path):
    config = tiny_config(steps=40, checkpoint_every=10, mesh="data:2,fsdp:4")
    train(config, data_dir=data, workdir=tmp_path / "one")
    workdir = tmp_path / "two"

    processes = _pod(config, data, workdir)
    wait_for(processes[0], lambda: lines_logged(workdir) >= 8)
    processes[1].send_signal(signal.SIGTERM)                # a notice to one is a notice to all
    result = _finish(processes)
    assert result["interrupted"]
    assert result["step"] == RunDir(workdir).steps()[-1] < 40

    assert _finish(_pod(config, data, workdir))["step"] == 40
    one, two = (read_metrics(RunDir(tmp_path / name).metrics) for name in ("one", "two"))
    assert [line["tokens"] for line in one] == [line["tokens"] for line in two]     # the same batches
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], rtol=1e-4)


def test_ctrl_c_to_one_stops_both_and_damage_that_one_sees_makes_both_fall_back(data, tmp_path):
    config = tiny_config(steps=40, checkpoint_every=3, mesh="data:2,fsdp:4")
    workdir = tmp_path / "two"
    processes = _pod(config, data, workdir)
    wait_for(processes[0], lambda: lines_logged(workdir) >= 8)
    processes[0].send_signal(signal.SIGINT)
    result = _finish(processes)
    assert result["interrupted"]
    before, newest = RunDir(workdir).steps()[-2:]
    assert newest == result["step"]
    kept = history(workdir)

    (numbers,) = (RunDir(workdir).checkpoints / str(newest)).glob("optimizer/ocdbt.process_1/d/*")
    os.truncate(numbers, numbers.stat().st_size // 2)
    assert _finish(_pod(config, data, workdir))["step"] == 40
    assert (RunDir(workdir).checkpoints / f"{newest}.damaged").is_dir()
    assert before < newest
    assert history(workdir)[:newest] == kept
