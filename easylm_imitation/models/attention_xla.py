"""Attention in plain einsums: `reference`, which is the definition, and `chunked`, which long rows need."""
import functools

import jax
import jax.numpy as jnp

from easylm_imitation.sharding import one_device, platform

_HIDDEN = -1e30           # a score that softmax turns into 0, finite so that a row of it makes no NaN
_CHUNKS = 8               # at most so many query chunks: each is unrolled, so that it can skip the keys behind it
SMALLEST_CHUNK = 256


def visible(positions: jax.Array, key_positions: jax.Array, segment_ids: jax.Array | None,
            key_segment_ids: jax.Array | None, window: int) -> jax.Array:
    """Which keys each query sees, bool [B, T, S]: of its segment, at its position or before, inside the window."""
    distance = positions[:, :, None] - key_positions[:, None, :]
    seen = distance >= 0 if not window else (distance >= 0) & (distance < window)
    if segment_ids is not None and key_segment_ids is not None:
        seen &= key_segment_ids[:, None, :] == segment_ids[:, :, None]
    return seen


def reference(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, window: int,
              positions: jax.Array | None = None, key_positions: jax.Array | None = None) -> jax.Array:
    """All scores at once. Positions, [B or 1, T] and [B or 1, S], are the order of the row unless given."""
    if positions is None or key_positions is None:
        positions = key_positions = _order(q)
    return _attend(q, k, v, visible(positions, key_positions, segment_ids, segment_ids, window))


def chunked(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, window: int,
            positions: jax.Array | None = None, key_positions: jax.Array | None = None) -> jax.Array:
    """The reference over chunks of queries, whose scores are computed again backward.

    In its own row a chunk skips the keys behind its last query and those that the window hides from its first. One CPU
    takes row by row, so that a chunk's scores stay in its cache.
    """
    if positions is None and q.shape[0] > 1 and one_device() and platform() == "cpu":
        row = functools.partial(_row_of_chunks, window=window)
        return jax.lax.map(row, (q, k, v) if segment_ids is None else (q, k, v, segment_ids))
    length, own = q.shape[1], positions is None or key_positions is None
    size = max(SMALLEST_CHUNK, -(-length // _CHUNKS))
    if positions is None or key_positions is None:
        positions = key_positions = _order(q)

    chunks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        first, last = (max(0, start - window + 1) if window else 0, end) if own else (0, k.shape[1])
        mine, seen = functools.partial(_cut, start=start, end=end), functools.partial(_cut, start=first, end=last)
        hidden = ~visible(mine(positions), seen(key_positions), mine(segment_ids), seen(segment_ids), window)
        chunks.append(_attend_again(mine(q), seen(k), seen(v), hidden))
    return jnp.concatenate(chunks, axis=1)


def _row_of_chunks(row: tuple[jax.Array, ...], window: int) -> jax.Array:
    """`chunked` of one row: q, k, v [T, N, H] and perhaps its segments."""
    q, k, v, *segments = (part[None] for part in row)
    return chunked(q, k, v, *segments or (None,), window)[0]


@jax.custom_vjp
def _attend_again(q: jax.Array, k: jax.Array, v: jax.Array, hidden: jax.Array) -> jax.Array:
    """`_attend` of all but what is `hidden` [B or 1, T, S]; backward it remembers one number a query of the softmax.

    The formulas are those of Dao 2023 (arXiv 2307.08691, section 2.2 and algorithm 2), for one block. They need fewer
    passes over the scores than the derivative of a softmax that is differentiated step by step.
    """
    return _attend_forward(q, k, v, hidden)[0]


def _attend_forward(q: jax.Array, k: jax.Array, v: jax.Array, hidden: jax.Array) -> tuple[jax.Array, tuple]:
    heads = _by_head(q, k), _by_head(k, k)[:, :, 0], _by_head(v, k)[:, :, 0]
    scores = _scores(heads[0], heads[1], hidden)
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("bkgts,bksh->bkgth", weights.astype(v.dtype), heads[2], preferred_element_type=jnp.float32)
    out = (out / total).astype(v.dtype)
    return _by_row(out), (*heads, hidden, out, top + jnp.log(total))


def _attend_backward(saved: tuple, slope: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, hidden, out, log_total = saved
    slope = _by_head(slope, k.swapaxes(1, 2))
    mean = jnp.sum(out.astype(jnp.float32) * slope.astype(jnp.float32), axis=-1, keepdims=True)
    weights = jnp.exp(_scores(q, k, hidden) - log_total)
    of_weights = jnp.einsum("bkgth,bksh->bkgts", slope, v, preferred_element_type=jnp.float32)
    of_scores = (weights * (of_weights - mean) * q.shape[-1] ** -0.5).astype(q.dtype)
    of_q = jnp.einsum("bkgts,bksh->bkgth", of_scores, k)
    # [.., H, S] and not [.., S, H]: so it is the small factor that a CPU has to transpose, and not the scores
    of_k = jnp.einsum("bkgth,bkgts->bkhs", q, of_scores)
    of_v = jnp.einsum("bkgth,bkgts->bkhs", slope, weights.astype(v.dtype))
    return _by_row(of_q), jnp.moveaxis(of_k, 3, 1), jnp.moveaxis(of_v, 3, 1), None


_attend_again.defvjp(_attend_forward, _attend_backward)


def _scores(q: jax.Array, k: jax.Array, hidden: jax.Array) -> jax.Array:
    """q [B, K, G, T, H], k [B, K, S, H] -> [B, K, G, T, S] float32."""
    scores = jnp.einsum("bkgth,bksh->bkgts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.where(hidden[:, None, None], _HIDDEN, scores)


def _by_head(x: jax.Array, keys: jax.Array) -> jax.Array:
    """[B, T, N, H] -> [B, K, N/K, T, H], for `keys` of K heads."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], keys.shape[2], -1, x.shape[3]), 1, 3)


def _by_row(x: jax.Array) -> jax.Array:
    """[B, K, G, T, H] -> [B, T, K * G, H]."""
    return jnp.moveaxis(x, 3, 1).reshape(x.shape[0], x.shape[3], -1, x.shape[4])


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> jax.Array:
    """All scores [B, K, N/K, T, S] of what is `seen` [B or 1, T, S]."""
    b, t, n, h = q.shape
    grouped = q.reshape(b, t, k.shape[2], n // k.shape[2], h)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32) * h ** -0.5
    scores = jnp.where(seen[:, None, None], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return _by_row(jnp.einsum("bkgts,bskh->bkgth", weights, v))     # asked for as [b, t, ...], a CPU turns v around


def _order(q: jax.Array) -> jax.Array:
    return jnp.arange(q.shape[1])[None]


def _cut(x: jax.Array | None, start: int, end: int) -> jax.Array | None:
    return None if x is None else x[:, start:end]
