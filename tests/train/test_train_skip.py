"""Updates that are skipped: nothing of them is left in the weights, the run goes on, and a run of them ends it."""
import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train_helpers import tiny_config

from easylm_imitation.data import Loader
from easylm_imitation.schema import UserError
from easylm_imitation.train import OptimizerConfig, read_metrics, train
from easylm_imitation.train.optimizer import make_optimizer
from easylm_imitation.train.skip import NOT_FINITE, SPIKE, skipping
from easylm_imitation.weights import RunDir, open_model

_CLOCK = ("seconds", "tokens_per_second", "tokens_per_second_per_device")


def _weights(workdir) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(open_model(workdir).params)]


def _history(workdir) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in _CLOCK} for line in read_metrics(RunDir(workdir).metrics)]


def _bits(tree) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.fixture
def spoilt(monkeypatch):
    """Takes update numbers (from 1); their batches get one loss weight that is infinite."""
    def spoil(*numbers: int) -> None:
        real = Loader.__next__

        def spoilt_next(loader: Loader):
            batch = real(loader)
            if loader.get_state()["grain"]["next_index"] in numbers:
                batch = {name: array.copy() for name, array in batch.items()}
                batch["loss_weights"][0, 1] = np.inf
            return batch
        monkeypatch.setattr(Loader, "__next__", spoilt_next)
    return spoil


@pytest.mark.parametrize("name", ["adamw", "scaled_adamw", "adafactor", "lion", "muon"])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_skipped_update_leaves_every_bit_but_the_counts(name, bad):
    optimizer, _ = make_optimizer(OptimizerConfig(name=name, weight_decay=0.1), 10)
    params = {"layers": {"up": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4)), jnp.float32)}},
              "norm": {"scale": jnp.float32([0.0, -0.0, 1e-30, 1.0])}}

    @jax.jit
    def step(params, state, gradient, i, loss):
        updates, state = optimizer.update(gradient, state, params, step=i, loss=loss)
        return optax.apply_updates(params, updates), state

    params, state = step(params, optimizer.init(params), jax.tree.map(jnp.ones_like, params), 0, 1.0)
    params["norm"]["scale"] = params["norm"]["scale"].at[1].set(-0.0)
    gradient = jax.tree.map(jnp.ones_like, params)
    if bad == "gradient":
        gradient["norm"]["scale"] = gradient["norm"]["scale"].at[0].set(jnp.nan)
    kept, after = step(params, state, gradient, 1, jnp.float32(jnp.inf if bad == "loss" else 1.0))
    assert _bits(kept) == _bits(params)
    assert _bits(after.inner) == _bits(state.inner)
    assert (int(after.reason), int(after.skipped), int(after.in_a_row), int(after.applied)) == (NOT_FINITE, 1, 1, 1)
    moved, later = step(kept, after, jax.tree.map(jnp.ones_like, params), 2, 1.0)
    straight, _ = step(params, state, jax.tree.map(jnp.ones_like, params), 2, 1.0)
    assert _bits(moved) == _bits(straight) != _bits(kept)       # and learns at the rate of its own step
    assert (int(later.reason), int(later.skipped), int(later.in_a_row), int(later.applied)) == (0, 1, 0, 2)


def test_a_spike_is_judged_by_the_mean_of_the_applied_gradients():
    optimizer = skipping(optax.sgd(0.0), spike_factor=4.0)
    params = {"w": jnp.zeros(1)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    usual, count, random = 0.0, 0, np.random.default_rng(0)
    for i in range(80):
        norm = float(random.uniform(0.5, 1.5)) * (100.0 if i in (3, 40, 41, 60) else 1.0)
        expected = count >= 25 and norm > 4 * usual / (1 - 0.97**count)
        _, state = update({"w": jnp.float32([-norm])}, state, params, loss=jnp.float32(1))
        assert int(state.reason) == (SPIKE if expected else 0), i
        if not expected:
            usual, count = 0.97 * usual + 0.03 * norm, count + 1
    assert (int(state.skipped), int(state.applied)) == (3, 77)      # the early one was taken: nothing was usual yet
    never = skipping(optax.sgd(0.0))
    _, state = update(params, never.init(params), params, loss=jnp.float32(1))
    assert int(state.skipped) == 0


def test_a_run_goes_on_after_a_bad_batch_and_resumes_across_it_bit_for_bit(data, tmp_path, spoilt, capsys):
    spoilt(4, 6)
    config = tiny_config(optimizer=OptimizerConfig(learning_rate=0.01, spike_factor=50.0), log_every=100)
    result = train(config, data_dir=data, workdir=tmp_path / "whole")
    assert (result.step, np.isfinite(result.loss)) == (9, True)
    assert "step 4: loss" in capsys.readouterr().err
    lines = {line["step"]: line for line in _history(tmp_path / "whole")}
    assert {step: (line["skipped"], line.get("skip_reason")) for step, line in lines.items()} == {
        1: (0, None), 4: (1, "not finite"), 6: (2, "not finite"), 9: (2, None)}     # skipped ones always have a line
    assert lines[4]["loss"] is None
    assert RunDir(tmp_path / "whole").steps() == [3, 9]         # none where the last update was skipped as not finite

    train(config, data_dir=data, workdir=tmp_path / "parts", stop_after=5)
    train(dataclasses.replace(config, max_skips=1), data_dir=data, workdir=tmp_path / "parts")
    assert _history(tmp_path / "parts")[-1] == lines[9]
    assert _bits(_weights(tmp_path / "parts")) == _bits(_weights(tmp_path / "whole"))


@pytest.mark.slow
def test_updates_that_are_never_finite_end_the_run_and_the_last_good_weights_stay(data, tmp_path, spoilt):
    spoilt(4, 5, 6, 7, 8, 9)
    config = tiny_config(max_skips=2, checkpoint_every=1)
    with pytest.raises(UserError, match=r"step 6: loss nan.*updates in a row skipped: 3, not finite.*Lower optimizer"):
        train(config, data_dir=data, workdir=tmp_path / "run")
    assert RunDir(tmp_path / "run").steps() == [1, 2, 3]
    train(dataclasses.replace(config, name="run"), data_dir=data, workdir=tmp_path / "good", stop_after=3)
    assert _bits(_weights(tmp_path / "run")) == _bits(_weights(tmp_path / "good"))
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(UserError, match="step 6: "):            # again, from the checkpoint
        train(config, data_dir=data, workdir=tmp_path / "run")
    assert [line["step"] for line in _history(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_no_skip_is_allowed_when_none_is(data, tmp_path, spoilt):
    spoilt(2)
    with pytest.raises(UserError, match="step 2: "):
        train(tiny_config(max_skips=0), data_dir=data, workdir=tmp_path / "run")
