"""Key-value caches as plain pytrees: {"k", "v"}, each one array [L, B, K, S, H], or a tuple of L arrays [B, K, S, H].

Heads stand before positions, so that a decode step reads each head's keys as they lie in memory: on CPU that is 2 to 8
times faster than [B, S, K, H], which would be turned around for every token. The stacked form rides in the carry of
the scan over layers (as scanned-over input and output it would be copied whole); the tuple goes with unstacked
parameters. Row b of a cache is one sequence; index s holds the token at position s.
"""
from typing import Any

import jax
import jax.numpy as jnp

Cache = dict[str, Any]


def make_cache(layers: int, rows: int, length: int, kv_heads: int, head_dim: int, dtype: jnp.dtype,
               stacked: bool) -> Cache:
    """A cache of zeros."""
    shape = (rows, kv_heads, length, head_dim)
    if stacked:
        return {name: jnp.zeros((layers, *shape), dtype) for name in ("k", "v")}
    return {name: tuple(jnp.zeros(shape, dtype) for _ in range(layers)) for name in ("k", "v")}


def write(cache: jax.Array, new: jax.Array, positions: jax.Array, layer: jax.Array | None = None,
          rows: jax.Array | None = None) -> jax.Array:
    """Puts new [B, T, K, H] at cache[(layer,) rows[b], :, positions[b, t]]; what lies beyond the cache is dropped.

    `rows` [B] are 0, 1, ... unless given.
    """
    rows = jnp.arange(new.shape[0]) if rows is None else rows
    where = (rows[:, None], slice(None), positions)
    return cache.at[where if layer is None else (layer, *where)].set(new.astype(cache.dtype), mode="drop")


def read(cache: jax.Array, layer: jax.Array | None, span: int | None, count: int,
         rows: jax.Array | None = None) -> jax.Array:
    """The first `span` positions of one layer, as attention takes keys and values: [B, span, K, H].

    Of the first `count` rows it is a view; of `rows` [B], clipped to those that exist, a copy.
    """
    if rows is not None:
        rows = jnp.clip(rows, 0, cache.shape[-4] - 1)
        this = cache[rows, :, :span] if layer is None else cache[layer, rows, :, :span]
    else:
        this = (cache if layer is None else cache[layer])[:count, :, :span]
    return jnp.swapaxes(this, 1, 2)


def put_rows(cache: Cache, other: Cache, start: jax.Array | int) -> Cache:
    """Copies all rows of `other`, a cache of the same form and at most this length, into rows start, start + 1, ..."""
    def put(into: jax.Array, part: jax.Array) -> jax.Array:
        lead = (0,) * (into.ndim - 4)
        return jax.lax.dynamic_update_slice(into, part.astype(into.dtype), (*lead, start, 0, 0, 0))
    return jax.tree.map(put, cache, other)
