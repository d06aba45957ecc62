import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import CONFIGS, LENGTHS, ROW, logits, made, packed

from easylm_imitation.models import create, stack, unstack
from easylm_imitation.models.model import _POLICIES

every_family = pytest.mark.parametrize("name", CONFIGS)


@every_family
def test_a_packed_row_gives_each_conversation_what_it_gets_alone(name):
    model, params = made(name)
    tokens, positions, segments = packed()
    together = logits(model, params, tokens, positions, segments)
    starts = np.cumsum([0, *LENGTHS[:-1]])
    alone = np.stack([np.roll(tokens[0], -start) for start in starts])      # what follows a conversation cannot be seen
    got = logits(model, params, alone, np.broadcast_to(np.arange(ROW), alone.shape))
    for row, (start, length) in enumerate(zip(starts, LENGTHS, strict=True)):
        np.testing.assert_allclose(together[0, start:start + length], got[row, :length], atol=2e-5)


@pytest.mark.parametrize("backend", ["chunked", "splash"])
def test_positions_place_tokens_and_hide_none(backend):
    model, params = made("mistral")
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (1, 600)).astype(np.int32)
    positions, segments = 700 - np.cumsum(rng.integers(0, 2, tokens.shape), axis=1), np.repeat([[1, 2]], 300, axis=1)
    wanted, got = (model.hidden(params, tokens, positions, segments, dtype=jnp.float32, attention=name)
                   for name in ("reference", backend))
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    in_order = model.hidden(params, tokens, np.arange(600)[None], segments, dtype=jnp.float32)
    assert np.abs(in_order - wanted).max() > 1e-2


def test_unstacked_layers_give_what_the_scan_gives():
    model, params = made("qwen2")
    apart = unstack(params)
    assert isinstance(apart["layers"], tuple)
    assert len(apart["layers"]) == 2
    np.testing.assert_allclose(logits(model, apart, *packed()), logits(model, params, *packed()), atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stack(apart), params)
    assert stack(params) is params
    assert unstack(apart) is apart


def gradient(model, rows, **how):
    def loss(params):
        return jnp.sum(jnp.sin(model.hidden(params, *rows, dtype=jnp.float32, **how)))
    return jax.jit(jax.grad(loss))


def assert_recomputation_changes_nothing(name, cases):
    model, params = made(name)
    wanted = gradient(model, packed())(params)
    for given, how in cases:
        got = stack(gradient(model, packed(), **how)(unstack(params) if given == "unstacked" else params))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), got, wanted)
    return wanted


def test_recomputation_changes_no_gradient():
    wanted = assert_recomputation_changes_nothing("qwen2", [
        ("unstacked", {"remat": "full"}), ("stacked", {"remat": "dots"}), ("stacked", {"remat": "save-qkv"}),
        ("stacked", {"remat": "offload"}), ("stacked", {"remat": "save-qkv", "unroll": True})])
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(wanted)) > 0, "a parameter that nothing depends on"


@every_family
@pytest.mark.slow
def test_recomputation_changes_no_gradient_of_any_family(name):
    assert_recomputation_changes_nothing(name, [("stacked", {"remat": remat}) for remat in ("save-qkv", "offload")])


@pytest.mark.slow
def test_what_is_remembered_grows_from_full_to_none():
    model = create(dataclasses.replace(CONFIGS["llama"], layers=6, d_ff=64))
    rows = tuple(np.tile(x, (16, 1)) for x in packed())
    held = {remat: gradient(model, rows, remat=remat).lower(model.abstract()).compile().memory_analysis()
            .temp_size_in_bytes for remat in ("full", "save-qkv", "dots", "none")}
    per_number = 4 * 6 * rows[0].size       # float32, layers, tokens
    assert list(held.values()) == sorted(held.values()), held
    assert held["save-qkv"] - held["full"] == pytest.approx(per_number * 32, rel=0.2), "q, k and v: 16 + 8 + 8 numbers"


def test_remat_and_backend_are_taken_at_their_word():
    model, params = made("llama")

    def program(params=params, **how):
        return str(jax.make_jaxpr(lambda p: model.hidden(p, *packed(), dtype=jnp.float32, **how))(params))

    assert "policy=" not in program()
    for given in (params, unstack(params)):
        assert "policy=None" in program(given, remat="full")
        assert f"policy={jax.checkpoint_policies.dots_with_no_batch_dims_saveable}" in program(given, remat="dots")
        assert f"policy={_POLICIES['save-qkv']}" in program(given, remat="save-qkv")
        assert "<host>" in str(jax.make_jaxpr(jax.grad(lambda p: model.hidden(
            p, *packed(), dtype=jnp.float32, remat="offload").sum()))(given))
    assert "_attend_again" in program(attention="chunked")
    with pytest.raises(ValueError, match="remat 'some' is not one of none, full, dots, save-qkv, offload"):
        program(remat="some")
    with pytest.raises(ValueError, match="attention backend 'some' is not one of"):
        program(attention="some")


@every_family
def test_bfloat16_flows_from_the_embedding_and_logits_are_float32(name):
    model, params = made(name)
    tokens, positions, segments = packed()
    hidden = jax.eval_shape(lambda p: model.hidden(p, tokens, positions, segments), params)
    width = 8 if name == "opt_350m" else 16     # its head works in the embedding's width
    assert (hidden.shape, hidden.dtype) == ((2, 24, width), jnp.bfloat16)
    assert jax.eval_shape(model.unembed, params, hidden).dtype == jnp.float32
    assert model.head(params).dtype == jnp.float32
    assert model.head(params).shape == (width, 64)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt_350m", "pythia"])
def test_init_is_what_abstract_says_and_what_the_family_prescribes(name):
    model = create(CONFIGS[name])
    params = jax.jit(model.init)(jax.random.key(0))
    assert jax.tree.map(jax.typeof, params) == jax.tree.map(jax.typeof, model.abstract())
    assert {leaf.dtype for leaf in jax.tree.leaves(model.abstract(jnp.bfloat16))} == {jnp.dtype(jnp.bfloat16)}
    down = params["layers"]["mlp"]["down"]["kernel"]
    residual_scale = 0.5 if name.startswith(("gpt2", "opt")) else 1.0   # 1 / sqrt(2 * 2 layers)
    assert np.std(down) == pytest.approx(0.02 * residual_scale, rel=0.1)
    assert np.std(params["embed"]["embedding"]) == pytest.approx(0.02, rel=0.1)
    assert np.abs(np.asarray(down[0] - down[1])).max() > 0, "every layer draws its own numbers"


def test_a_model_is_hashable_and_made_once():
    assert create(CONFIGS["llama"]) is create(CONFIGS["llama"])
    assert len({create(config) for config in CONFIGS.values()}) == len(CONFIGS)
