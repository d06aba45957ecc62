"""A run that validates and samples as it goes: when, what is written, the best checkpoint, and that no number moves."""
import json

import pytest
from train_helpers import tiny_config

from easylm_imitation.data import LoaderConfig
from easylm_imitation.schema import UserError
from easylm_imitation.train import OptimizerConfig, read_metrics, train
from easylm_imitation.train.config import ValidationConfig
from easylm_imitation.weights import RunDir, describe, open_model

DATA = LoaderConfig(context=64, batch=8, holdout=0.2)
LOOKS = ValidationConfig(every=2, samples=2, sample_tokens=6, keep_best=True)


def lines(run, name):
    return [json.loads(line) for line in (run.path / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def looked(data, tmp_path_factory):
    """A run of 9 updates with a checkpoint every third and a look every second, stopped once and continued."""
    folder = tmp_path_factory.mktemp("looked") / "run"
    config = tiny_config(data=DATA, validation=LOOKS, keep=1)
    train(config, data_dir=data, workdir=folder, stop_after=4)
    train(config, data_dir=data, workdir=folder)
    return RunDir(folder)


def test_it_looks_where_asked_and_at_checkpoints(looked):
    found = lines(looked, "validation.jsonl")
    assert [line["step"] for line in found] == [2, 3, 4, 6, 8, 9]
    assert all(line["datasets"] == {"d": pytest.approx(line["loss"])} for line in found)
    assert found[-1]["loss"] < found[0]["loss"]         # it learns what it never saw: the data are all alike
    samples = lines(looked, "samples.jsonl")
    assert [line["step"] for line in samples] == [step for step in (2, 3, 4, 6, 8, 9) for _ in range(2)]
    assert samples[0].keys() == {"step", "id", "prompt", "answer", "reference"}
    assert samples[0]["reference"].strip().strip("ab") == ""


def test_looking_moves_no_number(looked, data, tmp_path):
    train(tiny_config(data=DATA, validation=ValidationConfig(samples=0)), data_dir=data, workdir=tmp_path / "run")
    for name in ("loss", "grad_norm", "learning_rate", "tokens"):
        assert [x[name] for x in read_metrics(looked.metrics)] == [
            x[name] for x in read_metrics(RunDir(tmp_path / "run").metrics)]


@pytest.mark.slow
def test_the_best_checkpoint_stays_beside_the_newest(data, tmp_path):
    config = tiny_config(data=DATA, validation=LOOKS, keep=1, steps=12, checkpoint_every=2,
                         optimizer=OptimizerConfig(learning_rate=0.02, warmup=0))
    train(config, data_dir=data, workdir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    found = {line["step"]: line["loss"] for line in lines(run, "validation.jsonl")}
    best = min(found, key=found.get)
    assert run.steps() == sorted({best, 12})
    assert run.step("best") == best
    assert open_model(f"{run.path}@best").lineage.step == describe(f"{run.path}@{best}")[1].step == best
    assert open_model(run.path).lineage.step == 12
    with pytest.raises(UserError, match=rf"run@5: no checkpoint of update 5; there are those of {best}"):
        open_model(f"{run.path}@5")


def test_without_a_validation_there_is_no_best(data, tmp_path):
    train(tiny_config(steps=1), data_dir=data, workdir=tmp_path / "run")
    assert not (tmp_path / "run" / "validation.jsonl").exists()
    with pytest.raises(UserError, match="no checkpoint of this run has a validation loss; name a step of 1"):
        open_model(f"{tmp_path / 'run'}@best")


def test_a_hugging_face_dir_has_no_updates(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is a Hugging Face dir, which has no updates to choose from"):
        open_model(f"{tmp_path}@3")


def test_speed_is_written_for_each_device(looked):
    for line in read_metrics(looked.metrics):
        assert line["tokens_per_second_per_device"] == pytest.approx(line["tokens_per_second"] / 8)
        assert "mfu" not in line        # nobody knows a CPU's peak
