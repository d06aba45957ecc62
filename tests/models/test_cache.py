import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import logits, made

from easylm_imitation.models import LlamaConfig, create, put_rows, unstack

LENGTH = 16     # of the caches


@functools.cache
def extender(model, span=None):
    def run(params, tokens, positions, cache):
        hidden, cache = model.extend(params, tokens, positions, cache, dtype=jnp.float32, span=span)
        return model.unembed(params, hidden), cache
    return jax.jit(run, donate_argnums=3)


def tokens_for(rows, length, seed):
    tokens = np.random.default_rng(seed).integers(0, 64, (rows, length)).astype(np.int32)
    return tokens, np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))


def generate(model, params, cache, tokens, prompt, padded=8, span=None):
    """Logits of each of tokens [B, T]: a padded prefill of `prompt` tokens, then one token at a time."""
    run, rows = extender(model, span), len(tokens)
    prefill = np.zeros((rows, padded), np.int32)
    prefill[:, :prompt] = tokens[:, :prompt]
    positions = np.broadcast_to(np.where(np.arange(padded) < prompt, np.arange(padded), LENGTH), prefill.shape)
    out, cache = run(params, prefill, positions.astype(np.int32), cache)
    parts = [np.asarray(out)[:, :prompt]]
    for t in range(prompt, tokens.shape[1]):
        out, cache = run(params, tokens[:, t:t + 1], np.full((rows, 1), t, np.int32), cache)
        parts.append(np.asarray(out))
    return np.concatenate(parts, axis=1), cache


@pytest.mark.parametrize(("name", "stacked"), [("llama", True), ("mistral", True), ("gpt2", True),
                                                ("qwen2", False)])
def test_prefill_and_decode_equal_the_full_forward_also_after_slot_reuse(name, stacked):
    model, params = made(name)
    held = params if stacked else unstack(params)
    cache = model.init_cache(2, LENGTH, stacked=stacked)
    first, positions = tokens_for(2, 14, seed=1)
    got, cache = generate(model, held, cache, first, prompt=6)
    np.testing.assert_allclose(got, logits(model, params, first, positions), atol=2e-5)
    second, _ = tokens_for(2, 14, seed=2)
    got, _ = generate(model, held, cache, second[:, :9], prompt=3)      # shorter: old keys still stand behind it
    np.testing.assert_allclose(got, logits(model, params, second, positions)[:, :9], atol=2e-5)


def test_rows_at_different_positions_and_idle_rows_do_not_touch_each_other():
    model, params = made("llama")
    run = extender(model)
    tokens, positions = tokens_for(1, 8, seed=3)
    whole = logits(model, params, tokens, positions)
    _, one = generate(model, params, model.init_cache(1, LENGTH), tokens[:, :5], prompt=5)
    cache = put_rows(model.init_cache(3, LENGTH), one, 1)
    idle = LENGTH       # rows 0 and 2 hold nobody
    for t in range(5, 8):
        at = np.array([[idle], [t], [idle]], np.int32)
        out, cache = run(params, np.array([[9], [tokens[0, t]], [9]], np.int32), at, cache)
        np.testing.assert_allclose(out[1, 0], whole[0, t], atol=2e-5)
    assert not np.any(np.asarray(cache["k"])[:, [0, 2]]), "an idle row was written"


def test_a_span_sees_all_positions_below_it():
    model, params = made("gpt2")
    tokens, positions = tokens_for(2, 14, seed=4)
    got, _ = generate(model, params, model.init_cache(2, LENGTH), tokens[:, :8], prompt=4, span=8)
    wanted = logits(model, params, tokens, positions)[:, :8]
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    blind, _ = generate(model, params, model.init_cache(2, LENGTH), tokens[:, :8], prompt=4, span=4)
    np.testing.assert_allclose(blind[:, :4], wanted[:, :4], atol=2e-5)
    assert np.abs(blind[:, 5:] - wanted[:, 5:]).max() > 1e-2, "a broken promise shows that the rest was spared"


def test_stacked_and_unstacked_do_not_mix():
    model, params = made("gpt2")
    with pytest.raises(ValueError, match="both be stacked"):
        model.extend(unstack(params), *tokens_for(1, 2, 0), model.init_cache(1, LENGTH))


def test_the_cache_is_updated_in_place_and_never_copied_whole():
    model = create(LlamaConfig(64, 512, layers=8, d_model=64, heads=4, d_ff=64))
    cache = model.init_cache(8, 512)
    tokens = np.zeros((8, 1), np.int32)
    compiled = extender(model).lower(model.abstract(), tokens, tokens, cache).compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 0.5 * size
    assert memory.alias_size_in_bytes >= size
