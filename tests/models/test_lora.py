"""Adapters: what they add, what they learn, and where they lie."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiny_models import made, packed

from easylm_imitation.models import Adapters, LoraConfig, merged
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import leaf_paths, make_mesh, shardings

TARGETS = {"llama": "layers/(attention/(q|out)|mlp/down)/kernel", "gpt2": "layers/(attention/qkv|mlp/up)/kernel"}


def adapted(name, **keys):
    """(adapters, base, numbers): a tiny model, and adapters none of whose numbers is zero."""
    model, base = made(name)
    adapters = Adapters(model, LoraConfig(TARGETS[name], rank=3, alpha=6.0, **keys), seed=5)
    rng = np.random.default_rng(1)
    numbers = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32) / 4, adapters.abstract())
    return adapters, base, numbers


def total(model, params):
    """A number that depends on every state of every token."""
    hidden = model.hidden(params, *packed(), dtype=jnp.float32)
    return jnp.sum(jnp.sin(3 * hidden))


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_adapters_add_their_product_and_learn_by_the_chain_rule_through_it(name):
    adapters, base, numbers = adapted(name)
    model, scale = adapters.model, 6.0 / 3
    whole = merged(adapters.attach(base, numbers))
    run = jax.jit(jax.value_and_grad(lambda own: total(model, adapters.attach(base, own))))
    value, ours = run(numbers)
    value_whole, full = jax.jit(jax.value_and_grad(lambda params: total(model, params)))(whole)
    np.testing.assert_allclose(value, value_whole, rtol=1e-4)
    full, found = leaf_paths(full), leaf_paths(ours)
    for path in adapters.targets():     # dL/dA = s dL/dW Bᵀ and dL/dB = s Aᵀ dL/dW, in float64
        module = path.removesuffix("/kernel")
        a, b = (np.asarray(leaf_paths(numbers)[f"{module}/{part}"], np.float64) for part in "ab")
        slope = np.asarray(full[path], np.float64).reshape(*a.shape[:2], -1)
        np.testing.assert_allclose(found[f"{module}/a"], scale * slope @ b.reshape(*b.shape[:2], -1).swapaxes(1, 2),
                                   atol=2e-3)
        expected = scale * a.swapaxes(1, 2) @ slope
        np.testing.assert_allclose(found[f"{module}/b"], expected.reshape(b.shape), atol=2e-3)
    untouched = set(leaf_paths(base)) - set(adapters.targets())
    assert all(leaf_paths(whole)[path] is leaf_paths(base)[path] for path in untouched)


def test_dropout_takes_a_share_of_each_rows_inputs_the_same_in_any_batch():
    adapters, base, numbers = adapted("llama", dropout=0.5)
    x = np.random.default_rng(2).standard_normal((2, 400, 16), np.float32)

    def of(rows, seeds):
        leaf = adapters.attach(base, numbers, seeds)["layers"]["attention"]["q"]["kernel"]
        return jax.tree.map(lambda part: part[0], leaf).times(x[rows])      # of the first layer
    seeds = adapters.row_seeds(jnp.int32(7), 2)
    both = of([0, 1], seeds)
    np.testing.assert_allclose(both, np.concatenate([of([0], seeds[:1]), of([1], seeds[1:])]), atol=1e-5)
    assert not np.allclose(of([0], seeds[1:]), both[:1], atol=0.1)      # another row's seed
    assert not np.allclose(of([0, 1], adapters.row_seeds(jnp.int32(8), 2)), both, atol=0.1)     # another update
    plain = dataclasses.replace(adapters, config=dataclasses.replace(adapters.config, dropout=0.0))
    assert plain.row_seeds(jnp.int32(7), 2) is None
    leaf = adapters.attach(base, numbers, seeds)["layers"]["attention"]["q"]["kernel"]
    one = jax.tree.map(lambda part: part[0], leaf)      # of the first layer
    own = dataclasses.replace(one, a=jnp.eye(16), b=jnp.eye(16), scale=1.0).times(jnp.ones((2, 400, 16)))
    assert set(np.unique(own)) == {0.0, 2.0}
    assert 0.47 < float((own == 0).mean()) < 0.53


def test_an_adapter_lies_as_its_kernel_does():
    adapters, *_ = adapted("llama")
    places = leaf_paths(shardings(make_mesh("fsdp:4,tensor:2"), adapters.rules(), dataclasses.replace(
        adapters, config=dataclasses.replace(adapters.config, rank=4)).abstract()))
    assert {path: where.spec for path, where in places.items() if "attention/q/" in path or "down" in path} == {
        "layers/attention/q/a": P(None, "fsdp", None), "layers/attention/q/b": P(None, None, "tensor"),
        "layers/mlp/down/a": P(None, "tensor", None), "layers/mlp/down/b": P(None, None, "fsdp")}


@pytest.mark.parametrize(("targets", "said"), [
    ("layers/attention/w/kernel", "matches no parameter"), (".*", "'embed/embedding', which no adapter"),
    ("layers/attention_norm/scale", "which no adapter")])
def test_targets_that_cannot_be_adapted_are_refused_by_name(targets, said):
    with pytest.raises(UserError, match=f"{said}.*layers/attention/q/kernel"):
        Adapters(made("llama")[0], LoraConfig(targets))


@pytest.mark.parametrize("keys", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": "("}])
def test_impossible_settings_are_refused(keys):
    with pytest.raises(ValueError, match=next(iter(keys))):
        LoraConfig(**keys)
