"""Scalars in Weights & Biases, by the real package offline: what it keeps is what metrics.jsonl says."""
import json
import os
import pathlib
import struct
import subprocess
import sys

import pytest
from train_helpers import ROOT, tiny_config, write_config

from easylm_imitation.data import LoaderConfig
from easylm_imitation.schema import UserError
from easylm_imitation.train import read_metrics, train
from easylm_imitation.train.config import ValidationConfig
from easylm_imitation.train.wandb_run import WandbRun
from easylm_imitation.weights import RunDir

CONFIG = tiny_config(wandb="a project", data=LoaderConfig(context=64, batch=8, holdout=0.2),
                     validation=ValidationConfig(samples=0))


def kept(file: pathlib.Path):
    """The records of a .wandb file: seven bytes, then LevelDB's log format, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
        length, kind = struct.unpack("<HB", data[at + 4:at + 7])
        parts, at = parts + data[at + 7:at + 7 + length], at + 7 + length
        if kind in (1, 4):          # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def scalars(file: pathlib.Path) -> dict[int, dict[str, float]]:
    """{update: {name: value}}."""
    lines = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
             for record in kept(file) if record.history.item]
    return {line["_step"]: line for line in lines}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")      # the package leaves its sockets to the collector
def test_it_keeps_what_the_metrics_say_and_the_same_run_over_a_restart(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(CONFIG, data_dir=data, workdir=tmp_path / "run", stop_after=4)
    train(CONFIG, data_dir=data, workdir=tmp_path / "run")
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1          # one run there, whose parts are joined when it is sent
    seen = {step: line for file in files for step, line in scalars(file).items()}
    metrics = read_metrics(RunDir(tmp_path / "run").metrics)
    assert list(seen) == [line["step"] for line in metrics]
    for line in metrics:
        found = {k.removeprefix("train/"): v for k, v in seen[line["step"]].items() if k.startswith("train/")}
        assert found == {name: pytest.approx(value) for name, value in line.items() if name != "step"}
    validated = [json.loads(text) for text in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    assert {step: line["validation/loss"] for step, line in seen.items() if "validation/loss" in line} == {
        line["step"]: line["loss"] for line in validated}


def test_without_the_package_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"config.wandb is 'a project', but the package is not installed: pip install"):
        WandbRun("a project", "run", tmp_path, {})


@pytest.mark.slow
def test_without_a_key_it_is_one_line(data, tmp_path):
    """In a process of its own: the package reads its environment once."""
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
    config = write_config(tmp_path, CONFIG)
    done = subprocess.run([sys.executable, "-m", "easylm_imitation", "train", "--config", str(config), "--data",
                           str(data), "--workdir", str(tmp_path / "run")], cwd=ROOT, env=env, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "log in with `wandb login`, set WANDB_MODE=offline, or leave config.wandb out" in done.stderr
    assert "Traceback" not in done.stderr
