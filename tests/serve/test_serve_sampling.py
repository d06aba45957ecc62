"""The on-device sampler against plain numpy: cut-offs, frequencies, independence of batch mates."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from easylm_imitation.serve.sampling import _cut, describe, neutral, sample

V = 50
draw_counted = jax.jit(sample)


def draw(logits, own, positions, allowed):
    return draw_counted(logits, own, positions, allowed, jnp.zeros(logits.shape, jnp.int32))


def knobs(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=None):
    seeds = np.stack([np.zeros(rows), np.arange(rows) if seed is None else np.full(rows, seed)], 1).astype(np.uint32)
    return neutral(rows, jnp)._replace(
        temperature=jnp.full(rows, temperature), top_k=jnp.full(rows, top_k), top_p=jnp.full(rows, top_p, jnp.float32),
        min_p=jnp.full(rows, min_p, jnp.float32), seed=jnp.asarray(seeds))


def kept_by_numpy(row, top_k, top_p, min_p):
    order = np.argsort(-row, kind="stable")
    kept = order[:top_k] if top_k else order
    p = np.exp(row[kept] - row[kept].max())
    p /= p.sum()
    if top_p < 1:
        kept = kept[:int(np.searchsorted(np.cumsum(p), top_p)) + 1]
    return {int(i) for i in kept if np.exp(row[i] - row.max()) >= min_p}


CUTS = [(1, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.3, 0.0), (0, 0.9, 0.0), (7, 0.6, 0.0), (V + 9, 1.0, 0.0), (0, 0.0, 0.0),
        (0, 1.0, 0.2), (4, 0.9, 0.3), (0, 1.0, 1.0)]


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), CUTS)
def test_cut_offs_keep_what_numpy_keeps(top_k, top_p, min_p):
    logits = np.random.default_rng(0).normal(size=(20, V)).astype(np.float32) * 3
    cut = np.asarray(jax.jit(_cut)(jnp.asarray(logits), knobs(20, top_k=top_k, top_p=top_p, min_p=min_p)))
    for row, found in zip(logits, cut):
        assert set(np.flatnonzero(found > -np.inf).tolist()) == kept_by_numpy(row, top_k, top_p, min_p)


def test_draws_follow_the_distribution_and_the_seed_alone():
    logits = np.random.default_rng(1).normal(size=V).astype(np.float32) * 1.5
    rows = 3000
    batch, start = jnp.tile(logits, (rows, 1)), jnp.zeros(rows, jnp.int32)
    own = knobs(rows, 0.7)
    many = np.asarray(draw(batch, own, start, jnp.int32(V)))
    expected = np.asarray(jax.nn.softmax(logits / 0.7))
    assert np.abs(np.bincount(many, minlength=V) / rows - expected).max() < 4 * np.sqrt(0.25 / rows)
    turned = draw(batch, own._replace(seed=own.seed[::-1]), start, jnp.int32(V))    # other rows, the same seeds
    assert np.array_equal(turned[::-1], many)
    moved = np.asarray(draw(batch, knobs(rows, 0.7, seed=3), jnp.arange(rows), jnp.int32(V)))
    assert np.abs(np.bincount(moved, minlength=V) / rows - expected).max() < 4 * np.sqrt(0.25 / rows)


def test_rows_choose_by_their_own_knobs_and_padding_ids_never():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(4, V)).astype(np.float32)).at[:, -1].set(50.0)
    mixed = knobs(4)._replace(temperature=jnp.asarray([0.0, 1.0, 0.0, 100.0]))
    found = [np.asarray(draw(logits, mixed, jnp.full(4, p), jnp.int32(V - 1))) for p in range(20)]
    best = np.asarray(logits)[:, :-1].argmax(-1)
    assert all(row[0] == best[0] and row[2] == best[2] for row in found)
    assert len({int(row[3]) for row in found}) > 5
    assert max(row.max() for row in found) < V - 1


def test_bias_and_penalties_shift_each_row_by_its_own():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(4, V)).astype(np.float32)
    counts = rng.integers(0, 3, (4, V)).astype(np.int32)
    own = knobs(4, 0.0)
    own = own._replace(bias_ids=own.bias_ids.at[1, :2].set(jnp.asarray([3, 9])),
                       biases=own.biases.at[1, :2].set(jnp.asarray([2.5, -1.0])),
                       presence=jnp.asarray([0, 0, 1.5, 0.0]), frequency=jnp.asarray([0, 0, 0.0, 0.7]))
    wanted = logits.copy()
    wanted[1, [3, 9]] += [2.5, -1.0]
    wanted[2] -= 1.5 * (counts[2] > 0)
    wanted[3] -= np.float32(0.7) * counts[3]
    found = draw_counted(jnp.asarray(logits), own, jnp.zeros(4, jnp.int32), jnp.int32(V), jnp.asarray(counts))
    assert np.asarray(found).tolist() == wanted.argmax(-1).tolist()
    assert wanted.argmax(-1).tolist() != logits.argmax(-1).tolist()


def test_the_chosen_tokens_logprob_is_the_float_among_the_alternatives():
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(9, V)).astype(np.float32))
    best = jnp.argmax(logits, -1).astype(jnp.int32)
    out = jax.jit(lambda x, i: describe(x, i, jnp.bool_(True), 5, V))(logits, best)
    assert np.array_equal(out.logprobs, out.top_logprobs[:, 0])
    assert np.array_equal(out.top_ids[:, 0], best)
    np.testing.assert_allclose(out.logprobs, jax.nn.log_softmax(logits)[jnp.arange(9), best], atol=1e-6)
