"""A run that is stopped, moved or killed goes on as if nothing had happened."""
import shutil

import numpy as np
import pytest
from train_helpers import history, tiny_config, weights

from easylm_imitation.files import read_json
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.train import OptimizerConfig, train
from easylm_imitation.weights import RunDir, describe, open_model


def test_a_run_learns_and_keeps_its_newest_checkpoints(whole):
    assert RunDir(whole).steps() == [3, 6, 9]
    losses = [line["loss"] for line in history(whole)]
    assert losses[-1] < losses[0] - 1


def test_a_run_killed_between_checkpoints_equals_an_uninterrupted_one_bit_for_bit(data, whole, tmp_path):
    workdir = tmp_path / "run"
    train(tiny_config(), data_dir=data, workdir=workdir, stop_after=5)
    shutil.rmtree(RunDir(workdir).checkpoints / "5")        # a kill at update 5 leaves its metrics, but no checkpoint
    assert [line["step"] for line in history(workdir)] == [1, 2, 3, 4, 5]
    result = train(tiny_config(), data_dir=data, workdir=workdir)
    assert result.step == 9
    assert history(workdir) == history(whole)     # one line a step: no fork; same batches, same losses
    for ours, theirs in zip(weights(workdir), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert RunDir(workdir).read_lineage() == RunDir(whole).read_lineage()


def test_each_checkpoint_says_itself_which_model_it_is(whole, tmp_path):
    tokens = {line["step"]: line["tokens"] for line in history(whole)}
    lineages = [RunDir(whole).read_lineage(step) for step in (3, 6, 9)]
    assert [(one.step, one.tokens) for one in lineages] == [(step, tokens[step]) for step in (3, 6, 9)]
    assert RunDir(whole).read_lineage() == lineages[-1]
    copy = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(RunDir(copy).checkpoints / "9")       # no file beside the checkpoints lags or runs ahead of them
    assert open_model(copy).lineage == describe(copy)[1] == lineages[1]
    assert len({one.id for one in lineages} | {read_json(Lineage, RunDir(copy).lineage).id}) == 4
    shutil.rmtree(RunDir(copy).checkpoints)
    assert RunDir(copy).read_lineage().step == 0


def test_a_finished_run_is_left_as_it_is(data, whole):
    before = RunDir(whole).metrics.read_text()
    result = train(tiny_config(), data_dir=data, workdir=whole)
    assert (result.step, result.loss) == (9, history(whole)[-1]["loss"])
    assert RunDir(whole).metrics.read_text() == before


def test_a_run_goes_on_on_another_mesh_in_more_micro_batches(data, whole, tmp_path):
    workdir = tmp_path / "run"
    train(tiny_config(), data_dir=data, workdir=workdir, stop_after=4)
    moved = tiny_config(mesh="data:2,tensor:2,fsdp:2", accumulate=2, remat="none", attention="chunked",
                        checkpoint_every=100)
    train(moved, data_dir=data, workdir=workdir)
    ours, theirs = history(workdir), history(whole)
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs]
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=2e-5)
    assert [line["loss"] for line in ours[:4]] == [line["loss"] for line in theirs[:4]]


def test_a_diverged_run_stops_and_saves_no_ruined_weights(data, tmp_path):
    workdir = tmp_path / "run"
    # the second update finds ruined weights; it is also the first to be saved
    wild = tiny_config(optimizer=OptimizerConfig(learning_rate=1e38, clip=None), checkpoint_every=2)
    with pytest.raises(UserError, match=r"step \d: loss .*Lower optimizer.learning_rate"):
        train(wild, data_dir=data, workdir=workdir)
    assert RunDir(workdir).steps() == []
