"""Weights in fewer bits, for inference alone: int8 by output channel, or int4 by groups of 64 inputs.

Kernels of the layers are packed as asked; embedding and head, on which small models depend most, in int8 either way, a
row of the vocabulary at a time; norms, biases and positions stay as they are. No data is needed: of a few ranges for
each group the one that rounds best is taken.
"""
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from easylm_imitation.files import digest
from easylm_imitation.models import Params, Quantised
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, plain
from easylm_imitation.sharding import map_paths

Bits = Literal["none", "int8", "int4"]
GROUP = 64      # rows of a kernel that share a scale, in int4; fewer where they do not divide it
_LEAST = 16     # of fewer rows a group would take as much as int8
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)   # of a group's range that its 16 values are spread over


def quantised(params: Params, bits: Bits) -> Params:
    """Stacked parameters in few bits; "none" leaves them as they are. Raises UserError for kernels whose rows no
    group divides."""
    if bits == "none":
        return params
    return map_paths(functools.partial(_leaf, bits), params)


def lineage_in(lineage: Lineage, bits: Bits) -> Lineage:
    """Whose numbers these are: rounded weights are others, from the same base."""
    if bits == "none":
        return lineage
    own, name = digest([lineage.id, bits]), f"{lineage.name} ({bits})"
    itself = {"base": own, "base_name": name} if lineage.base == lineage.id else {}
    return Lineage(**plain(lineage) | {"id": own, "name": name, "teachers": lineage.teachers} | itself)


def _leaf(bits: Bits, path: str, leaf: jax.Array) -> Any:
    if path == "embed/embedding":
        return _int8_rows(leaf)
    if path == "unembed/kernel":
        return _int8(leaf, 0)
    if not (path.startswith("layers/") and path.endswith("/kernel")):
        return leaf
    if bits == "int4" and math.gcd(GROUP, leaf.shape[1]) < _LEAST:
        raise UserError(f"int4 packs rows in groups of {_LEAST} to {GROUP}, and none divides the {leaf.shape[1]} of "
                        f"'{path}'; choose int8")
    return _int8(leaf, 1) if bits == "int8" else _int4_layers(leaf)


@functools.partial(jax.jit, static_argnums=1)
def _int8(kernel: jax.Array, axis: int) -> Quantised:
    """A scale for each output: the largest of its column is 127."""
    wide = kernel.astype(jnp.float32)
    scales = jnp.max(jnp.abs(wide), axis=axis, keepdims=True) / 127
    values = jnp.round(wide / jnp.where(scales > 0, scales, 1)).astype(jnp.int8)
    return Quantised(values, scales)


def _int8_rows(table: jax.Array) -> Quantised:
    return _int8(table, 1)


@jax.jit
def _int4_layers(kernels: jax.Array) -> Quantised:
    """One layer at a time: the candidates of all would take many times the weights."""
    return jax.lax.map(_int4, kernels)


def _int4(kernel: jax.Array) -> Quantised:
    """[d_in, *out] to 16 values between the ends of each group's range, which is cut where that rounds better."""
    group = math.gcd(GROUP, kernel.shape[0])
    wide = kernel.astype(jnp.float32).reshape(-1, group, *kernel.shape[1:])
    low, high = wide.min(1, keepdims=True), wide.max(1, keepdims=True)
    best = None
    for share in _SHARES:
        found = _rounded(wide, share * low, share * high)
        best = found if best is None else jax.tree.map(
            functools.partial(jnp.where, found[0] < best[0]), found, best)
    _, values, scales, lows = best
    whole = values.astype(jnp.uint8).reshape(kernel.shape)
    return Quantised(whole[::2] | whole[1::2] << 4, scales[:, 0], lows[:, 0])


def _rounded(wide: jax.Array, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(squared error, values, scale, low) of groups [groups, group, *out] between these ends; scale and low are then
    those that fit the values best."""
    scale = jnp.maximum((high - low) / 15, 1e-12)
    values = jnp.clip(jnp.round((wide - low) / scale), 0, 15)
    centred = values - values.mean(1, keepdims=True)
    spread = jnp.sum(centred**2, 1, keepdims=True)
    scale = jnp.where(spread > 0, jnp.sum(centred * wide, 1, keepdims=True) / jnp.maximum(spread, 1e-12), scale)
    low = jnp.mean(wide - scale * values, 1, keepdims=True)
    error = jnp.sum((wide - scale * values - low)**2, 1, keepdims=True)
    return error, values, scale, low
