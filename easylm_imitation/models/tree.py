"""Attention over rows of trees: texts that begin alike share the cells of their common beginning.

A row holds trees of tokens in depth-first order. A cell sees the cells on its path to the root: those at or before it
in the row whose subtree it lies in. One number a cell says that, the index where its subtree ends:

    texts  a b c | a b d | e      row  a b c d e      ends  4 4 3 4 5

What all trees of all rows have in common may stand before them in a cache, whose first `start` entries every cell sees.
"""
import functools

import jax
import jax.numpy as jnp

_HIDDEN = -1e30
_CHUNK = 256        # queries whose scores exist at a time


def attend_tree(q: jax.Array, k: jax.Array, v: jax.Array, before: tuple[jax.Array, jax.Array], start: jax.Array,
                positions: jax.Array, ends: jax.Array, window: int = 0) -> jax.Array:
    """q [R, T, N, H], k and v [R, T, K, H] -> [R, T, N, H]; scores and softmax are fp32.

    `before`: keys and values [K, S, H] of the common beginning, S may be 0; its first `start` ([] int32) count.
    `positions`, `ends` [R, T] int32: where a cell stands in its text, and where its subtree ends in the row. `window`:
    how many tokens a query sees, itself included; 0 is no limit.
    """
    k, v, length = _by_head(k), _by_head(v), q.shape[1]
    grouped = q.reshape(*q.shape[:2], k.shape[1], -1, q.shape[3])
    parts = []
    for first in range(0, length, _CHUNK):
        last = min(first + _CHUNK, length)
        mine = positions[:, first:last]
        own = _on_path(ends[:, :last], first, last) & _near(mine, positions[:, :last], window)
        shared = (jnp.arange(before[0].shape[1]) < start) & _near(mine, jnp.arange(before[0].shape[1])[None], window)
        parts.append(_attend(grouped[:, first:last], (k[:, :, :last], v[:, :, :last]), before, own, shared))
    return jnp.concatenate(parts, axis=1)


def _on_path(ends: jax.Array, first: int, last: int) -> jax.Array:
    """Whether cell i of first..last lies in the subtree of cell j, bool [R, last - first, last]."""
    i, j = jnp.arange(first, last)[:, None], jnp.arange(last)
    return (j <= i) & (i < ends[:, None, :])


def _near(positions: jax.Array, key_positions: jax.Array, window: int) -> jax.Array:
    distance = positions[:, :, None] - key_positions[:, None, :]
    return distance < window if window else jnp.ones((), bool)


def _attend(q: jax.Array, own: tuple[jax.Array, jax.Array], before: tuple[jax.Array, jax.Array], own_seen: jax.Array,
            before_seen: jax.Array) -> jax.Array:
    """One softmax over keys that lie in two places; q [R, t, K, G, H]."""
    q = jnp.einsum("rtkgh->rkgth", q) * q.shape[-1] ** -0.5
    top, total, out = _part("rkmh,rksh->rkms", "rkms,rksh->rkmh", q, *own, own_seen[:, None, None])
    if before[0].shape[1]:
        # Keys that all rows share: folded so, since XLA's CPU backend takes five times as long with rows of their own.
        seen = before_seen if before_seen.ndim == 1 else before_seen[:, None]
        other = _part("kmh,ksh->kms", "kms,ksh->kmh", jnp.swapaxes(q, 0, 1), *before, seen)
        top, total, out = _joined((top, total, out), [jnp.swapaxes(x, 0, 1) for x in other])
    out = jnp.einsum("rkgth->rtkgh", out / total[..., None]).astype(q.dtype)
    return out.reshape(*out.shape[:2], -1, out.shape[-1])


def _part(scored: str, summed: str, q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array
          ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Attention over some of the keys, [..., S, H] with the first dims of q [..., H]: the highest score, the sum of
    weights and the weighted sum of values, not divided yet."""
    folded = q.reshape(*k.shape[:-2], -1, q.shape[-1])
    scores = jnp.einsum(scored, folded, k.astype(q.dtype), preferred_element_type=jnp.float32)
    scores = jnp.where(seen, scores.reshape(*q.shape[:-1], -1), _HIDDEN)
    top = scores.max(-1)
    weights = jnp.exp(scores - top[..., None])
    out = jnp.einsum(summed, weights.reshape(*folded.shape[:-1], -1).astype(v.dtype), v,
                     preferred_element_type=jnp.float32)
    return top, weights.sum(-1), out.reshape(*q.shape)


def _joined(*parts: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Parts of one softmax as one."""
    top = functools.reduce(jnp.maximum, (part[0] for part in parts))
    shares = [jnp.exp(part[0] - top) for part in parts]
    total = sum(part[1] * share for part, share in zip(parts, shares))
    return top, total, sum(part[2] * share[..., None] for part, share in zip(parts, shares))


def _by_head(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, 1, 2)
