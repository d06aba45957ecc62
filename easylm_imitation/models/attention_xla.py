"""Attention in plain einsums: `reference`, which is the definition, and `chunked`, which long rows need."""
import functools

import jax
import jax.numpy as jnp

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
    """The reference over chunks of queries, recomputed backward.

    In its own row a chunk skips the keys behind its last query and those that the window hides from its first.
    """
    length, own = q.shape[1], positions is None or key_positions is None
    size = max(SMALLEST_CHUNK, -(-length // _CHUNKS))
    if positions is None or key_positions is None:
        positions = key_positions = _order(q)

    @jax.checkpoint
    def step(q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array | None) -> jax.Array:
        return _attend(q, k, v, visible(*rest, window))
    chunks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        first, last = (max(0, start - window + 1) if window else 0, end) if own else (0, k.shape[1])
        mine, seen = functools.partial(_cut, start=start, end=end), functools.partial(_cut, start=first, end=last)
        chunks.append(step(mine(q), seen(k), seen(v), mine(positions), seen(key_positions), mine(segment_ids),
                           seen(segment_ids)))
    return jnp.concatenate(chunks, axis=1)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> jax.Array:
    """All scores [B, K, N/K, T, S] of what is `seen` [B or 1, T, S]."""
    b, t, n, h = q.shape
    grouped = q.reshape(b, t, k.shape[2], n // k.shape[2], h)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32) * h ** -0.5
    scores = jnp.where(seen[:, None, None], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(b, t, n, h)


def _order(q: jax.Array) -> jax.Array:
    return jnp.arange(q.shape[1])[None]


def _cut(x: jax.Array | None, start: int, end: int) -> jax.Array | None:
    return None if x is None else x[:, start:end]
