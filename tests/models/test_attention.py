import jax
import jax.numpy as jnp
import numpy as np
import pytest

from easylm_imitation.models import attention
from easylm_imitation.models.attention import BACKENDS

run = jax.jit(attention, static_argnames="backend")


def by_hand(q, k, v, positions, segments):
    """The definition, one query at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = [s for s in range(k.shape[1]) if segments[b, s] == segments[b, t] and positions[b, s] <= positions[b, t]]
        scores = np.array([q[b, t, n] @ k[b, s, n // group] for s in seen]) / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = sum(w * v[b, s, n // group] for w, s in zip(weights / weights.sum(), seen, strict=True))
    return out


def packed_row(lengths, padding):
    positions = np.concatenate([*[np.arange(n) for n in lengths], np.zeros(padding, int)])
    segments = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, padding])
    return positions[None].astype(np.int32), segments[None].astype(np.int32)


def random_qkv(length, heads=4, kv_heads=2, head_dim=8, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, length, n, head_dim), np.float32) for n in (heads, kv_heads, kv_heads)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_equals_the_definition_on_a_packed_row(backend):
    positions, segments = packed_row([6, 1, 9], padding=4)
    q, k, v = random_qkv(20)
    got = run(q, k, v, positions, segments, backend=backend)
    np.testing.assert_allclose(got, by_hand(q, k, v, positions, segments), atol=1e-5)


@pytest.mark.parametrize("backend", sorted(set(BACKENDS) - {"reference"}))
def test_backend_equals_reference_forward_and_gradient_over_many_chunks(backend):
    positions, segments = packed_row([300, 1, 261, 40], padding=28)     # three chunks, segments across their borders
    q, k, v = random_qkv(630)

    def value_and_grads(backend):
        def loss(q, k, v):
            out = attention(q, k, v, positions, segments, backend=backend)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out
        (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
        return out, *grads

    for got, wanted in zip(value_and_grads(backend), value_and_grads("reference"), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_of_another_length_are_seen_by_their_positions(backend):
    q, _, _ = random_qkv(3)
    _, k, v = random_qkv(8, seed=1)
    positions = np.array([[4, 5, 6]], np.int32)
    got = run(q, k, v, positions, None, key_positions=np.arange(8)[None], backend=backend)
    padded = np.concatenate([np.zeros((1, 4, 4, 8)), q, np.zeros((1, 1, 4, 8))], 1)
    ones = np.ones((1, 8), np.int32)
    np.testing.assert_allclose(got, by_hand(padded, k, v, np.arange(8)[None], ones)[:, 4:7], atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_token_reaches_another_conversation(backend):
    positions, segments = packed_row([6, 5, 7], padding=2)
    q, k, v = random_qkv(20)
    other_k, other_v = (np.concatenate([x[:, :6], x[:, 6:11] + 3, x[:, 11:]], 1) for x in (k, v))
    before = run(q, k, v, positions, segments, backend=backend)
    after = run(q, other_k, other_v, positions, segments, backend=backend)
    changed = np.abs(np.asarray(before) - np.asarray(after)).max(axis=(0, 2, 3)) > 0
    np.testing.assert_array_equal(changed, (segments == 2)[0])


def test_bfloat16_keeps_its_dtype_and_sums_in_float32():
    positions, segments = packed_row([40], padding=0)
    q, k, v = random_qkv(40)
    narrow = run(*(x.astype(jnp.bfloat16) for x in (q, k, v)), positions, segments)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(np.float32), by_hand(q, k, v, positions, segments), atol=0.03)


def test_an_unknown_backend_is_refused():
    q, k, v = random_qkv(4)
    with pytest.raises(ValueError, match="attention backend 'flash' is not one of auto, reference, chunked"):
        attention(q, k, v, *packed_row([4], 0), backend="flash")
