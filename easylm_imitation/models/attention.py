"""Attention with one signature and several backends, all equal to `reference`.

A query sees a key of the same segment at its own position or before. Positions restart in every segment of a
packed row; segment 0 is padding, which sees only padding, so that no row of scores is empty.
"""
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

_HIDDEN = -1e30           # a score that softmax turns into 0, finite so that a row of it makes no NaN
_CHUNKS = 8               # at most so many query chunks: each is unrolled, so that it can skip the keys behind it
_SMALLEST_CHUNK = 256

Backend = Callable[..., jax.Array]


def attention(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, segment_ids: jax.Array | None, *,
              key_positions: jax.Array | None = None, key_segment_ids: jax.Array | None = None,
              backend: str = "auto") -> jax.Array:
    """Causal attention within segments: q [B, T, N, H], k and v [B, S, K, H] -> [B, T, N, H], in the dtype of q.

    positions, segment_ids [B, T] int32; `segment_ids=None` is one segment a row. Keys are the queries' own row unless
    `key_positions` ([B, S] or [1, S]) says otherwise; in their own row keys stand in order, so later ones can be
    skipped. N is a multiple of K (grouped queries). Scores and softmax are fp32. Raises ValueError for an unknown
    backend.
    """
    if backend == "auto":
        backend = _choose(q, key_positions)
    if backend not in BACKENDS:
        raise ValueError(f"attention backend '{backend}' is not one of auto, {', '.join(BACKENDS)}")
    k, v = k.astype(q.dtype), v.astype(q.dtype)
    return BACKENDS[backend](q, k, v, positions, segment_ids, key_positions, key_segment_ids)


def _choose(q: jax.Array, key_positions: jax.Array | None) -> str:
    """`chunked` for a long row against itself: it halves the work and never holds all scores; else `reference`."""
    return "chunked" if key_positions is None and q.shape[1] >= 2 * _SMALLEST_CHUNK else "reference"


def _reference(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, segment_ids: jax.Array | None,
               key_positions: jax.Array | None, key_segment_ids: jax.Array | None) -> jax.Array:
    """All scores [B, K, N/K, T, S] at once."""
    own = key_positions is None
    key_positions = positions if own else key_positions
    key_segment_ids = segment_ids if own else key_segment_ids
    visible = key_positions[:, None, :] <= positions[:, :, None]                        # [B, T, S]
    if segment_ids is not None and key_segment_ids is not None:
        visible &= key_segment_ids[:, None, :] == segment_ids[:, :, None]
    b, t, n, h = q.shape
    grouped = q.reshape(b, t, k.shape[2], n // k.shape[2], h)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32) * h ** -0.5
    scores = jnp.where(visible[:, None, None], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(b, t, n, h)


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, segment_ids: jax.Array | None,
             key_positions: jax.Array | None, key_segment_ids: jax.Array | None) -> jax.Array:
    """The reference over chunks of queries, recomputed backward; in its own row a chunk skips later keys."""
    length = q.shape[1]
    size = max(_SMALLEST_CHUNK, -(-length // _CHUNKS))
    own = key_positions is None
    step = jax.checkpoint(_reference)
    chunks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        seen = end if own else k.shape[1]
        cut = functools.partial(_cut, start=start, end=end)
        chunks.append(step(
            cut(q), k[:, :seen], v[:, :seen], cut(positions), cut(segment_ids),
            positions[:, :seen] if own else key_positions,
            _cut(segment_ids, 0, seen) if own else key_segment_ids))
    return jnp.concatenate(chunks, axis=1)


def _cut(x: jax.Array | None, start: int, end: int) -> jax.Array | None:
    return None if x is None else x[:, start:end]


BACKENDS: dict[str, Backend] = {"reference": _reference, "chunked": _chunked}
