"""One update: the same numbers however the batch is cut and on whatever mesh it runs."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from train_helpers import make_batch

from easylm_imitation.sharding import BATCH, make_mesh
from easylm_imitation.train.optimizer import OptimizerConfig, make_optimizer
from easylm_imitation.train.skip import skipping
from easylm_imitation.train.state import TrainState, abstract_state, bytes_per_device, init_state
from easylm_imitation.train.step import make_step

_ADAM = make_optimizer(OptimizerConfig(learning_rate=0.01, warmup=4, schedule="linear"), 10)
_SGD = (skipping(optax.sgd(1.0)), optax.constant_schedule(1.0))


@functools.cache
def _compiled(model, mesh_text: str, optimizer: tuple = _ADAM, accumulate: int = 1):
    """(mesh, abstract state, step) in float32; kept, because compiling is what these tests cost."""
    mesh = make_mesh(mesh_text, jax.devices()[:1] if mesh_text == "fsdp:1" else None)
    abstract = abstract_state(model, optimizer[0], mesh)
    return mesh, abstract, make_step(model, *optimizer, mesh, abstract, dtype=jnp.float32, loss_chunk=8, z_loss=1e-3,
                                     accumulate=accumulate)


@functools.cache
def _fresh(model, mesh_text: str = "fsdp:1", optimizer: tuple = _ADAM) -> TrainState:
    """Fresh weights in host memory."""
    mesh, abstract, _ = _compiled(model, mesh_text, optimizer)
    with jax.set_mesh(mesh):
        return jax.device_get(init_state(model, optimizer[0], abstract, seed=0))


def _start(model, mesh_text: str = "fsdp:1", optimizer: tuple = _ADAM) -> TrainState:
    """Fresh weights on a mesh."""
    abstract = _compiled(model, mesh_text, optimizer)[1]
    return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), _fresh(model, optimizer=optimizer), abstract)


def _run(model, batches, mesh_text: str = "fsdp:1", optimizer: tuple = _ADAM, accumulate: int = 1):
    """Trains fresh weights on the batches; returns the state and the metrics of each update."""
    mesh, _, step = _compiled(model, mesh_text, optimizer, accumulate)
    state, metrics = _start(model, mesh_text, optimizer), []
    with jax.set_mesh(mesh):
        for batch in batches:
            state, scalars = step(state, jax.device_put(batch, NamedSharding(mesh, BATCH)))
            metrics.append(jax.device_get(scalars))
    return state, metrics


def _assert_close(one: TrainState, other: TrainState, atol: float) -> None:
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol)


def test_micro_batches_equal_one_batch_with_uneven_masks(tiny_llama, batch):
    masks = batch["loss_weights"].reshape(2, 4, -1).sum((1, 2))
    assert masks[1] > 1.5 * masks[0]                # a mean of means would be far off
    # plain gradient descent, because Adam hides a wrong scale of the gradient
    whole, (one,) = _run(tiny_llama[0], [batch], optimizer=_SGD)
    parts, (four,) = _run(tiny_llama[0], [batch], optimizer=_SGD, accumulate=4)
    for name in one:
        np.testing.assert_allclose(one[name], four[name], rtol=1e-5, err_msg=name)
    _assert_close(whole, parts, atol=2e-7)


@pytest.mark.parametrize("mesh_text", ["fsdp:8", "data:8", "fsdp:2,tensor:2,data:2"])
def test_eight_devices_give_the_loss_curve_of_one(tiny_llama, mesh_text):
    batches = [make_batch(8, seed) for seed in range(4)]
    alone, expected = _run(tiny_llama[0], batches)
    spread, measured = _run(tiny_llama[0], batches, mesh_text)
    for name, rtol in (("loss", 2e-6), ("z_loss", 2e-6), ("grad_norm", 2e-5), ("tokens", 0), ("learning_rate", 0)):
        np.testing.assert_allclose([m[name] for m in measured], [m[name] for m in expected], rtol=rtol, err_msg=name)
    _assert_close(alone, spread, atol=2e-4)         # a hundredth of what four updates move


def test_fresh_weights_do_not_depend_on_the_mesh(tiny_llama):
    _assert_close(_fresh(tiny_llama[0]), _fresh(tiny_llama[0], "fsdp:8"), atol=1e-8)


def test_each_device_holds_its_share_of_weights_and_moments(tiny_llama):
    state, _ = _run(tiny_llama[0], [make_batch(8)], "fsdp:8")
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    whole, share = (bytes_per_device(_compiled(tiny_llama[0], mesh)[1]) for mesh in ("fsdp:1", "fsdp:8"))
    assert held == share < whole / 6                # norms are small and replicated


def test_the_logged_learning_rate_is_the_applied_one_and_the_old_state_is_given_up(tiny_llama, batch):
    mesh, _, step = _compiled(tiny_llama[0], "fsdp:1")
    state = _start(tiny_llama[0])
    before = np.array(state.params["unembed"]["kernel"])    # a view would keep the old memory from being reused
    with jax.set_mesh(mesh):
        after, metrics = step(state, jax.device_put(batch, NamedSharding(mesh, BATCH)))
    moved = np.abs(np.asarray(after.params["unembed"]["kernel"]) - before).max()
    assert float(metrics["learning_rate"]) == pytest.approx(0.0025)
    assert moved == pytest.approx(0.0025, rel=1e-3)     # Adam's first step is the learning rate, in every entry
    assert state.params["unembed"]["kernel"].is_deleted()


def test_a_batch_without_loss_changes_nothing(tiny_llama, batch):
    batch["loss_weights"][:] = 0
    state, (metrics,) = _run(tiny_llama[0], [batch])
    assert (metrics["loss"], metrics["grad_norm"], metrics["loss_tokens"]) == (0, 0, 0)
    _assert_close(state, _start(tiny_llama[0]), atol=0)
