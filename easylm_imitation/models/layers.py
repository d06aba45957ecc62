"""Primitives that every family shares: linear maps, norms, embeddings. Rotary positions are in rope.py.

Parameters are kept in whatever dtype they come in (fp32 masters) and cast where they are used, to the dtype of the
activations, which flows from the embedding's output. Norms are computed in fp32.
"""
import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from easylm_imitation.models.kernels import Adapted, Quantised
from easylm_imitation.sharding import constrain, one_device, platform

_turned = contextvars.ContextVar("turned", default=False)


@contextlib.contextmanager
def turned_kernels() -> Iterator[None]:
    """While tracing inside, few rows are multiplied from the kernel's side: for kernels that are stored transposed.

    XLA's CPU backend packs the right factor of a product anew each time, which for few rows costs more than the
    product. With the weights on the left, and barriers that keep it from turning the product around again, 2 to 16
    rows take less than half of the CPU time. With kernels that lie as they are declared it would take twice as much.
    """
    token = _turned.set(True)
    try:
        yield
    finally:
        _turned.reset(token)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [rows, D] times kernel [D, F], in fp32 or the dtype of `x`, whichever is wider."""
    if not _turned.get():
        return jnp.einsum("bd,df->bf", x, kernel, preferred_element_type=jnp.float32)
    keep = jax.lax.optimization_barrier
    return keep(jnp.einsum("fd,bd->fb", kernel.T, keep(x), preferred_element_type=jnp.float32)).T


class Linear(nnx.Module):
    """`[..., d_in] -> [..., *d_out]`: a kernel [d_in, *d_out], normally distributed; optionally a bias of zeros."""

    def __init__(self, d_in: int, *d_out: int, std: float, bias: bool = False, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (d_in, *d_out)))
        if bias:
            self.bias = nnx.Param(jnp.zeros(d_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the map in the dtype of `x`."""
        kernel = self.kernel.get_value()
        adapted = isinstance(kernel, Adapted)
        y = _times(x, kernel.kernel if adapted else kernel)
        y = y + kernel.times(x) if adapted else y
        return y + self.bias[...].astype(x.dtype) if hasattr(self, "bias") else y


def _times(x: jax.Array, kernel: jax.Array | Quantised) -> jax.Array:
    """x [..., d_in] times kernel [d_in, *d_out], in the dtype of `x`."""
    if isinstance(kernel, Quantised):
        return kernel.times(x).astype(x.dtype)
    kernel = kernel.astype(x.dtype)
    if _turned.get() and kernel.ndim == 2:
        return product(x.reshape(-1, x.shape[-1]), kernel).astype(x.dtype).reshape(*x.shape[:-1], -1)
    return _apart_backward(jnp.tensordot(flat_rows(x), kernel, axes=1).reshape(*x.shape[:-1], *kernel.shape[1:]))


def flat_rows(x: jax.Array) -> jax.Array:
    """[..., D] -> [rows, D] on one device; on a mesh `x` itself, whose dims may be split over several axes.

    XLA's CPU backend takes the gradient of a kernel twice as fast from matrices: with more dims, it writes a transposed
    copy of the activations element by element.
    """
    return x.reshape(-1, x.shape[-1]) if one_device() else x


class Embedding(nnx.Module):
    """A table [rows, D], normally distributed."""

    def __init__(self, rows: int, d_model: int, *, std: float, rngs: nnx.Rngs):
        self.embedding = nnx.Param(std * jax.random.normal(rngs.params(), (rows, d_model)))

    def __call__(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """ids [...] -> [..., D] in `dtype`; ids beyond the table are clipped."""
        table = self.embedding.get_value()
        if isinstance(table, Quantised):
            return table.rows(ids, dtype)
        if ids.size >= len(table):      # else the rows that are looked up are less than the table
            table = constrain(table, "tensor", None)    # gather D first, else each looked-up row is reassembled
        return jnp.take(table, ids, axis=0, mode="clip").astype(dtype)  # cast last: the table is larger than the rows


def residual_std(std: float, layers: int) -> float:
    """What kernels start with that write into the residual stream: smaller, by the root of their number.

    Radford et al. 2019, section 2.3; Zhang et al. 2022, section 2.2.
    """
    return std / (2 * layers) ** 0.5


def _apart_backward(x: jax.Array) -> jax.Array:
    """`x`; on a TPU, what comes in backward is finished before what goes on begins.

    The compiler would join the elementwise work around a matrix product with it: a norm's sums after it, an
    activation's derivative before it, both of them computed anew for each tile of the product.
    """
    return _barrier_backward(x) if platform() == "tpu" else x


@jax.custom_vjp
def _barrier_backward(x: jax.Array) -> jax.Array:
    return x


_barrier_backward.defvjp(lambda x: (x, None), lambda _, slope: (jax.lax.optimization_barrier(slope),))


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last dim (Zhang and Sennrich 2019), in fp32."""

    def __init__(self, d_model: int, eps: float):
        self.scale = nnx.Param(jnp.ones(d_model))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in the dtype of `x`."""
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return _apart_backward((wide * self.scale[...].astype(jnp.float32)).astype(x.dtype))


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias over the last dim, in fp32."""

    def __init__(self, d_model: int, eps: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(d_model))
        self.bias = nnx.Param(jnp.zeros(d_model))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in the dtype of `x`."""
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)


class TokenEnds(nnx.Module):
    """What stands before a family's first layer and after its last. The family makes the parts and adds `start`."""

    embed: Embedding
    final_norm: nnx.Module
    unembed: Linear         # where the head is not the embedding

    def norm(self, x: jax.Array) -> jax.Array:
        """The final norm."""
        return self.final_norm(x)

    def head(self) -> jax.Array | Quantised:
        """The head's kernel [D, V]."""
        return self.unembed.kernel.get_value() if hasattr(self, "unembed") else self.embed.embedding.get_value().T
