"""Runs whose workdir is in a bucket: a stand-in for the store, over HTTP, that lists late and fails now and then."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from bucket_standin import serving_bucket
from train_helpers import ROOT, tiny_config, wait_for, write_config

from easylm_imitation import storage
from easylm_imitation.schema import UserError
from easylm_imitation.train import OptimizerConfig, loop, read_metrics, train
from easylm_imitation.weights import RunDir, open_model


@pytest.fixture(scope="module")
def serving():
    with pytest.MonkeyPatch.context() as patch, serving_bucket() as (store, environment):
        for name, value in environment.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def store(serving, monkeypatch):
    """The stand-in, without faults; what this process knows of earlier buckets is forgotten."""
    serving.late, serving.failing, serving.down = 0.0, 0.0, False
    monkeypatch.setattr(storage, "_copies", {})
    return serving


def metrics(store, url):
    """The lines of a run's log that are in the bucket."""
    bucket, _, run = url.removeprefix("gs://").partition("/")
    return [json.loads(line) for line in store.objects[bucket, f"{run}/metrics.jsonl"][0].splitlines()]


def steps(store, url):
    root = url.removeprefix("gs://") + "/checkpoints/"
    found = {key.removeprefix(root).partition("/")[0] for key in store.keys(root)}
    return sorted(int(name) for name in found if name.isdecimal())


def losses(lines):
    return [(line["step"], line["loss"], line["tokens"]) for line in lines]


def test_a_run_in_a_bucket_stops_goes_on_and_equals_one_on_disk(data, whole, store, monkeypatch):
    url, config = "gs://first/runs/a", tiny_config(keep=2)
    store.late = 1.0
    assert train(config, data_dir=data, workdir=url, stop_after=4).step == 4
    assert steps(store, url) == [3, 4]
    assert [line["step"] for line in metrics(store, url)] == [1, 2, 3, 4]
    monkeypatch.setattr(storage, "_copies", {})     # as another process would find it
    time.sleep(store.late)
    assert train(config, data_dir=data, workdir=url).workdir == url
    assert losses(metrics(store, url)) == losses(read_metrics(RunDir(whole).metrics))
    assert steps(store, url) == [6, 9]


def test_another_place_is_refused_with_the_reason(data):
    for place in ("s3://bucket/run", "az://x/y", "gs://"):
        with pytest.raises(UserError, match="only buckets of Google Cloud Storage are known"):
            train(tiny_config(), data_dir=data, workdir=place)


def test_a_store_that_fails_now_and_then_is_asked_again_and_one_that_is_away_is_named(store, monkeypatch):
    """By the file system alone: TensorStore's own waiting is what takes the time."""
    from easylm_imitation import bucket
    monkeypatch.setattr(bucket, "_AGAIN", {"max_retries": 4, "initial_delay": "1ms", "max_delay": "2ms"})
    bucket._store.cache_clear()
    files = bucket.Bucket(skip_instance_cache=True)
    store.failing, store.late = 0.2, 0.5
    for number in range(30):
        files.pipe_file(f"gs://shaky/a/{number}", str(number).encode())
    assert files.ls("gs://shaky/a", detail=False) == sorted(f"shaky/a/{n}" for n in range(30))    # own, if not listed
    assert all(files.cat_file(f"gs://shaky/a/{n}") == str(n).encode() for n in range(30))
    files.rm("gs://shaky/a", recursive=True)
    assert store.failed > 5
    assert store.keys("shaky/") == []
    assert not files.exists("gs://shaky/a")         # though listings still name what was in it
    store.down = True
    with pytest.raises(OSError, match="(?i)gs://shaky/b.*(unavailable|503)"):
        files.pipe_file("gs://shaky/b", b"")
    bucket._store.cache_clear()


def test_folders_in_a_bucket_are_as_on_a_disk(store, tmp_path):
    """The same calls, by the interface that Orbax uses."""
    from etils import epath

    from easylm_imitation.bucket import register
    register()
    seen = []
    for root in (epath.Path(tmp_path / "disk"), epath.Path("gs://folders/disk")):
        root.mkdir(parents=True)
        (root / "a/b").mkdir(parents=True)
        (root / "a/b/text").write_text("words")
        (root / "a/empty").touch()
        with pytest.raises(FileExistsError):
            (root / "a").mkdir()
        with pytest.raises(FileNotFoundError):
            (root / "none").read_text()
        (root / "a/b").rename(root / "c")
        (root / "a/empty").unlink()
        seen.append((sorted(p.name for p in root.iterdir()), (root / "c/text").read_text(), (root / "c").is_dir(),
                     (root / "c/text").is_dir(), (root / "a/b").exists(), (root / "none").exists(),
                     sorted(p.name for p in (root / "a").iterdir()), sorted(p.name for p in root.glob("c/t*"))))
        (root / "c").rmtree()
        assert not (root / "c").exists()
    assert seen[0] == seen[1]


def test_an_error_on_its_way_is_not_replaced_by_one_of_a_bucket_that_is_away(capsys):
    class Away:
        def publish(self):
            raise UserError("gs://far: cannot be written")
    with pytest.raises(ZeroDivisionError), loop._published(Away()):
        raise ZeroDivisionError
    assert "note: gs://far: cannot be written" in capsys.readouterr().err
    with pytest.raises(UserError, match="gs://far"), loop._published(Away()):
        pass


def test_what_goes_wrong_in_a_sending_behind_the_work_is_raised_by_the_next(store, monkeypatch, capsys):
    """But for a bucket that refuses, which is said and asked again."""
    monkeypatch.setattr(storage, "_EVERY", -1.0)
    copy, errors = storage.Copy("gs://behind/run"), iter([OSError("away"), ZeroDivisionError("odd")])

    def failing():
        raise next(errors)
    monkeypatch.setattr(copy, "_send", failing)
    for _ in range(2):
        copy.send_soon()
        copy._pool.submit(int).result()     # until it has ended
    assert "logs cannot be sent now (away)" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError, match="odd"):
        copy.send_soon()


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on_to_the_same_curve_though_the_store_lists_late_and_fails(data, whole, store,
                                                                                               tmp_path):
    """Three kills, at random times after a checkpoint more than before; the last run of it ends."""
    url, chance = "gs://killed/run", random.Random(8)
    config = write_config(tmp_path, tiny_config(keep=2))
    command = [sys.executable, "-m", "easylm_imitation", "train", "--config", config, "--data", data, "--workdir", url]
    store.late, store.failing = 2.0, 0.03
    for kill in range(4):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if kill < 3:
            wait_for(process, lambda most=3 * kill: steps(store, url)[-1:] > [most])
            time.sleep(chance.random())
            process.send_signal(signal.SIGKILL)
        err = process.communicate(timeout=900)[1]
    assert process.returncode == 0, err
    assert losses(metrics(store, url)) == losses(read_metrics(RunDir(whole).metrics))
    assert steps(store, url) == [6, 9]
    assert store.failed > 0


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_in_a_bucket_falls_back_to_the_one_before(data, whole, store, monkeypatch, capsys):
    url = "gs://damaged/run"
    train(tiny_config(), data_dir=data, workdir=url, stop_after=6)
    for key in store.keys("damaged/run/checkpoints/6/params/"):
        if "/c/" in key:        # parts of arrays
            store.put(tuple(key.split("/", 1)), b"garbage")
    monkeypatch.setattr(storage, "_copies", {})
    assert train(tiny_config(), data_dir=data, workdir=url).step == 9
    said = capsys.readouterr().err
    assert "moved aside to 6.damaged" in said
    assert "going on from the checkpoint of update 3" in said
    assert losses(metrics(store, url)) == losses(read_metrics(RunDir(whole).metrics))
    assert steps(store, url) == [3, 6, 9]
    assert store.keys("damaged/run/checkpoints/6.damaged/params/")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_write_and_continue_a_run_in_a_bucket_and_it_is_opened_from_there(data, store, tmp_path):
    url = "gs://shared/run"
    constant = OptimizerConfig(learning_rate=0.01, schedule="constant", warmup=0)       # so that it may be lengthened
    config = write_config(tmp_path, tiny_config(keep=2, optimizer=constant))
    store.late, store.failing = 2.0, 0.02
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHON": sys.executable, "EASYLM_START_TIMEOUT": "300"}
    command = ["bash", "launch/local_pod.sh", "2", "4", "--", sys.executable, "-m", "easylm_imitation", "train",
               "--config", config, "--data", data, "--workdir", url]
    for total in (6, 9):
        done = subprocess.run([*command, f"--config.steps={total}"], cwd=ROOT, capture_output=True, text=True,
                              timeout=1500, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "continuing after update 6" in done.stderr
    assert [line["step"] for line in metrics(store, url)] == list(range(1, 10))
    assert steps(store, url) == [6, 9]
    opened = open_model(url)
    assert opened.lineage.step == 9
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(opened.params))
