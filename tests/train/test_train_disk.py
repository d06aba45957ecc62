"""A disk that is full, a place that may not be written, shards that rot: one line, and a run that goes on after it."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from train_helpers import ROOT, history, lines_logged, tiny_config, wait_for, weights, write_config

from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.train import TrainState, train
from easylm_imitation.train.checkpoint import Checkpoints, Progress
from easylm_imitation.train.lock import RunLock, in_training
from easylm_imitation.train.metrics import MetricsLog, read_metrics
from easylm_imitation.weights import RunDir


@pytest.fixture
def disk(tmp_path):
    """A file system of 3 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here ({mounted.stderr.strip()})")
    yield place
    subprocess.run(["umount", place], check=True)


def _remount(place: pathlib.Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def _fill(place: pathlib.Path, leave: int) -> pathlib.Path:
    filler = place / "filler"
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_bsize
    filler.write_bytes(bytes(max(free - leave, 0)))
    return filler


def _goes_on(data, workdir, whole) -> None:
    assert train(tiny_config(), data_dir=data, workdir=workdir).step == 9
    assert history(workdir) == history(whole)
    for ours, theirs in zip(weights(workdir), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [name for name in os.listdir(RunDir(workdir).checkpoints) if not name.isdecimal()] == []


@pytest.mark.parametrize(("kind", "cause"), [("full", "No space left on device"), pytest.param(
    "read-only", "Read-only file", marks=pytest.mark.slow)])
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_run_goes_on(
        data, whole, disk, tmp_path, capfd, kind, cause):
    workdir = tmp_path / "run"
    train(tiny_config(), data_dir=data, workdir=workdir, stop_after=4)
    shutil.move(RunDir(workdir).checkpoints, disk / "checkpoints")
    RunDir(workdir).checkpoints.symlink_to(disk / "checkpoints")
    if kind == "full":
        filler = _fill(disk, leave=200_000)
    else:
        _remount(disk, "ro")
    capfd.readouterr()
    with pytest.raises(UserError, match=rf"checkpoints: the checkpoint of update 6 cannot be written \({cause}.*\); "
                                        "that of update 4 is whole. Once this is mended, the same command continues"):
        train(tiny_config(), data_dir=data, workdir=workdir)
    assert "Traceback" not in capfd.readouterr().err
    assert RunDir(workdir).steps() == [3, 4]
    if kind == "full":
        filler.unlink()
    else:
        _remount(disk, "rw")
    RunDir(workdir).checkpoints.unlink()
    shutil.move(disk / "checkpoints", RunDir(workdir).checkpoints)
    _goes_on(data, workdir, whole)


def test_metrics_on_a_full_disk_are_one_line_and_leave_no_torn_one(disk):
    run = RunDir(disk)
    log = MetricsLog(run.metrics, run.tensorboard, step=0)
    log.write({"step": 1, "loss": 3.0})
    filler = _fill(disk, leave=0)
    for step in range(2, 2000):     # until the pages that the files have already are full
        try:
            log.write({"step": step, "loss": 3.0})
        except UserError as error:
            failed = str(error)
            break
    assert re.search(r"disk/.*: the run's metrics cannot be written \(No space left on device\); .* continues", failed)
    log.close()
    filler.unlink()
    log = MetricsLog(run.metrics, run.tensorboard, step=1)
    log.write({"step": 2, "loss": 2.0})
    log.close()
    assert [line["step"] for line in read_metrics(run.metrics)] == [1, 2]


def _shard(data: pathlib.Path) -> pathlib.Path:
    return next((data / "shards").glob("*array_record*"))


@pytest.mark.slow
def test_a_shard_that_rots_while_training_saves_what_is_done(data, tmp_path):
    copy, workdir = shutil.copytree(data, tmp_path / "data"), tmp_path / "run"
    config = tiny_config(steps=300, checkpoint_every=200)
    process = subprocess.Popen(
        [sys.executable, "-m", "easylm_imitation", "train", "--config", write_config(tmp_path, config),
         "--data", copy, "--workdir", workdir, "--quiet"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(process, lambda: lines_logged(workdir) >= 5)
    good = _shard(copy).read_bytes()
    with open(_shard(copy), "r+b") as file:         # in place: the loader holds the file open
        file.write(np.random.default_rng(0).bytes(len(good)))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    found = re.search(r"error: .*data: the data of update (\d+) cannot be read \(.*\); the (\d+) updates before it are "
                      "saved. Put the shards back", err)
    assert len(err.splitlines()) == 1
    assert int(found[1]) - 1 == int(found[2]) == RunDir(workdir).steps()[-1]
    _shard(copy).write_bytes(good)
    train(config, data_dir=copy, workdir=workdir, stop_after=1)
    assert [line["step"] for line in history(workdir)] == list(range(1, int(found[1]) + 1))


def test_a_shard_that_is_gone_is_named_and_the_run_goes_on_once_it_is_back(data, whole, tmp_path):
    copy, workdir = shutil.copytree(data, tmp_path / "data"), shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(RunDir(workdir).checkpoints / "9")
    shard = _shard(copy)
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"data of update 7 cannot be read \(.*{shard.name}\); the 6 updates before"):
        train(tiny_config(), data_dir=copy, workdir=workdir)
    (tmp_path / "elsewhere").rename(shard)
    _goes_on(copy, workdir, whole)


def test_a_run_is_trained_by_one_process_at_a_time(data, whole, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    code = ("import sys; from easylm_imitation.train.lock import RunLock; from easylm_imitation.weights import RunDir; "
            "lock = RunLock(RunDir(sys.argv[1])); print('held', flush=True); sys.stdin.read()")
    assert not in_training(RunDir(workdir))
    holder = subprocess.Popen([sys.executable, "-c", code, workdir], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert in_training(RunDir(workdir))
    before = RunDir(workdir).config.read_text()
    with pytest.raises(UserError, match=rf"--workdir .*: process {holder.pid} on .* is training this run; wait for it"):
        train(tiny_config(keep=5), data_dir=data, workdir=workdir)
    assert RunDir(workdir).config.read_text() == before
    holder.kill()
    holder.communicate()
    assert not in_training(RunDir(workdir))         # a lock ends with its process, however it ends
    lock = RunLock(RunDir(workdir))
    lock.close()


def test_keep_every_stays_beside_the_newest(tmp_path):
    state = TrainState(jnp.int32(0), {"w": jnp.arange(8.0)}, {"m": jnp.zeros(8)})
    with Checkpoints(tmp_path, keep=2, keep_every=4) as checkpoints:
        for step in range(1, 10):
            checkpoints.save(state, {}, Progress(step=step), Lineage("i", "tiny", "i", "tiny"))
    assert sorted(os.listdir(tmp_path)) == ["4", "8", "9"]


def test_weights_are_saved_as_they_were_although_the_next_updates_overwrite_them(tmp_path):
    update = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = TrainState(jnp.int32(0), {"w": jnp.zeros(2**22)}, {"m": jnp.zeros(2**22)})
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(1, 6):
            state = update(state)
            place = state.params["w"].unsafe_buffer_pointer()
            checkpoints.save(state, {}, Progress(step=step), Lineage("i", "tiny", "i", "tiny"))
            for _ in range(3):
                state = update(state)
            if jax.default_backend() == "cpu":      # in place: nothing had to be copied in the update
                assert state.params["w"].unsafe_buffer_pointer() == place
    for step in range(1, 6):
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
                              {"params": state.params, "optimizer": state.optimizer})
        saved = ocp.load_checkpointables(str(tmp_path / str(step)), wanted)
        for leaf in (saved["params"]["w"], saved["optimizer"]["m"]):
            np.testing.assert_array_equal(np.asarray(leaf), 4.0 * step - 3)
