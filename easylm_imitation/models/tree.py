"""Attention over rows of trees: texts that begin alike share the cells of their common beginning.

A row holds trees of tokens in depth-first order. A cell sees the cells on its path to the root: those at or before it
in the row whose subtree it lies in. One number a cell says that, the index where its subtree ends:

    texts  a b c | a b d | e      row  a b c d e      ends  4 4 3 4 5

What all trees of all rows have in common may stand before them in a cache, whose first `start` entries every cell sees.
"""
import jax
import jax.numpy as jnp

_HIDDEN = -1e30
_CHUNK = 256        # queries whose scores over their own rows exist at a time
_BLOCK = 256        # keys of the common beginning that are looked at at a time

Softmax = tuple[jax.Array, jax.Array, jax.Array]    # highest score, sum of weights, weighted sum of values, undivided


def attend_tree(q: jax.Array, k: jax.Array, v: jax.Array, before: tuple[jax.Array, jax.Array],
                place: tuple[jax.Array, ...], start: jax.Array, positions: jax.Array, ends: jax.Array,
                window: int = 0) -> jax.Array:
    """q [R, T, N, H], k and v [R, T, K, H] -> [R, T, N, H]; scores and softmax are fp32.

    `before`: a cache's keys and values [.., K, S, H]; at the indices `place` (of the layer, where layers are stacked,
    and of the row) begins the common beginning, of which the first `start` entries count, and what lies behind them
    costs nothing. `positions`, `ends` [R, T] int32: where a cell stands in its text, and where its subtree ends in the
    row. `window`: how many tokens a query sees, itself included; 0 is no limit.
    """
    k, v = _by_head(k), _by_head(v)
    grouped = jnp.einsum("rtkgh->rkgth", q.reshape(*q.shape[:2], k.shape[1], -1, q.shape[3])) * q.shape[-1] ** -0.5
    found = _own(grouped, k, v, positions, ends, window)
    _, total, out = _joined(found, _common(grouped, before, place, start, positions, window))
    out = jnp.einsum("rkgth->rtkgh", out / total[..., None]).astype(q.dtype)
    return out.reshape(*out.shape[:2], -1, out.shape[-1])


def _own(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, ends: jax.Array, window: int) -> Softmax:
    """Over the rows' own keys; q [R, K, G, T, H], k and v [R, K, T, H]."""
    parts = []
    for first in range(0, q.shape[3], _CHUNK):
        last = min(first + _CHUNK, q.shape[3])
        seen = _on_path(ends[:, :last], first, last) & _near(positions[:, first:last], positions[:, :last], window)
        parts.append(_part("rkmh,rksh->rkms", "rkms,rksh->rkmh", q[:, :, :, first:last], k[:, :, :last],
                           v[:, :, :last], seen[:, None, None]))
    return tuple(jnp.concatenate(same, axis=3) for same in zip(*parts))


def _common(q: jax.Array, before: tuple[jax.Array, jax.Array], place: tuple[jax.Array, ...], start: jax.Array,
            positions: jax.Array, window: int) -> Softmax:
    """Over the first `start` of keys that all rows share, block by block; q [R, K, G, T, H]."""
    # Folded so, since XLA's CPU backend takes five times as long with a copy of the keys for each row.
    q = jnp.swapaxes(q, 0, 1)
    heads, length, width = before[0].shape[-3:]
    size = min(_BLOCK, length)

    def part_of(kept: jax.Array, first: jax.Array) -> jax.Array:
        there = jax.lax.dynamic_slice(kept, (*place, 0, first, 0), (*(1 for _ in place), heads, size, width))
        return there.reshape(heads, size, width)

    def block(i: jax.Array, found: Softmax) -> Softmax:
        first = jnp.minimum(i * size, length - size)    # the last block may overlap the one before it
        places = first + jnp.arange(size)
        seen = (places >= i * size) & (places < start) & _near(positions, places[None], window)
        keys_values = (part_of(kept, first) for kept in before)
        part = _part("kmh,ksh->kms", "kms,ksh->kmh", q, *keys_values, seen if seen.ndim == 1 else seen[:, None])
        return _joined(found, part)

    none = jnp.zeros(q.shape[:-1], jnp.float32)
    found = jax.lax.fori_loop(0, (start + size - 1) // size, block,
                              (none + _HIDDEN, none, jnp.zeros(q.shape, jnp.float32)))
    return tuple(jnp.swapaxes(x, 0, 1) for x in found)


def _on_path(ends: jax.Array, first: int, last: int) -> jax.Array:
    """Whether cell i of first..last lies in the subtree of cell j, bool [R, last - first, last]."""
    i, j = jnp.arange(first, last)[:, None], jnp.arange(last)
    return (j <= i) & (i < ends[:, None, :])


def _near(positions: jax.Array, key_positions: jax.Array, window: int) -> jax.Array:
    distance = positions[:, :, None] - key_positions[:, None, :]
    return distance < window if window else jnp.ones((), bool)


def _part(scored: str, summed: str, q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> Softmax:
    """Attention over some of the keys, [..., S, H] with the first dims of q [..., H]."""
    folded = q.reshape(*k.shape[:-2], -1, q.shape[-1])
    scores = jnp.einsum(scored, folded, k.astype(q.dtype), preferred_element_type=jnp.float32)
    scores = jnp.where(seen, scores.reshape(*q.shape[:-1], -1), _HIDDEN)
    top = scores.max(-1)
    weights = jnp.exp(scores - top[..., None])
    out = jnp.einsum(summed, weights.reshape(*folded.shape[:-1], -1).astype(v.dtype), v,
                     preferred_element_type=jnp.float32)
    return top, weights.sum(-1), out.reshape(*q.shape)


def _joined(one: Softmax, other: Softmax) -> Softmax:
    """Two parts of one softmax as one."""
    top = jnp.maximum(one[0], other[0])
    shares = [jnp.exp(part[0] - top) for part in (one, other)]
    total = one[1] * shares[0] + other[1] * shares[1]
    return top, total, one[2] * shares[0][..., None] + other[2] * shares[1][..., None]


def _by_head(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, 1, 2)
