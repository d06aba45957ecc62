"""Attention in plain einsums: `reference`, which is the definition, and `chunked`, which long rows need."""
import functools

import jax
import jax.numpy as jnp

_HIDDEN = -1e30           # a score that softmax turns into 0, finite so that a row of it makes no NaN
_CHUNKS = 8               # at most so many query chunks: each is unrolled, so that it can skip the keys behind it
SMALLEST_CHUNK = 256


def visible(positions: jax.Array, segment_ids: jax.Array | None, key_positions: jax.Array,
            key_segment_ids: jax.Array | None, window: int = 0) -> jax.Array:
    """Which keys each query sees, bool [B, T, S]: of its segment, at its position or before, inside the window."""
    distance = positions[:, :, None] - key_positions[:, None, :]
    seen = distance >= 0 if not window else (distance >= 0) & (distance < window)
    if segment_ids is not None and key_segment_ids is not None:
        seen &= key_segment_ids[:, None, :] == segment_ids[:, :, None]
    return seen


def reference(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, segment_ids: jax.Array | None,
              key_positions: jax.Array | None, key_segment_ids: jax.Array | None, window: int) -> jax.Array:
    """All scores [B, K, N/K, T, S] at once."""
    own = key_positions is None
    seen = visible(positions, segment_ids, positions if own else key_positions,
                   segment_ids if own else key_segment_ids, window)
    b, t, n, h = q.shape
    grouped = q.reshape(b, t, k.shape[2], n // k.shape[2], h)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32) * h ** -0.5
    scores = jnp.where(seen[:, None, None], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(b, t, n, h)


def chunked(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, segment_ids: jax.Array | None,
            key_positions: jax.Array | None, key_segment_ids: jax.Array | None, window: int) -> jax.Array:
    """The reference over chunks of queries, recomputed backward.

    In its own row, where a segment's positions grow by one a token, a chunk skips the keys behind its last query and
    those that the window hides from its first.
    """
    length = q.shape[1]
    size = max(SMALLEST_CHUNK, -(-length // _CHUNKS))
    own = key_positions is None
    step = jax.checkpoint(functools.partial(reference, window=window))
    chunks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        first, last = (max(0, start - window + 1) if window else 0, end) if own else (0, k.shape[1])
        mine, seen = functools.partial(_cut, start=start, end=end), functools.partial(_cut, start=first, end=last)
        chunks.append(step(mine(q), seen(k), seen(v), mine(positions), mine(segment_ids),
                           seen(positions) if own else key_positions,
                           seen(segment_ids) if own else key_segment_ids))
    return jnp.concatenate(chunks, axis=1)


def _cut(x: jax.Array | None, start: int, end: int) -> jax.Array | None:
    return None if x is None else x[:, start:end]
