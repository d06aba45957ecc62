"""Over a mesh the server gives the tokens and scores of one device, and every device holds its part and no more."""
import dataclasses

import jax
import numpy as np
import pytest
from serve_helpers import CONFIG, run_jobs

from easylm_imitation.cli.main import main
from easylm_imitation.models import LlamaConfig
from easylm_imitation.schema import UserError
from easylm_imitation.serve import Engine, Scorer, open_server, open_weights
from easylm_imitation.serve.answer import AnswerText
from easylm_imitation.serve.jobs import Answer, Sampling
from easylm_imitation.serve.place import Layout, mesh_of
from easylm_imitation.weights import export_hf
from easylm_imitation.weights.tensor_files import TensorFiles

# 2 KV heads: tensor:4 and tensor:8 cannot split them
MESHES = ["data:2,tensor:2", *(pytest.param(text, marks=pytest.mark.slow) for text in (
    "data:2", "tensor:2", "fsdp:2,tensor:2", "tensor:8", "replica:2,data:2", "fsdp:4", "data:2,tensor:4"))]


def on(mesh, **changes):
    return dataclasses.replace(CONFIG, decode_rows=(), live_lengths=(), mesh=mesh, **changes)


def make_engine(model, config):
    return Engine(model.config, model.params, config, stop_ids=[1], vocab_size=290)


def workload(seed=0):
    """Prompts of mixed lengths, more than there are slots, some of which begin alike; greedy and sampled."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 290, rng.integers(1, 60)).tolist() for _ in range(8)]
    prompts += [[*prompts[0], 7], [*prompts[0], 8, 9]]
    samplings = [Sampling(), Sampling(temperature=0.8, top_k=9, seed=5), Sampling(presence=1.0, bias=((7, 2.0),))]
    return [(prompt, 3 + 7 * i % 30, samplings[i % 3]) for i, prompt in enumerate(prompts)]


def pairs(seed=1):
    rng = np.random.default_rng(seed)
    made = [(rng.integers(0, 290, rng.integers(1, 80)).tolist(), rng.integers(0, 290, rng.integers(1, 9)).tolist())
            for _ in range(20)]
    shared = rng.integers(0, 290, 40).tolist()      # a beginning that goes into the prefix cache
    return [*made, *(([*shared, *rng.integers(0, 290, 30)], [int(token)]) for token in rng.integers(0, 290, 20))]


def results(engine, model):
    """(ids, finish, log-probabilities) of every answer of the workload, and the log-probabilities of all pairs."""
    jobs = [Answer(prompt, count, sampling, AnswerText(model.tokenizer), lambda news: None, stop_ids=frozenset([1]),
                   top=3) for prompt, count, sampling in workload()]
    run_jobs(engine, jobs)
    said = [[token.logprob for token in job.text.kept_tokens()] for job in jobs]
    return [(job.made, job.finish) for job in jobs], said, [s.token_logprobs for s in Scorer(engine).score(pairs())]


@pytest.fixture(scope="module")
def alone(served_model):
    return results(make_engine(served_model, on("")), served_model)


@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_gives_what_one_device_gives_and_compiles_nothing_more(mesh, alone, served_model):
    engine = make_engine(served_model, on(mesh))
    engine.watch_compilations()
    made, said, scores = results(engine, served_model)
    assert engine.compilations == 0
    assert made == alone[0]
    for ours, theirs in zip([*said, *scores], [*alone[1], *alone[2]], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    engine.close()


def test_each_device_holds_its_part_of_weights_and_cache(served_model):
    engine = make_engine(served_model, on("data:2,fsdp:2,tensor:2"))
    cache = engine._state.cache["k"]                # [L, B, K, S, H]
    assert cache.sharding.shard_shape(cache.shape) == (2, 1, 1, 96, 8)
    kept = engine._kept["k"]
    assert kept.sharding.shard_shape(kept.shape) == (2, 4, 1, 96, 8)
    down = engine._params["layers"]["mlp"]["down"]["kernel"]
    assert down.sharding.shard_shape(down.shape) == (2, 24, 16)
    engine.close()


@pytest.mark.slow
def test_weights_are_read_in_parts_straight_to_their_devices(served_model, tmp_path, monkeypatch):
    """Of a matrix no more is read in one go than one device holds, and nothing lies whole on any device."""
    model, folder = served_model, tmp_path / "hf"
    export_hf(folder, model.config, model.params, model.tokenizer, model.template, model.lineage)
    largest, before = {}, {id(array) for array in jax.live_arrays()}
    read = TensorFiles.read

    def watched(files, name, *index):
        part = read(files, name, *index)
        if index:
            largest[name] = max(largest.get(name, 0), part.size / np.prod(files.shapes[name]))
        return part
    monkeypatch.setattr(TensorFiles, "read", watched)
    config = on("fsdp:4,tensor:2")
    loaded = open_weights(str(folder), config)
    engine = make_engine(loaded, config)
    matrices = [name for name in largest if len(name.split(".")) > 3 and "norm" not in name]
    assert len(matrices) >= 14
    assert {largest[name] for name in (*matrices, "model.embed_tokens.weight")} == {1 / 8}
    new = [array for array in jax.live_arrays() if id(array) not in before and array.size >= 32 * 32]
    assert len(new) >= 8
    assert all(len(array.sharding.device_set) == 8 for array in new)
    for leaf in jax.tree.leaves(engine._params):
        part = leaf.addressable_shards[0].data.size
        assert 8 * part == leaf.size or part == leaf.size <= 2 * 32    # a norm
    engine.close()


@pytest.mark.parametrize(("config", "says"), [
    (on("data:8"), "slots is 4, which does not split over the 8 devices"),
    (on("sequence:2"), "no use for the axis 'sequence'"),
    (on("tensr:2"), "did you mean 'tensor'"),
    (dataclasses.replace(CONFIG, mesh="data:2"), r"decode_rows \(2, 4\)"),
    (on("tensor:5"), "cannot be split over the mesh axis tensor of size 5")])
def test_a_mesh_that_cannot_serve_the_model_is_refused(config, says, served_model):
    with pytest.raises(UserError, match=says):
        open_server(served_model, config)


def test_the_flag_is_checked_before_the_weights_are_read(capfd):
    assert main(["serve", "--model", "/no/such/model", "--mesh", "tensor:99"]) == 2
    assert "mesh 'tensor:99'" in capfd.readouterr().err


def test_heads_that_do_not_split_are_said(capfd):
    config = LlamaConfig(64, 64, layers=1, d_model=32, heads=6, kv_heads=3, d_ff=48, head_dim=8)
    Layout(mesh_of("tensor:2")).check(config, 4)
    assert "3 KV heads do not split over tensor:2" in capfd.readouterr().err
