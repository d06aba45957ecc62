"""Kernels that are more than an array: with a low-rank adapter beside them, or in few bits.

Each stands where a kernel's array would, as one leaf of the parameters that holds several arrays. All of these have the
stacked layers' leading dim, so a loop over layers slices them as it slices arrays.
"""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

_OWN = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """kernel + scale * a b, never added up: x is multiplied by each (Hu et al. 2021, arXiv 2106.09685).

    `kernel` [d_in, *d_out]; `a` [d_in, R], `b` [R, *d_out]. `seeds` uint32 [B, 2], one for each row of activations, and
    `dropout`, the share of their entries that the adapter does not see; None for none.
    """
    kernel: Any
    a: jax.Array
    b: jax.Array
    seeds: jax.Array | None
    scale: float = dataclasses.field(metadata=_OWN)
    dropout: float = dataclasses.field(default=0.0, metadata=_OWN)

    def times(self, x: jax.Array) -> jax.Array:
        """x [B, T, d_in] -> what the adapter adds to the product, [B, T, *d_out] in the dtype of `x`."""
        if self.seeds is not None and self.dropout:
            x = _dropped(x, self.seeds, self.dropout)
        low = jnp.tensordot(x, self.a.astype(x.dtype), axes=1)
        return jnp.tensordot(low, self.b.astype(x.dtype), axes=1) * jnp.asarray(self.scale, x.dtype)

    def merged(self) -> jax.Array:
        """The sum as one array, in the kernel's dtype; taken in float32."""
        out = self.b.shape[self.a.ndim - 1:]
        wide = jnp.matmul(self.a.astype(jnp.float32), self.b.reshape(*self.b.shape[:self.a.ndim - 1], -1),
                          precision=jax.lax.Precision.HIGHEST)
        wide = self.scale * wide.reshape(*self.a.shape[:-1], *out)
        return (self.kernel.astype(jnp.float32) + wide).astype(self.kernel.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantised:
    """A kernel [d_in, *d_out] in 8 or 4 bits, for inference: values * scales + lows, by groups of rows.

    `values`: int8 [d_in, *d_out], or uint8 [d_in / 2, *d_out] with rows 2i and 2i + 1 in their low and high halves.
    `scales` float32 [groups, *d_out], and of 4 bits `lows`, what a value of 0 stands for. `turned`: a table, values
    [d_out, d_in] of 8 bits and scales [d_out, 1], that stands for the kernel which is its transpose.
    """
    values: jax.Array
    scales: jax.Array
    lows: jax.Array | None = None
    turned: bool = dataclasses.field(default=False, metadata=_OWN)

    @property
    def T(self) -> "Quantised":
        """The transposed kernel, of a table; the same numbers in the same places."""
        return dataclasses.replace(self, turned=not self.turned)

    def times(self, x: jax.Array) -> jax.Array:
        """x [..., d_in] times the kernel, [..., *d_out] in float32; multiplied in the dtype of `x`."""
        if self.turned:
            y = jnp.einsum("...d,vd->...v", x, self.values.astype(x.dtype), preferred_element_type=jnp.float32)
            return y * self.scales[:, 0]
        if self.lows is None:
            y = jnp.tensordot(x, self.values.astype(x.dtype), axes=1, preferred_element_type=jnp.float32)
            return y * self.scales[0]
        return jnp.tensordot(x, self.array(x.dtype), axes=1, preferred_element_type=jnp.float32)

    def rows(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Rows of a table, not turned: ids [...] -> [..., D]; ids beyond it are clipped."""
        values, scales = (jnp.take(part, ids, axis=0, mode="clip") for part in (self.values, self.scales))
        return (values.astype(jnp.float32) * scales).astype(dtype)

    def array(self, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """The kernel (of a table: the table) that these numbers stand for."""
        if self.lows is None:
            return (self.values.astype(jnp.float32) * self.scales).astype(dtype)
        out = self.values.shape[1:]
        whole = jnp.stack([self.values & 15, self.values >> 4], axis=1).reshape(2 * len(self.values), *out)
        grouped = whole.reshape(len(self.scales), -1, *out).astype(jnp.float32)
        return (grouped * self.scales[:, None] + self.lows[:, None]).reshape(whole.shape).astype(dtype)


def _dropped(x: jax.Array, seeds: jax.Array, share: float) -> jax.Array:
    """x [B, ...] with a share of its entries 0, the others larger for it. Each row has a seed of its own, so that a row
    loses the same entries whatever batch, micro-batch or device it is in."""
    def one(seed: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.wrap_key_data(seed), 1 - share, x.shape[1:])
    return jnp.where(jax.vmap(one)(seeds), x / (1 - share), jnp.zeros((), x.dtype))


def merged(params: Any) -> Any:
    """Parameters in which every adapted kernel is one array; others as they are."""
    return jax.tree.map(lambda leaf: leaf.merged() if isinstance(leaf, Adapted) else leaf, params, is_leaf=_is_adapted)


def _is_adapted(leaf: Any) -> bool:
    return isinstance(leaf, Adapted)
