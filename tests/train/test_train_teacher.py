"""Whole runs that distil: from a model and from its cache, continued to the bit; the lineage says who taught."""
import dataclasses

import numpy as np
import pytest
from train_helpers import tiny_config

from easylm_imitation.schema import UserError
from easylm_imitation.text import load_tokenizer
from easylm_imitation.train import OptimizerConfig, read_metrics, train
from easylm_imitation.train.best_tokens import cache_best_tokens
from easylm_imitation.train.config import DistilConfig
from easylm_imitation.weights import RunDir, open_model, save_run_model

CONFIG = tiny_config(name="student", distil=DistilConfig(weight=0.7), optimizer=OptimizerConfig(learning_rate=0.02))


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """A run that has learned the data: a wider model."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(tiny_config(name="big", model={"preset": "llama-debug", "d_ff": 128}, steps=30,
                      optimizer=OptimizerConfig(learning_rate=0.02)), data_dir=data, workdir=folder)
    return folder


@pytest.fixture(scope="module")
def student(data, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "run"
    train(CONFIG, data_dir=data, workdir=folder, teacher=teacher)
    return RunDir(folder)


def curve(run, name):
    return [line[name] for line in read_metrics(run.metrics)]


def test_the_divergence_falls_and_the_lineage_says_who_taught(student, teacher):
    assert curve(student, "divergence")[-1] < 0.6 * curve(student, "divergence")[0]
    label = open_model(teacher).lineage.label
    assert label.startswith("big@")
    assert student.read_lineage().teachers == (label, "teacher")


@pytest.mark.slow
def test_stopped_and_continued_it_is_the_same_run(student, data, teacher, tmp_path):
    for stop in (4, None):
        train(CONFIG, data_dir=data, workdir=tmp_path / "run", teacher=teacher, stop_after=stop)
    again = RunDir(tmp_path / "run")
    for name in ("loss", "divergence", "grad_norm"):
        assert curve(again, name) == curve(student, name)


@pytest.mark.slow
def test_micro_batches_sum_to_the_same_update(student, data, teacher, tmp_path):
    config = dataclasses.replace(CONFIG, mesh="fsdp:2,tensor:2", accumulate=2, steps=2)
    train(config, data_dir=data, workdir=tmp_path / "run", teacher=teacher)
    found = curve(RunDir(tmp_path / "run"), "divergence")[0]
    np.testing.assert_allclose(found, curve(student, "divergence")[0], rtol=1e-5)


@pytest.mark.slow
def test_a_cache_of_all_tokens_teaches_as_the_model_does(student, data, teacher, tmp_path):
    cache_best_tokens(teacher, data, tmp_path / "cache", top_k=259, batch=8, dtype=np.float32)
    train(dataclasses.replace(CONFIG, steps=3), data_dir=data, workdir=tmp_path / "run", teacher=tmp_path / "cache")
    run = RunDir(tmp_path / "run")
    assert run.read_lineage().teachers == student.read_lineage().teachers
    np.testing.assert_allclose(curve(run, "divergence")[0], curve(student, "divergence")[0], rtol=2e-3)    # float16
    np.testing.assert_allclose(curve(run, "loss")[0], curve(student, "loss")[0], rtol=1e-6)


def test_what_does_not_go_together_is_refused_and_nothing_is_written(data, teacher, tmp_path):
    def refused(match, config, who):
        with pytest.raises(UserError, match=match):
            train(config, data_dir=data, workdir=tmp_path / "run", teacher=who)
        assert not (tmp_path / "run").exists()

    refused("config.distil is set, but no --teacher names one", CONFIG, None)
    refused("the config distils nothing; say --config.distil.weight", dataclasses.replace(CONFIG, distil=None), teacher)
    refused("no such folder; give a run dir", CONFIG, tmp_path / "nobody")
    loaded = open_model(teacher)
    bare = save_run_model(tmp_path / "bare", loaded.config, loaded.params, None, None, loaded.lineage)
    refused("the teacher's tokenizer is None, the data's", CONFIG, bare.path)
    cache_best_tokens(teacher, data, tmp_path / "cache", top_k=2, batch=8, context=20)
    refused("covers the first 20 tokens", CONFIG, tmp_path / "cache")
    cache_best_tokens(teacher, data, tmp_path / "whole", top_k=2, batch=8)
    warm = dataclasses.replace(CONFIG, distil=DistilConfig(temperature=2.0))
    refused("a cache knows the teacher's likeliest tokens at temperature 1 alone", warm, tmp_path / "whole")


def test_another_teacher_does_not_continue_a_run(student, data, teacher, tmp_path):
    other = save_run_model(tmp_path / "other", *_of(teacher, data))
    with pytest.raises(UserError, match="who teaches is .* in the run that the folder holds"):
        train(CONFIG, data_dir=data, workdir=student.path, teacher=other.path)


def _of(teacher, data):
    loaded = open_model(teacher)
    return (loaded.config, loaded.params, load_tokenizer(data / "tokenizer"), loaded.template,
            dataclasses.replace(loaded.lineage, id="f" * 16))
