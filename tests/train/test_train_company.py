"""Processes of one run that come late, die, freeze, fail or differ: the others name them and end, and a restart, with
as many processes or not, goes on to the same curve."""
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from train_helpers import ROOT, lines_logged, tiny_config, wait_for, write_config

from easylm_imitation.data import LoaderConfig
from easylm_imitation.train import read_metrics
from easylm_imitation.weights import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]
SIX = LoaderConfig(context=64, batch=6)
LIMIT = 60      # seconds in which all others have to be gone: the promise, far above what it takes
START = 20      # seconds that those who have come wait for the others, where one is killed as they start


def start(config, data, workdir, processes, devices, absent=(), own=None, **environment):
    """Processes of one run on loopback, but for those of `absent`; `own`: {process: further flags}."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    logs = workdir.parent / "logs"
    logs.mkdir(exist_ok=True)
    running = {}
    for index in set(range(processes)) - set(absent):
        with open(logs / str(index), "w") as log:
            running[index] = subprocess.Popen(
                [sys.executable, "-m", "easylm_imitation", "train", "--config", config, "--data", data, "--workdir",
                 workdir, *(own or {}).get(index, ())], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log,
                env={**os.environ, "XLA_FLAGS": flags, "JAX_COORDINATOR_ADDRESS": address,
                     "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(index), "EASYLM_START_TIMEOUT": "300",
                     **environment})
    return running


def ended(running, workdir, without=(), patience=LIMIT):
    """(exit codes, what each said) once all but `without` are gone; killed when they take longer than the promise.
    `patience`: more than that where they have to start first, on a machine that may be crowded."""
    until = time.monotonic() + patience
    try:
        codes = {i: process.wait(max(until - time.monotonic(), 0.1)) for i, process in running.items()
                 if i not in without}
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return codes, {i: (workdir.parent / "logs" / str(i)).read_text() for i in codes}


def finished(running, workdir):
    """Waits for a good end of all."""
    codes = [process.wait(600) for process in running.values()]
    assert not any(codes), {i: (workdir.parent / "logs" / str(i)).read_text()[-2000:] for i in running}


@pytest.mark.parametrize("absent", [2, 0])
def test_a_process_that_does_not_come_is_named(data, tmp_path, absent):
    config = write_config(tmp_path, tiny_config())
    running = start(config, data, tmp_path / "run", 3, 1, absent=[absent], EASYLM_START_TIMEOUT="30")
    codes, said = ended(running, tmp_path / "run", patience=300)
    assert set(codes.values()) == {1}
    for text in said.values():
        assert re.search(rf"process {absent}\b.* has not come within 30 seconds", text), text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("flags", "words"), [
    (["--config.optimizer.learning_rate=0.5"], "process 1 .* has config.optimizer.learning_rate 0.5, but .* 0.01"),
    (["--config", "nowhere.py"], "process 1 .*nowhere.py")])
def test_a_process_that_differs_or_fails_is_named_before_anything_is_written(data, tmp_path, flags, words):
    config = write_config(tmp_path, tiny_config(mesh="data:3", data=SIX))
    running = start(config, data, tmp_path / "run", 3, 1, own={1: flags})
    codes, said = ended(running, tmp_path / "run", patience=300)
    assert set(codes.values()) == {2}
    for index in (0, 2):
        assert re.search(words, said[index].replace("\n", " ")), said[index]
    assert not (tmp_path / "run").exists()


def test_a_process_of_other_data_is_named(data, tmp_path):
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", str(data), str(other)], check=True)
    shard = next(other.rglob("*.array_record*"))
    shard.write_bytes(shard.read_bytes() + b"\0")
    config = write_config(tmp_path, tiny_config(mesh="data:3", data=SIX))
    running = start(config, data, tmp_path / "run", 3, 1, own={2: ["--data", str(other)]})
    codes, said = ended(running, tmp_path / "run", patience=300)
    assert set(codes.values()) == {2}
    assert all(re.search(rf"process 2 .* has data {shard.name}", text) for text in said.values()), said


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_freezes_is_named_by_all(data, tmp_path, victim, number):
    workdir = tmp_path / "run"
    config = write_config(tmp_path, tiny_config(steps=100000, checkpoint_every=1000, mesh="data:3",
                                                data=SIX))
    running = start(config, data, workdir, 3, 1)
    wait_for(running[0], lambda: lines_logged(workdir) >= 5)
    running[victim].send_signal(number)
    codes, said = ended(running, workdir, without=[victim])
    assert set(codes.values()) == {1}, said
    for text in said.values():
        assert re.search(rf"process {victim} \(.*\): has (died|said nothing for 30 seconds)", text), text


def test_any_of_four_killed_at_any_time_restart_goes_on_to_the_same_curve(data, tmp_path):
    """Ten times by default; EASYLM_KILLS says otherwise. The restarts have four processes or two, in turn.

    Each third is killed while all start, and perhaps before it has come. Then it is missed when the patience ends that
    the others have once they have come, which is shortened here so that the limit holds for these, too.
    """
    steps, kills = 60, int(os.environ.get("EASYLM_KILLS", "10"))
    chance = random.Random(8)
    config = write_config(tmp_path, tiny_config(steps=steps, checkpoint_every=3, mesh="fsdp:4"))
    alone = tmp_path / "alone"
    finished(start(config, data, alone, 1, 4), alone)
    workdir, took = tmp_path / "run", []
    for kill in range(kills):
        processes = (4, 2)[kill % 2]
        starting = {"EASYLM_START_TIMEOUT": str(START)} if kill % 3 == 0 else {}
        running = start(config, data, workdir, processes, 4 // processes, **starting)
        due = lines_logged(workdir) + chance.randint(1, 5) if kill % 3 else 0        # each third while it starts
        wait_for(running[0], lambda due=due: lines_logged(workdir) >= due)
        time.sleep(chance.random() * (5 if kill % 3 == 0 else 0.3))
        victim = chance.randrange(processes)
        running[victim].kill()
        since = time.monotonic()
        codes, said = ended(running, workdir, without=[victim], patience=300)
        took.append(time.monotonic() - since)
        assert took[-1] < LIMIT, (kill, victim, said)
        assert all(codes.values()), (kill, victim, codes, said)
        print(f"{kill}: process {victim} of {processes}{' at its start' if starting else ''}: {took[-1]:.1f} s, "
              f"codes {codes}")
    finished(start(config, data, workdir, 4, 1), workdir)
    one, many = (read_metrics(RunDir(path).metrics) for path in (alone, workdir))
    assert [line["step"] for line in many] == list(range(1, steps + 1))
    assert [line["tokens"] for line in one] == [line["tokens"] for line in many]
    np.testing.assert_allclose([line["loss"] for line in many], [line["loss"] for line in one], rtol=1e-4)
