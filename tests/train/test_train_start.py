"""What train refuses, in one clear line and before it writes anything; and the lineage of what it makes."""
import dataclasses
import math
import typing

import jax
import numpy as np
import pytest
from tiny_tokenizers import byte_tokenizer, trained
from train_helpers import build_data, tiny_config

from easylm_imitation.cli.main import main
from easylm_imitation.data import DataUse, LoaderConfig, open_loader
from easylm_imitation.files import read_json
from easylm_imitation.models.attention import BACKENDS
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import make_mesh
from easylm_imitation.text import load_tokenizer
from easylm_imitation.train import OptimizerConfig, TrainConfig, read_metrics, train
from easylm_imitation.train.config import free_keys
from easylm_imitation.train.same_run import changes
from easylm_imitation.train.start import prepare
from easylm_imitation.weights import RunDir, export_hf, open_model


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    """A run of three updates on answers that no teacher gave."""
    folder = tmp_path_factory.mktemp("base")
    people = build_data(folder, byte_tokenizer(), teacher="")
    train(tiny_config(name="base"), data_dir=people, workdir=folder / "run", stop_after=3)
    return folder / "run"


def _refused(match: str, workdir, data, config=None, init=None) -> None:
    with pytest.raises(UserError, match=match):
        train(config or tiny_config(), data_dir=data, workdir=workdir, init=init)


@pytest.mark.parametrize(("keys", "match"), [
    ({"model": {}}, "nothing says which model to train"),
    ({"model": {"preset": "lama-debug"}}, "did you mean 'llama-debug'"),
    ({"model": {"preset": "llama-debug", "vocab_size": 200}}, "has 259 ids, the model a vocabulary of only 200"),
    ({"model": {"preset": "gpt2-debug", "context": 32}}, "32 positions"),
    ({"attention": "cudnn"}, "attention backend 'cudnn' runs on NVIDIA GPUs, not on cpu; choose auto"),
    ({"data": LoaderConfig(context=36, batch=8)}, "conversation 'c44' has 42 tokens, the context 36"),
    ({"data": LoaderConfig(context=64, batch=12)}, "data.batch / accumulate is 12, which does not split over the 8"),
    ({"accumulate": 2}, "data.batch / accumulate is 4"),
    ({"mesh": "fsdp:3,tensor:5"}, "mesh"),
])
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(data, tmp_path, keys, match):
    _refused(match, tmp_path / "run", data, tiny_config(**keys))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_is_left_alone(data, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    _refused("holds files that are no training run", tmp_path, data)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
    _refused("only buckets of Google Cloud Storage are known", "s3://bucket/run", data)


@pytest.mark.parametrize(("keys", "match"), [
    ({"optimizer": OptimizerConfig(learning_rate=0.01, beta2=0.99)}, "optimizer.beta2 is 0.99 here, but 0.95 in"),
    ({"model": {"preset": "llama-debug", "d_ff": 96}}, "model.d_ff is 96 here, but None in the run"),
    ({"steps": 4}, "steps is 4 here, but 9 in the run"),        # a cosine knows its end
])
def test_another_config_does_not_continue_a_run(data, base, keys, match):
    people = base.parent / "data"
    before = RunDir(base).config.read_text()
    _refused(match, base, people, tiny_config(**{"name": "base"} | keys))
    _refused("the data's hash", base, data, tiny_config(name="base"))
    assert RunDir(base).config.read_text() == before


@pytest.mark.slow
def test_a_constant_schedule_may_be_extended(data, tmp_path):
    steady = OptimizerConfig(learning_rate=0.01, schedule="constant", warmup=2)
    train(tiny_config(optimizer=steady, steps=2, log_every=5), data_dir=data, workdir=tmp_path / "run")
    result = train(tiny_config(optimizer=steady, steps=4, log_every=1), data_dir=data, workdir=tmp_path / "run")
    assert (result.step, RunDir(tmp_path / "run").steps()) == (4, [2, 3, 4])
    assert [line["learning_rate"] for line in read_metrics(RunDir(tmp_path / "run").metrics)] == pytest.approx(
        [0.005, 0.01, 0.01, 0.01])


def test_every_attention_backend_may_be_asked_for():
    assert typing.get_args(typing.get_type_hints(TrainConfig)["attention"]) == ("auto", *BACKENDS)


def test_differences_are_named_by_their_leaf():
    assert list(changes({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3, "c": 2}, "d": [1], "e": 0})) == [
        ("a.b", 1, 3), ("e", None, 0)]


def test_finetuning_starts_from_the_given_weights_and_knows_its_base(data, base, tmp_path):
    config = tiny_config(name="imitation", model={})
    train(config, data_dir=data, workdir=tmp_path / "run", init=str(base), stop_after=2)
    first = read_metrics(RunDir(tmp_path / "run").metrics)[0]["loss"]
    assert first < read_metrics(RunDir(base).metrics)[0]["loss"] - 0.3          # not fresh weights
    parent, child = RunDir(base).read_lineage(), open_model(tmp_path / "run").lineage
    assert (parent.base, parent.teachers, parent.step) == (parent.id, (), 3)
    assert (child.base, child.base_name, child.init, child.teachers) == (parent.id, "base", parent.id, ("teacher",))
    assert child.id not in (parent.id, "")

    again = dataclasses.replace(config, name="again")
    train(again, data_dir=base.parent / "data", workdir=tmp_path / "again", init=str(tmp_path / "run"), stop_after=1)
    grandchild = RunDir(tmp_path / "again").read_lineage()
    assert (grandchild.base, grandchild.init, grandchild.teachers) == (parent.id, child.id, ("teacher",))
    assert not RunDir(tmp_path / "again").source.exists()       # weights of our own say nothing more
    assert RunDir(tmp_path / "again").read_model()[0].vocab_size == 264     # 259 ids, rounded up to split in 8


def test_texts_begin_for_a_new_model_and_as_they_did_for_a_finetuned_one(tmp_path):
    """Every document of a new model's text stands behind a BOS; a base that read none before keeps its way."""
    people = build_data(tmp_path, trained(), teacher="")
    assert not load_tokenizer(people).begins
    train(tiny_config(name="new"), data_dir=people, workdir=tmp_path / "new", stop_after=1)
    new = open_model(tmp_path / "new")
    assert new.tokenizer.begins
    for begins in (True, False):
        name = f"base-{begins}"
        export_hf(tmp_path / name, new.config, new.params, new.tokenizer.beginning(begins), None, new.lineage)
        train(tiny_config(name="tuned", model={}), data_dir=people, workdir=tmp_path / f"tuned-{begins}",
              init=str(tmp_path / name), stop_after=1)
        assert open_model(tmp_path / f"tuned-{begins}").tokenizer.begins == begins


@pytest.mark.parametrize(("epochs", "batch", "steps"), [(1, 8, 5), (2, 8, 9), (1.5, 16, 4), (0.1, 8, 1)])
def test_epochs_become_updates_by_counting_packed_rows(data, tmp_path, epochs, batch, steps):
    config = tiny_config(epochs=epochs, steps=None, data=LoaderConfig(context=64, batch=batch))
    start = prepare(config, data, tmp_path / "run", None, make_mesh("fsdp:8"))
    loader = open_loader(data, config.data, seed=0, epochs=start.epochs)
    assert start.total_steps == steps == math.ceil(len(list(loader)) * epochs / start.epochs)


@pytest.mark.parametrize(("tokens", "batch"), [(1, 8), (600, 8), (2000, 8), (5000, 4), (20_000, 16)])
def test_tokens_become_updates_by_counting_packed_rows(data, tmp_path, tokens, batch):
    config = tiny_config(tokens=tokens, steps=None, data=LoaderConfig(context=64, batch=batch))
    start = prepare(config, data, tmp_path / "run", None, make_mesh("fsdp:4", jax.devices()[:4]))
    loader, seen = open_loader(data, config.data, seed=0, epochs=start.epochs), [0]
    while seen[-1] < tokens:
        seen.append(seen[-1] + int((next(loader)["segment_ids"] > 0).sum()))
    assert start.total_steps == len(seen) - 1


def test_a_whole_number_of_passes_in_tokens_is_as_many_updates_as_in_epochs(data, tmp_path):
    whole = int(np.load(data / "lengths.npy").sum())
    for passes in (1, 3):
        starts = [prepare(tiny_config(steps=None, **keys), data, tmp_path / "run", None, make_mesh("fsdp:8"))
                  for keys in ({"tokens": passes * whole}, {"epochs": passes})]
        assert starts[0].total_steps == starts[1].total_steps


def test_tokens_may_be_extended_under_a_constant_schedule_alone(data, tmp_path):
    steady = OptimizerConfig(learning_rate=0.01, schedule="constant", warmup=0)
    assert {"steps", "tokens"} <= set(free_keys(tiny_config(optimizer=steady, steps=None, tokens=600)))
    for other in ({"optimizer": OptimizerConfig(schedule="wsd", warmup=0)}, {"epochs": 1, "tokens": None},
                  {"optimizer": OptimizerConfig(schedule="constant", warmup=0.1)}):
        assert "tokens" not in free_keys(tiny_config(**{"optimizer": steady, "steps": None, "tokens": 600} | other))


def test_initial_weights_of_another_kind_are_refused(data, base, tmp_path):
    _refused("config.model differs .* d_ff: 96 here, 64 there", tmp_path / "run", data,
             tiny_config(model={"preset": "llama-debug", "d_ff": 96}), init=str(base))
    other = build_data(tmp_path, trained(), teacher="")
    small = tiny_config(model={}, data=LoaderConfig(context=128, batch=8))
    _refused("tokenizer", tmp_path / "run", other, small, init=str(base))
    chat = build_data(tmp_path / "chat", byte_tokenizer(), teacher="", template="chatml")
    _refused("was built with the template chatml@", tmp_path / "run", chat, small, init=str(base))
    assert not (tmp_path / "run").exists()


def test_initial_weights_without_a_tokenizer_are_refused(data, base, tmp_path):
    loaded = open_model(base)
    export_hf(tmp_path / "hf", loaded.config, loaded.params, loaded.tokenizer, None, loaded.lineage)
    config = tiny_config(model={}, steps=1)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "hf" / name).unlink()
    _refused("brings no tokenizer, .* put its tokenizer.json beside the weights", tmp_path / "run", data, config,
             init=str(tmp_path / "hf"))
    assert not (tmp_path / "run").exists()
    loaded.tokenizer.save(tmp_path / "hf")
    (tmp_path / "hf" / "chat_template.jinja").write_text("theirs")
    train(config, data_dir=data, workdir=tmp_path / "run", init=str(tmp_path / "hf"))
    assert open_model(tmp_path / "run").extras == open_model(tmp_path / "hf").extras
    assert open_model(tmp_path / "run").extras.chat_template == "theirs"


def test_an_init_that_is_no_model_names_both_kinds(data, tmp_path):
    config = tiny_config(model={})
    _refused("absent: no such folder; give a run dir or a Hugging Face dir", tmp_path / "run", data, config,
             init=str(tmp_path / "absent"))
    _refused("neither a run dir .* nor a Hugging Face dir", tmp_path / "run", data, config, init=str(data))


@pytest.mark.parametrize("handling", ["drop", "truncate"])
def test_what_the_context_cuts_stands_in_the_run_and_in_the_result(data, tmp_path, handling):
    config = tiny_config(steps=1, data=LoaderConfig(context=40, batch=8, too_long=handling))
    result = train(config, data_dir=data, workdir=tmp_path / "run")
    lengths = np.load(data / "lengths.npy")
    long = lengths[lengths > 40]
    lost = long.sum() if handling == "drop" else (long - 40).sum()
    assert result.data == read_json(DataUse, RunDir(tmp_path / "run").data)
    made = result.data
    assert (made.too_long, made.long_conversations, made.lost_tokens) == (handling, len(long), lost)
    assert len(long) > 0


_CONFIG = """from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"model": {"preset": "llama-debug"}, "steps": 2, "data": {"context": 36, "batch": 8}})
"""


@pytest.mark.parametrize(("flag", "line"), [
    ("--config.optimizer.learning_rte=1", "unknown key 'learning_rte'; did you mean 'learning_rate'?"),
    ("--config.steps=2", "conversation 'c44' has 42 tokens"),
    ("--config.epochs=1", "give steps, epochs or tokens, one of the three"),
    ("--config.keep=0", "keep is 0; it must be above 0"),
    ("--config.max_skips=-1", "max_skips is -1; it must not be negative"),
    ("--config.optimizer.momentum=0.9", "optimizer: momentum is 0.9, which adamw has no use for"),
])
def test_the_verb_says_what_is_wrong_in_one_line(data, tmp_path, capsys, flag, line):
    (tmp_path / "config.py").write_text(_CONFIG)
    code = main(["train", "--config", str(tmp_path / "config.py"), flag, "--data", str(data),
                 "--workdir", str(tmp_path / "run")])
    said = capsys.readouterr().err.strip().splitlines()
    assert (code, len(said)) == (2, 1)
    assert line in said[0]
    assert not (tmp_path / "run").exists()
